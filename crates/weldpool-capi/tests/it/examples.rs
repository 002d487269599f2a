//! The examples, and the test of the interface, on every device that needs no hardware.

use std::path::Path;
use std::process::Command;

use super::build::{With, compile, folder, succeed};

const DEVICES: [&str; 3] = ["host", "fake:discrete", "fake:apple"];

/// Runs a program on all devices; each of its runs prints this at its end, or somewhere.
fn on_all_devices(program: &Path, prints: &str) {
    for device in DEVICES {
        on(Command::new(program), program, device, prints);
    }
}

fn on(mut command: Command, program: &Path, device: &str, prints: &str) {
    let name = program
        .file_name()
        .unwrap()
        .to_string_lossy()
        .replace(':', "-");
    let trace = folder().join(format!("{name}-{}.wpt", device.replace(':', "-")));
    let printed = succeed(command.arg(device).arg(&trace));
    assert!(printed.contains(prints), "{command:?} printed {printed}");
    assert!(std::fs::metadata(&trace).unwrap().len() > 0);
}

#[test]
fn the_interface_keeps_its_promises() {
    on_all_devices(&compile("tests/c/abi.c", With::Shared), "right");
}

#[test]
fn the_interface_keeps_its_promises_under_address_sanitizer() {
    on_all_devices(&compile("tests/c/abi.c", With::AddressSanitizer), "right");
}

#[test]
fn the_interface_keeps_its_promises_where_it_is_linked_statically() {
    on_all_devices(&compile("tests/c/abi.c", With::Static), "right");
}

#[test]
fn the_wrapper_for_cpp_keeps_its_promises() {
    for with in [With::Shared, With::AddressSanitizer] {
        on_all_devices(&compile("tests/c/wrapper.cpp", with), "right");
    }
}

#[test]
fn the_example_in_c_runs() {
    for with in [With::Shared, With::AddressSanitizer] {
        on_all_devices(&compile("examples/pool.c", with), "all freed");
    }
}

#[test]
fn the_example_in_cpp_runs() {
    for with in [With::Shared, With::AddressSanitizer] {
        on_all_devices(&compile("examples/pool.cpp", with), "64 events");
    }
}

/// Where valgrind is installed; AddressSanitizer does not see into the library, valgrind does.
#[test]
fn valgrind_finds_no_error_in_the_example() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed");
        return;
    }
    let program = compile("examples/pool.c", With::Shared);
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .args([
            "--show-leak-kinds=definite",
            "--errors-for-leak-kinds=definite",
        ])
        .arg(&program);
    on(valgrind, &program, "host", "all freed");
}
