//! The server under 10,000 mixed requests: each answered as it should be, and nothing kept.
#![cfg(target_os = "linux")]

use weldpool_bench::{ours, soak};

#[test]
fn ten_thousand_requests_leave_no_trace() {
    let program = ours::program().unwrap_or_else(|error| panic!("{error}"));
    let outcome = soak::serve_and_run(&program, &soak::Options::default())
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{}", outcome.summary());
    let failures = outcome.failures();
    assert!(
        failures.is_empty(),
        "{}\n{}",
        outcome.summary(),
        failures.join("\n")
    );
}
