//! The allocation suite, shortly: every contender in every case it claims, in the documented form.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use weldpool_bench::alloc::{Case, Contender, Field, MAPPINGS, Workload};
use weldpool_bench::machine::Machine;

#[test]
fn every_contender_has_a_figure_in_every_case_it_claims() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alloc.json");
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["alloc", "--quick", "--commit", "0123abc", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();

    assert_eq!(report["suite"], "alloc");
    assert_eq!(
        report["command"],
        "cargo xtask bench alloc --quick --json FILE"
    );
    for field in ["date", "machine", "versions", "config", "bars", "samples"] {
        assert!(!report[field].is_null(), "no {field}");
    }
    assert_eq!(report["versions"]["commit"], "0123abc");
    let config = report["config"]["weldpool"].as_str().unwrap();
    assert!(config.starts_with("Config {"), "{config}");

    let cases = Case::all(Machine::this().cores, true);
    let rows = report["rows"].as_array().unwrap();
    let (mappings, rows) = rows.split_last().unwrap();
    assert_eq!(mappings["case"], MAPPINGS);
    assert!(mappings["ours"].as_f64().unwrap() > 0.0, "{mappings}");
    let bars = report["bars"].as_array().unwrap();
    let mappings = bars.iter().find(|bar| bar["bar"] == "mappings").unwrap();
    assert_eq!(mappings["met"], true, "{mappings}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains(config),
        "the configuration is not shown: {text}"
    );

    assert_eq!(rows.len(), cases.len());
    for (row, case) in rows.iter().zip(cases) {
        assert_eq!(row["case"], case.to_string());
        assert_eq!(row["unit"], case.unit());
        // What recording adds is a difference of two times, which on a busy machine may come out below zero.
        let ours = row["ours"].as_f64().unwrap();
        assert!(ours > 0.0 || case.workload == Workload::Recorded, "{row}");
        assert_eq!(row["ratio"].is_null(), case.field == Field::Seeing, "{row}");
        let claimed = Contender::of(&case, false).into_iter();
        let claimed: BTreeSet<&str> = claimed
            .filter(|c| c.is_peer())
            .map(Contender::name)
            .collect();
        let peers = row["peers"].as_object().unwrap();
        assert_eq!(
            peers.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            claimed
        );
        assert!(
            peers.values().all(|value| value.as_f64().unwrap() > 0.0),
            "{row}"
        );
    }
    let unmeasured = report["missing"].as_array().unwrap().iter();
    let unmeasured: Vec<_> = unmeasured
        .filter(|text| !text.as_str().unwrap().contains("suballocators"))
        .collect();
    assert!(unmeasured.is_empty(), "{unmeasured:?}");
}

#[test]
fn mistakes_are_named() {
    let fails = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(arguments)
            .output();
        let output = output.unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let filter = fails(&["alloc", "--filter", "no such case"]);
    assert!(
        filter.contains("no case has \"no such case\" in its name"),
        "{filter}"
    );
    let times = ["--warm-up", "0.001", "--samples", "0.001"];
    let worker = |contender: &str, case: &str| {
        let named = ["alloc-worker", "--contender", contender, "--case", case];
        fails(&[named.as_slice(), times.as_slice()].concat())
    };
    assert!(worker("nobody", "pair, 256 B").contains("no contender \"nobody\""));
    assert!(worker("weldpool", "nothing").contains("no case \"nothing\""));
    assert!(worker("rlsf", "mixed sizes, 1 thread").contains("threads can share"));
}

#[test]
fn a_missing_valgrind_is_named_with_the_way_to_get_it() {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .arg("instructions")
        .env("PATH", "")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("apt-get install valgrind"), "{errors}");
}

#[test]
fn pairs_can_be_made_for_counting() {
    let run = |contender: &str, pairs: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.args(["pairs", "--bytes", "65536", "--pairs", pairs]);
        command
            .args(["--contender", contender])
            .status()
            .unwrap()
            .success()
    };
    assert!(run("weldpool", "100"));
    assert!(
        !run("rlsf", "100"),
        "it hands out ranges, not memory of the host"
    );
}
