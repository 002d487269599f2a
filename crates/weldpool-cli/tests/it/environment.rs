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
