//! `weldpool doctor`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command.arg("doctor").args(arguments).stdin(Stdio::null());
    command
}

/// Examines devices quickly; what it printed, and the report.
fn examine(arguments: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let output = command(arguments)
        .args(["--quick", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    (output, read(&file))
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn steps(report: &Value) -> &[Value] {
    report["devices"][0]["steps"].as_array().unwrap()
}

fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut steps = steps(report).iter();
    steps.find(|step| step["step"] == name).unwrap()
}

/// The fields that the documentation has a row for, under a heading.
fn documented(heading: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor.md");
    let page = std::fs::read_to_string(file).unwrap();
    let (_, section) = page.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned())
        .collect()
}

fn assert_fields(value: &Value, heading: &str) {
    let fields: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(fields, documented(heading).iter().collect::<Vec<_>>());
}

/// Every text in a report.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(values) => values.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[test]
fn the_host_and_a_fake_pass_and_the_report_is_as_documented() {
    for (device, class) in [("host", "host"), ("fake:apple", "software")] {
        let (output, report) = examine(&["--device", device]);
        let stdout = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{stdout}");
        let last = stdout.lines().last().unwrap();
        assert!(
            last.starts_with("HEALTHY") || last.starts_with("ATTENTION"),
            "{stdout}"
        );
        assert_eq!(report["schema"], "weldpool-doctor/1");
        assert_eq!(report["interrupted"], false);
        assert_fields(&report, "Report");
        assert_fields(&report["environment"], "Environment");
        let examined = &report["devices"][0];
        assert_fields(examined, "Device");
        assert_eq!(examined["class"], class);
        assert_eq!(examined["facts"]["kind"], device);
        for step in steps(&report) {
            assert_fields(step, "Step");
            let outcome = step["outcome"].as_str().unwrap();
            assert!(["passed", "not_applicable"].contains(&outcome), "{step}");
        }
        assert!(
            step(&report, "stress")["message"]
                .as_str()
                .unwrap()
                .contains("programs")
        );
        let measures = examined["measures"].as_array().unwrap();
        for bench in ["P1", "P6", "P7", "patterns"] {
            assert!(measures.iter().any(|one| one["bench"] == bench), "{bench}");
        }
        for measure in measures {
            assert_fields(measure, "Measure");
            assert!(measure["ours"].as_f64().unwrap() > 0.0, "{measure}");
            if class == "software" {
                assert_eq!(measure["bar_verdict"], "not_judged");
            }
        }
        let barred = measures.iter().find(|one| !one["bar"].is_null()).unwrap();
        assert_fields(&barred["bar"], "Bar");
    }
}

/// Each is reported, in its own way, and everything else still runs.
#[test]
fn cases_that_go_wrong_are_told_and_the_rest_runs() {
    let all = ["panic", "abort", "hang", "fault", "violation"];
    let inject = all.map(|how| format!("--inject={how}"));
    let mut arguments = vec!["--device=fake:apple"];
    arguments.extend(inject.iter().map(String::as_str));
    let (output, report) = examine(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout)
            .lines()
            .last()
            .unwrap()
            .starts_with("BROKEN")
    );
    assert_eq!(report["verdict"], "broken");
    for (how, outcome, said) in [
        ("panic", "failed", "it was to fail"),
        ("abort", "died", "signal 6"),
        ("hang", "timed_out", "it ran for 3 s"),
        ("fault", "failed", "a fault was injected"),
        (
            "violation",
            "failed",
            "rules of the driver were broken: Granularity",
        ),
    ] {
        let name = format!("suite:injected::{how}");
        let step = step(&report, &name);
        assert_eq!(step["outcome"], outcome, "{step}");
        assert!(step["message"].as_str().unwrap().contains(said), "{step}");
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|one| one["where"] == *name).unwrap();
        assert_fields(finding, "Finding");
        assert_eq!(finding["level"], "broken");
    }
    let rest = steps(&report).iter().filter(|step| {
        let name = step["step"].as_str().unwrap();
        !name.starts_with("suite:injected")
    });
    let fine =
        |step: &Value| ["passed", "not_applicable"].contains(&step["outcome"].as_str().unwrap());
    assert!(
        rest.clone().count() > 10 && rest.clone().all(fine),
        "{report}"
    );
    // Nobody learns where it ran: the message of the first names a folder.
    let mut found = Vec::new();
    texts(&report, &mut found);
    let wrong = found
        .iter()
        .find(|text| text.contains("/home") || text.contains("/tmp"));
    assert_eq!(wrong, None);
}

#[test]
fn names_that_do_not_exist_are_told_at_once_and_devices_that_are_absent_are_findings() {
    let output = command(&["--device", "host", "--device", "abacus"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let stderr = text(&output.stderr);
    let error = "error: there is no device \"abacus\"; there are host, metal, cuda";
    assert!(stderr.contains(error), "{stderr}");
    // No machine has so many.
    let (output, report) = examine(&["--device", "cuda:65535"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(report["verdict"], "broken");
    let said = report["findings"][0]["what"].as_str().unwrap();
    assert!(said.starts_with("it cannot be opened: "), "{said}");
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_anything_is_examined() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing").join("report.json");
    let start = Instant::now();
    let output = command(&["--device=host", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    let error = format!("error: cannot write {}: No such file", file.display());
    assert!(stderr.starts_with(&error), "{stderr}");
    assert!(output.stdout.is_empty() && start.elapsed() < Duration::from_secs(3));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let output = command(&["--device=host", "--quick", "--json=/dev/full"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("error: cannot write /dev/full: No space left"),
        "{stderr}"
    );
}

#[cfg(unix)]
#[test]
fn an_interruption_leaves_a_report() {
    use rustix::process::{Pid, Signal, kill_process};

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    for signal in [Signal::INT, Signal::TERM] {
        let mut child = command(&["--device=host", "--quick", "--inject=hang", "--json"])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The steps of the device begin, of which the first hangs.
        let mut begins = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut begins).unwrap();
        assert!(begins.starts_with("host: "), "{begins}");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let report = read(&file);
        assert_eq!(report["interrupted"], true);
        assert_eq!(report["verdict"], "attention");
        assert_eq!(step(&report, "facts")["outcome"], "passed");
        let rest = steps(&report).iter().skip(1);
        assert!(rest.clone().count() > 10);
        assert!(
            rest.clone().all(|step| step["outcome"] == "not_run"),
            "{report}"
        );
        assert!(text(&output.stdout).contains("was interrupted"));
        std::fs::remove_file(&file).unwrap();
    }
}

/// Steps end with whoever runs them.
#[cfg(unix)]
#[test]
fn a_step_ends_when_nobody_waits_for_it() {
    let mut child = command(&["--device=host", "--step=suite:injected::hang"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
}
