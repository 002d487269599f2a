"""Puts what run.sh's test, check, rmm and torch found into gpu-tests.json: `record.py COMMIT FOLDER`.

What did not run, or has no result in its file, is null. Fails if anything that ran did not pass: if a part ended with
another status than 0 or has a file without a result in it, a test failed, under the memory checker too, the checker counted
an error, a sum was wrong, or PyTorch's results differ.
"""

import datetime
import json
import pathlib
import re
import subprocess
import sys

commit, folder = sys.argv[1], pathlib.Path(sys.argv[2])


def text(name):
    try:
        return (folder / name).read_text(errors="replace")
    except FileNotFoundError:
        return None


def cards():
    """Name, memory and driver of each GPU, as nvidia-smi says."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [[part.strip() for part in line.split(",")] for line in said.splitlines() if line.strip()]


def counts(said):
    """What the test harness counted at its end, and which tests failed."""
    pattern = r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored; .*?(?:finished in ([\d.]+)s)?$"
    results = re.findall(pattern, said, re.MULTILINE)
    if not results:
        return None
    passed, failed, ignored, seconds = results[-1]
    return {
        "passed": int(passed),
        "failed": int(failed),
        "ignored": int(ignored),
        "seconds": float(seconds) if seconds else None,
        "failures": sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED$", said, re.MULTILINE))),
        "skipped": re.findall(r"^\w+: .* was skipped: .*$", said, re.MULTILINE),
    }


def memcheck(said):
    """The tests that ran under the memory checker, and the errors that it counted in all processes."""
    errors = [int(count) for count in re.findall(r"ERROR SUMMARY: (\d+) error", said)]
    return {"errors": sum(errors) if errors else None, "processes": len(errors), "tests": counts(said)}


def rmm(said):
    wrong = re.search(r"^(\d+) sums wrong", said, re.MULTILINE)
    return {"sums_wrong": int(wrong.group(1)) if wrong else None, "said": said.strip()[-600:]}


def torch(said):
    """A line each: the figures, and whether losses and inference are the first one's to the last bit."""
    runs = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    for run in runs:
        run["as_the_first"] = all(run.get(key) == runs[0].get(key) for key in ("losses", "inference"))
    for run in runs:
        losses = run.pop("losses", [])
        run["steps"], run["last_loss"] = len(losses), losses[-1] if losses else None
    return runs


def part(name, read):
    said = text(name)
    return None if said is None else read(said)


def exits(said):
    """The last exit status of each part."""
    return {name: int(code) for name, code in (line.split() for line in said.splitlines())}


gpus = cards()
record = {
    "commit": commit,
    "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "driver": gpus[0][2] if gpus else None,
    "devices": [f"{name}, {memory}" for name, memory, _ in gpus],
    "exits": part("parts.txt", exits),
    "tests": part("tests.txt", counts),
    "memcheck": part("memcheck.txt", memcheck),
    "rmm": part("rmm.txt", rmm),
    "torch": part("torch.jsonl", torch),
}
(folder / "gpu-tests.json").write_text(json.dumps(record, indent=2) + "\n")
for name in ("rmm.txt", "torch.jsonl", "parts.txt"):
    (folder / name).unlink(missing_ok=True)
print(json.dumps(record))



def passed(tests):
    return tests is not None and tests["failed"] == 0


passes = {
    "exits": lambda exits: not any(exits.values()),
    "tests": passed,
    "memcheck": lambda checked: checked["errors"] == 0 and passed(checked["tests"]),
    "rmm": lambda sums: sums["sums_wrong"] == 0,
    "torch": lambda runs: len(runs) == 3 and all(run["as_the_first"] for run in runs),
}
wrong = [name for name, passes_as in passes.items() if record[name] is not None and not passes_as(record[name])]
# A file of tests without a count says that they did not get to their end.
if record["tests"] is None and text("tests.txt") is not None:
    wrong.append("tests")
if wrong:
    print(f"did not pass: {', '.join(wrong)}", file=sys.stderr)
sys.exit(1 if wrong else 0)
