//! The response allocator for C. The server itself is in the tests of `weldpool-response-allocator`.

use std::process::Command;

use super::build::{folder, pkg_config, prefix, source, succeed};

/// Compiles and runs `tests/c/triton.c`, which has Triton's functions itself and shows them to the library.
fn run(name: &str, options: &[&str]) {
    let program = folder().join(name);
    let mut compile = Command::new("cc");
    compile
        .args([
            "-std=c11",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-rdynamic",
        ])
        .args(options)
        .args(pkg_config("--cflags"))
        .arg(source("tests/c/triton.c"))
        .arg("-o")
        .arg(&program)
        .args(pkg_config("--libs"))
        .arg(format!("-Wl,-rpath,{}", prefix().join("lib").display()));
    succeed(&mut compile);
    assert_eq!(succeed(&mut Command::new(program)), "right\n");
}

#[test]
fn the_response_allocator_serves_as_triton_calls_it() {
    run("triton", &[]);
}

#[test]
fn the_response_allocator_serves_under_address_sanitizer() {
    let options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    run("triton-sanitized", &options);
}
