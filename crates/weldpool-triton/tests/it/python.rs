//! Runs the tests that are written in Python, because Triton's clients are.

use std::path::Path;
use std::process::Command;

use crate::backend::{self, Places};

/// Runs a test file of `tests/python`.
fn run(file: &str) {
    let Some(places) = backend::places() else {
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let output = command(places)
        .arg(folder.join(file))
        .output()
        .expect("Python starts");
    assert!(
        output.status.success(),
        "{file}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn command(places: &Places) -> Command {
    let mut command = Command::new(&places.python);
    command
        .arg("-B")
        .env("WELDPOOL_TRITON_SERVER", &places.server)
        .env("WELDPOOL_TRITON_BACKENDS", &places.backends)
        .env("WELDPOOL_PERF_ANALYZER", places.perf_analyzer.program())
        .env(
            "WELDPOOL_PERF_ANALYZER_LIBRARIES",
            places.perf_analyzer.libraries(),
        )
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

#[test]
fn models_answer_as_onnxruntime_does() {
    run("test_results.py");
}

#[test]
fn models_come_and_go() {
    run("test_lifecycle.py");
}

#[test]
fn what_goes_wrong_is_answered() {
    run("test_failures.py");
}

#[test]
fn load_is_borne() {
    run("test_load.py");
}
