//! Runs the tests that are written in Python, because Triton's client is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, str};

/// A variable that the tests cannot do without.
fn required(name: &str, what: &str) -> PathBuf {
    match env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => {
            panic!("{name} is not set: it names {what}; run these tests with `cargo xtask test`")
        }
    }
}

/// Runs a test file of `tests/python`.
fn run(file: &str) {
    let python = required(
        "WELDPOOL_TEST_PYTHON",
        "a Python with tritonclient, numpy, onnx and onnxruntime",
    );
    let program = required("WELDPOOL_BIN", "the program weldpool");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let output = Command::new(python)
        .arg("-B")
        .arg(folder.join(file))
        .env("WELDPOOL_BIN", program)
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .output()
        .expect("Python starts");
    assert!(
        output.status.success(),
        "{file}: {}\n{}\n{}",
        output.status,
        str::from_utf8(&output.stdout).unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn tritons_client_is_served() {
    run("test_http.py");
}
