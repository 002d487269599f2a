//! The response allocator for C and C++, in programs that have Triton's functions themselves. The server itself is in the
//! tests of `weldpool-response-allocator`.

use std::process::Command;

use super::build::{With, compile, succeed};

fn run(program: &str) {
    for with in [With::Shared, With::AddressSanitizer] {
        assert_eq!(
            succeed(&mut Command::new(compile(program, with))),
            "right\n"
        );
    }
}

#[test]
fn the_response_allocator_serves_as_triton_calls_it() {
    run("tests/c/triton.c");
}

#[test]
fn the_wrapper_of_the_response_allocator_keeps_its_promises() {
    run("tests/c/triton.cpp");
}
