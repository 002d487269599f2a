//! `weldpool infer`, compared with onnxruntime's own Python interface.

use std::process::Output;

use crate::models::{Folder, file, python, weldpool};

fn infer(model: &str, options: &[&str]) -> Output {
    weldpool()
        .arg("infer")
        .arg(file(model))
        .args(options)
        .output()
        .unwrap()
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Makes an input, runs the program on it, and has Python compare.
#[test]
fn files_go_in_and_out_bit_for_bit() {
    let folder = Folder::new("infer");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |script: &str, arguments: &[&str]| {
        let output = python()
            .arg("-c")
            .arg(script)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for model in [
        "simple_cnn",
        "residual_block",
        "string_identity",
        "fp16_identity",
    ] {
        let model_path = file(model).to_str().unwrap().to_owned();
        let names = run(
            "import sys, numpy as np, onnxruntime as ort\n\
             session = ort.InferenceSession(sys.argv[1])\n\
             one = session.get_inputs()[0]\n\
             shape = [d if isinstance(d, int) else 2 for d in one.shape]\n\
             data = np.random.default_rng(7).random(shape)\n\
             kinds = {'tensor(float)': 'f4', 'tensor(float16)': 'f2', 'tensor(string)': 'U'}\n\
             np.save(sys.argv[2], data.astype(kinds[one.type]))\n\
             print(one.name)",
            &[&model_path, &path("input.npy")],
        );
        let input = format!("{names}={}", path("input.npy"));
        let output = infer(model, &["--input", &input, "--output-dir", &path(model)]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("p50") && text.contains("live"), "{text}");
        run(
            "import sys, os, numpy as np, onnxruntime as ort\n\
             session = ort.InferenceSession(sys.argv[1])\n\
             data = np.load(sys.argv[2])\n\
             feed = data.astype(object) if data.dtype.kind == 'U' else data\n\
             for spec, expected in zip(session.get_outputs(), session.run(None, {sys.argv[4]: feed})):\n\
             \x20   got = np.load(os.path.join(sys.argv[3], spec.name + '.npy'))\n\
             \x20   if expected.dtype == object: expected = expected.astype('S')\n\
             \x20   assert got.dtype == expected.dtype and got.shape == expected.shape, (got, expected)\n\
             \x20   assert got.tobytes() == expected.tobytes(), spec.name",
            &[&model_path, &path("input.npy"), &path(model), &names],
        );
    }
}

#[test]
fn inputs_are_made_up_and_runs_repeated() {
    let output = infer("identity_fp32", &["--repeat", "20", "--seed", "3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("then 20 runs"), "{text}");
}

#[test]
fn what_is_wrong_is_one_line() {
    let folder = Folder::new("infer-errors");
    folder.write("broken.npy", "nonsense");
    folder.write("broken.onnx", "nonsense");
    let broken = folder
        .path()
        .join("broken.npy")
        .to_str()
        .unwrap()
        .to_owned();
    let cases: [(&[&str], &str); 8] = [
        (&["--input", "nope=zeros"], "nope"),
        (&["--input", "x"], "'='"),
        (&["--shape", "nope:1"], "nope"),
        (&["--output", "nope"], "nope"),
        (&["--parameter", "nope=1"], "nope"),
        (
            &["--parameter", "intra_op_thread_count=many"],
            "intra_op_thread_count",
        ),
        (&["--repeat", "0"], "--repeat"),
        (&["--input", &format!("x={broken}")], "broken.npy"),
    ];
    for (options, part) in cases {
        let output = infer("identity", options);
        assert!(!output.status.success(), "{options:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let model = folder.path().join("broken.onnx");
    let output = weldpool().arg("infer").arg(&model).output().unwrap();
    assert!(error_of(&output).contains("broken.onnx"));
    let output = weldpool().args(["infer", "missing.onnx"]).output().unwrap();
    assert!(error_of(&output).contains("missing.onnx"));
    let mut command = weldpool();
    let output = command
        .env("ORT_DYLIB_PATH", "/nonexistent")
        .arg("infer")
        .arg(&model)
        .output();
    assert!(error_of(&output.unwrap()).contains("/nonexistent"));
}

#[cfg(unix)]
#[test]
fn output_that_is_not_read_or_has_no_room_is_no_panic() {
    let run = |stdout: std::process::Stdio| {
        let mut command = weldpool();
        let command = command.arg("infer").arg(file("identity"));
        command
            .stdout(stdout)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap()
    };
    crate::output::assert_quiet(&run(crate::output::closed().into()), "infer");
    #[cfg(target_os = "linux")]
    crate::output::assert_error(&run(crate::output::full().into()), "infer");
}
