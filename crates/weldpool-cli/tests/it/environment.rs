//! The variables that the program heeds.

use std::process::{Command, Output};

fn infer(name: &str, value: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command
        .args(["infer", "no-such-model.onnx"])
        .env(name, value);
    command.output().unwrap()
}

#[test]
fn wrong_values_are_one_line_that_names_the_variable() {
    for (name, value) in [
        ("METAL_ALLOCATOR_DEBUG", "loud"),
        ("METAL_ALLOCATOR_STATS", "xml"),
        ("METAL_DEVICE_ID", "17"),
        ("METAL_DEVICE_ID", "gpu"),
    ] {
        let output = infer(name, value);
        assert!(!output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.starts_with(&format!("error: {name} is {value:?}; ")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn statistics_are_printed_on_exit() {
    for (value, part) in [
        ("1", "host:0: live 0"),
        ("full", "Recommendations|HEALTHY"),
        ("json", "{\"allocator\":\"host:0\""),
    ] {
        // The model does not exist; the pool does, and is dropped.
        let output = infer("METAL_ALLOCATOR_STATS", value);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            part.split('|').any(|part| text.contains(part)),
            "{value}: {text}"
        );
    }
    let output = infer("METAL_ALLOCATOR_STATS", "0");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("host:0"), "{text}");
}

#[test]
fn the_default_device_is_the_one_named() {
    for (value, name) in [
        ("0", "host:0"),
        ("host:0", "host:0"),
        ("fake:apple", "fake:apple:0"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
        command
            .args(["infer", "no-such-model.onnx"])
            .env("METAL_DEVICE_ID", value)
            .env("METAL_ALLOCATOR_STATS", "1");
        let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(text.contains(&format!("{name}: live 0")), "{value}: {text}");
    }
}

#[test]
fn log_lines_have_the_level_asked_for() {
    // A library that cannot be loaded: if no other is found, that is told when debugging.
    let python = tempfile::tempdir().unwrap();
    let folder = python.path().join("Lib/site-packages/onnxruntime/capi");
    std::fs::create_dir_all(&folder).unwrap();
    let name = if cfg!(target_os = "macos") {
        "libonnxruntime.dylib"
    } else {
        "libonnxruntime.so"
    };
    std::fs::write(folder.join(name), "no library").unwrap();
    for (value, told) in [
        ("0", false),
        ("warn", false),
        ("1", true),
        ("debug", true),
        ("2", true),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
        command
            .args(["infer", "no-such-model.onnx"])
            .env("VIRTUAL_ENV", python.path())
            .env("METAL_ALLOCATOR_DEBUG", value)
            .env_remove("ORT_DYLIB_PATH")
            .env_remove("RUST_LOG");
        let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert_eq!(text.contains("DEBUG"), told, "{value}: {text}");
    }
}
