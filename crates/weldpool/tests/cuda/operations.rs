//! Arbitrary operations on the GPU, held against a model.

use std::time::{Duration, Instant};

use weldpool_testkit::alloc_ops;

use super::cuda;

/// How long random programs run.
const DURATION: Duration = Duration::from_secs(20);

#[test]
fn random_programs_run() {
    let end = Instant::now() + DURATION;
    let mut number = 1;
    while Instant::now() < end {
        // Shown when the test fails.
        println!("program {number}");
        alloc_ops::run_on(cuda(), &alloc_ops::random_program(number));
        number += 1;
    }
    eprintln!("{number} programs");
}
