//! `weldpool replay`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn weldpool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command.args(arguments).output().unwrap()
}

/// The smallest of the recorded traces.
pub(crate) fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../weldpool/tests/data/traces/gnn_train.csv.gz")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn json_has_an_object_per_trace_with_the_promised_names() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small.csv");
    std::fs::write(
        &small,
        "op,id,bytes,stream,t_us\na,0,1048576,0,0\nf,0,1048576,0,5\nf,9,1,0,6\na,1,100,2,7\n",
    )
    .unwrap();
    let output = weldpool(&[
        "replay",
        recorded().to_str().unwrap(),
        small.to_str().unwrap(),
        "--format",
        "json",
        "--stream-latency-us",
        "50",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let objects: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects.len(), 2);
    for object in &objects {
        for name in [
            "trace",
            "events",
            "allocs",
            "peak_live_bytes",
            "peak_reserved_bytes",
            "reserved_over_live",
            "internal_waste",
            "external_waste",
            "driver_calls",
            "driver_ns",
            "growths",
            "hit_rate",
            "mean_ns",
            "p50_ns",
            "p99_ns",
            "failures",
            "first_failure",
            "stalls",
            "skipped_frees",
            "preset",
            "device",
            "threads",
            "limit",
            "stream_latency_us",
        ] {
            assert!(object.get(name).is_some(), "{name} is missing in {object}");
        }
        assert!(!object.to_string().contains("Config"), "{object}");
        assert_eq!(object["device"], "host");
        assert_eq!(object["preset"], "fine");
        assert_eq!(object["stream_latency_us"], 50);
    }
    assert_eq!(objects[0]["events"], 19_899);
    assert_eq!(objects[0]["allocs"], 9_951);
    assert_eq!(objects[0]["peak_live_bytes"], 2_519_256_820_u64);
    assert_eq!(objects[0]["failures"], 0);
    assert_eq!(objects[1]["skipped_frees"], 1);
    assert!(text(&output.stderr).contains("1 frees of memory allocated before"));
}

#[test]
fn every_preset_can_be_chosen() {
    let trace = recorded();
    for preset in ["fine", "seed", "pooling", "adaptive"] {
        let trace = trace.to_str().unwrap();
        let output = weldpool(&["replay", trace, "--preset", preset, "--format", "json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["preset"], preset);
        assert_eq!(object["failures"], 0);
        // Powers of two waste more than the fine classes.
        let rounded = matches!(preset, "seed" | "pooling");
        assert_eq!(
            object["internal_waste"].as_f64().unwrap() > 0.01,
            rounded,
            "{object}"
        );
    }
}

#[test]
fn the_table_names_configuration_and_trace() {
    let trace = recorded();
    let output = weldpool(&[
        "replay",
        trace.to_str().unwrap(),
        "--preset",
        "seed",
        "--threads",
        "2",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let heading =
        "device host, preset seed (19 size classes up to 64.00 MiB instead of 1792), threads 2";
    assert!(stdout.starts_with(heading), "{stdout}");
    assert!(stdout.lines().all(|line| line.len() < 160), "{stdout}");
    assert!(
        stdout.lines().last().unwrap().starts_with("gnn_train "),
        "{stdout}"
    );
}

/// The exit status tells them from a replay that served all.
#[test]
fn a_limit_is_kept_and_failures_are_said() {
    let trace = recorded();
    let arguments = [
        "replay",
        trace.to_str().unwrap(),
        "--limit",
        "1G",
        "--format",
        "json",
    ];
    let output = weldpool(&arguments);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["limit"], 1 << 30);
    let failures = object["failures"].as_u64().unwrap();
    assert!(failures > 0);
    assert!(object["peak_reserved_bytes"].as_u64().unwrap() <= 1 << 30);
    let first = object["first_failure"].as_str().unwrap();
    assert!(first.contains("us of the trace: the limit"), "{first}");

    let output = weldpool(&arguments[..4]);
    assert_eq!(output.status.code(), Some(3));
    let stderr = text(&output.stderr);
    let warning = format!("{failures} of 9951 allocations failed");
    for part in [
        "warning: ",
        "gnn_train.csv.gz",
        &warning,
        "only what was allocated",
    ] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
    let stdout = text(&output.stdout);
    let row = stdout.lines().last().unwrap();
    assert!(row.contains(&format!(" {failures}! ")), "{row}");
    let help = text(&weldpool(&["replay", "--help"]).stdout);
    assert!(
        help.contains("3 when allocations of a replay failed"),
        "{help}"
    );
}

#[test]
fn what_does_not_exist_is_named() {
    let trace = recorded();
    let trace = trace.to_str().unwrap();
    for (arguments, part, status) in [
        (
            &["replay", trace, "--device", "abacus"][..],
            "there are host",
            2,
        ),
        (&["replay", trace, "--preset", "rough"], "there are fine", 2),
        (
            &["replay", trace, "--limit", "much"],
            "KiB, MiB, GiB or TiB",
            2,
        ),
        (
            &["replay", "missing.csv"],
            "error: missing.csv: the trace cannot be opened: No such file or directory",
            1,
        ),
        (&["replay"], "FILE", 2),
        (&["trace", "show", trace, "-o", "x.jpg"], "x.jpg", 2),
        (&["trace", "convert", trace, "x.unknown"], "--to", 2),
    ] {
        let output = weldpool(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}

#[test]
fn the_dashboard_is_plain_and_the_metrics_have_a_pool_per_trace() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = folder.path().join("metrics.txt");
    let trace = recorded();
    let trace = trace.to_str().unwrap();
    let output = weldpool(&[
        "replay",
        trace,
        trace,
        "--dashboard",
        "--prometheus",
        metrics.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(stdout.is_ascii(), "no terminal, no block characters");
    assert_eq!(stdout.matches("Size classes: peak bytes held").count(), 2);
    let metrics = std::fs::read_to_string(metrics).unwrap();
    for pool in ["gnn_train", "gnn_train (2)"] {
        let line = format!("weldpool_pool_live_bytes{{pool=\"{pool}\"}} 0\n");
        assert_eq!(metrics.matches(&line).count(), 1, "{pool}");
    }
    assert_eq!(
        metrics.matches("# TYPE weldpool_pool_live_bytes ").count(),
        1
    );

    let output = weldpool(&["replay", trace, "--dashboard", "--format", "json"]);
    let stdout = text(&output.stdout);
    assert!(
        stdout
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert!(text(&output.stderr).contains("hit rate"));
}
