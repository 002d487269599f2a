#!/bin/sh
# usage: run.sh test|check|bench|rmm|torch|record ...
# Results go to $OUT, or the folder that this lies in. All are run; the exit status is that of the last that failed. The
# status of each is a line of parts.txt, for record.
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here}
cd "$here" || exit 1
failed=0
for what in "$@"; do
  case $what in
    test) ./cuda-tests --test-threads 1 > "$out/tests.txt" 2>&1; code=$?; tail -4 "$out/tests.txt" ;;
    # The modules named, and the device suite of handles. Left out are growth, operations, the device suite of
    # segments, a context lost on purpose, and a wait that is held against the clock, which the checker slows down.
    # Tests that have the driver refuse calls are part of it, so refusals are not reported.
    check) compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 ./cuda-tests --test-threads 1 \
             reuse:: device:: streams:: capture:: pinned:: sharing:: \
             --skip pinned::a_caller_waits_ten_milliseconds > "$out/memcheck.txt" 2>&1; code=$?
           tail -4 "$out/memcheck.txt" ;;
    bench) ./bench gpu --commit "$(cat commit)" --wheels "$here/wheels" --json "$out/gpu.json" \
             > "$out/gpu.txt" 2> "$out/gpu.log"; code=$?; cat "$out/gpu.txt" ;;
    rmm) w="$here/wheels"; cccl="$w/nvidia/cu13/include/cccl"
         { nvcc -O2 -std=c++17 -I "$here/include" -I "$cccl" -I "$w/librmm/include" -I "$w/rapids_logger/include" \
           "$here/rmm_vector.cu" -L "$w/librmm/lib64" -lrmm -L "$w/rapids_logger/lib64" -lrapids_logger \
           -L "$here" -lweldpool -Xlinker "-rpath=$w/librmm/lib64:$w/rapids_logger/lib64:$here" -o "$here/rmm_vector" &&
           "$here/rmm_vector"; } > "$out/rmm.txt" 2>&1; code=$?; cat "$out/rmm.txt" ;;
    torch) : > "$out/torch.jsonl"; code=0
           for allocator in native expandable "$here/libweldpool.so"; do
             python3 torch_train.py "$allocator" >> "$out/torch.jsonl" || code=1
           done ;;
    # What the others found, in one file; those of rmm and torch are in it whole.
    record) python3 record.py "$(cat commit)" "$out"; code=$? ;;
    *) echo "$what is none of test, check, bench, rmm, torch and record" >&2; code=2 ;;
  esac
  [ "$what" = record ] || echo "$what $code" >> "$out/parts.txt"
  [ "$code" = 0 ] || failed=$code
done
exit "$failed"
