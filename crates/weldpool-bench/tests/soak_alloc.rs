//! The allocator's endurance test, for as long as a test may take.

use std::time::Duration;

use weldpool_bench::soak_alloc::{self, Options};

#[test]
fn twenty_seconds_leave_nothing_behind() {
    let report = soak_alloc::run(&Options {
        duration: Duration::from_secs(20),
        threads: 3,
        seed: 1,
        command: "cargo test".into(),
    })
    .unwrap();
    println!("{}\n{}", report.table(), report.samples);
    // Beside other tests nobody can say how long anything takes; the rest must hold.
    let not_met: Vec<String> = report
        .bars
        .iter()
        .filter(|bar| !bar.met && !bar.case.starts_with("latency"))
        .map(ToString::to_string)
        .collect();
    assert_eq!(not_met, [""; 0]);
    let did = |what: &str| report.samples["did"][what].as_u64();
    for feature in [
        "collections",
        "pressure_changes",
        "pressure_changes_told",
        "pressure_returned_bytes",
        "out_of_memory_callbacks",
        "backtraces_shown",
    ] {
        assert!(did(feature) > Some(0), "{feature}: {}", report.samples);
    }
    assert!(report.samples["remaps"].as_u64() > Some(0));
    assert!(report.samples["recorded"]["events"].as_u64() > Some(0));
}
