//! `cargo xtask bench SUITE`: runs a suite of crates/weldpool-bench in its release build.

use std::path::Path;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::{Failure, Result};
use crate::guest::{ControlGroups, Guest};
use crate::paths::{self, Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

/// Suites that serve models with the program `weldpool`, and so need what it needs.
const SERVING: [&str; 3] = ["serve", "soak", "triton"];
/// Peers that only these suites build.
const FEATURES: [(&str, &str); 2] = [
    ("alloc", "allocators,suballocators"),
    ("instructions", "allocators"),
];

/// What writes no report.
const WITHOUT_REPORT: [&str; 3] = ["soak", "echo", "help"];

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let suite = arguments.positional().ok_or_else(|| {
        Failure::new("bench needs the name of a suite").hint("`cargo xtask bench help` names them")
    })?;
    // The suite runs in the root of the checkout; the file is meant where the command was given.
    let json = match arguments.value("--json")? {
        Some(file) => Some(
            std::path::absolute(&file)
                .map_err(|error| Failure::file("resolve", Path::new(&file), &error))?,
        ),
        None => None,
    };
    let quick = arguments.flag("--quick");
    let filter = arguments.value("--filter")?;
    let minutes = arguments.value("--minutes")?;
    let mut steps = Steps::new(paths.logs());
    if suite == "pressure" && !arguments.passes_on("--group") {
        let groups = control_groups(arguments.value("--control-groups")?)?;
        let report = press(paths, &mut steps, groups, quick, &arguments.finish()?)?;
        if let Some(json) = json {
            paths::write(&json, &report)?;
        }
        steps.done("bench");
        return Ok(());
    }
    let suite_arguments = arguments.finish()?;
    let mut bench = Run::cargo().directory(paths.root()).args([
        "run",
        "--release",
        "--package",
        "weldpool-bench",
        "--bin",
        "bench",
    ]);
    for (_, feature) in FEATURES.iter().filter(|(name, _)| *name == suite) {
        bench = bench.args(["--features", feature]);
    }
    bench = bench.args(["--", &suite]);
    if let Some(json) = json {
        bench = bench.arg("--json").arg(json);
    }
    if let Some(filter) = filter {
        bench = bench.args(["--filter", &filter]);
    }
    if let Some(minutes) = minutes {
        bench = bench.args(["--minutes", &minutes]);
    }
    if quick {
        bench = bench.arg("--quick");
    }
    if !WITHOUT_REPORT.contains(&suite.as_str()) {
        bench = bench.args(["--commit", &commit(paths)]);
    }
    bench = bench.args(suite_arguments);
    if SERVING.contains(&suite.as_str()) {
        bench = Environment::prepare(paths, &mut steps, Profile::Release)?.apply(bench);
    }
    steps.show(&format!("bench {suite}"), bench)?;
    steps.done("bench");
    Ok(())
}

/// The commit that is measured, and whether files of the program differ from it; "unknown" outside a repository.
pub(crate) fn commit(paths: &Paths) -> String {
    let git = |arguments: &[&str]| {
        let run = Run::new("git").directory(paths.root()).args(arguments);
        run.output().ok().map(|text| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return "unknown".to_owned();
    };
    // Not documents, among which the report itself may be.
    let program = [
        "status",
        "--porcelain",
        "--",
        "crates",
        "Cargo.toml",
        "Cargo.lock",
    ];
    match git(&program) {
        Some(changed) if changed.is_empty() => commit,
        _ => format!("{commit}, with changes"),
    }
}

fn control_groups(version: Option<String>) -> Result<ControlGroups> {
    match version.as_deref() {
        None | Some("2") => Ok(ControlGroups::Two),
        Some("1") => Ok(ControlGroups::One),
        Some(other) => Err(Failure::new(format!("--control-groups {other}"))
            .hint("control groups have the versions 1 and 2")),
    }
}

/// Runs the suite of memory pressure in a machine of its own; returns the report.
fn press(
    paths: &Paths,
    steps: &mut Steps,
    groups: ControlGroups,
    quick: bool,
    passed_on: &[String],
) -> Result<String> {
    let guest = Guest::prepare(paths, steps)?;
    let build = Run::cargo()
        .directory(paths.root())
        .args(["build", "--release", "--package", "weldpool-bench"])
        .args(["--bin", "bench"]);
    steps.log("build the suite", build)?;
    let mut command = "cargo xtask bench pressure --json FILE".to_owned();
    if groups == ControlGroups::One {
        command.push_str(" --control-groups 1");
    }
    let mut arguments: Vec<String> = ["pressure", "--group", "/sys/fs/cgroup"]
        .map(str::to_owned)
        .into();
    arguments.extend(["--json", "/dev/ttyS1"].map(str::to_owned));
    arguments.extend(["--commit".to_owned(), commit(paths)]);
    if quick {
        command.push_str(" --quick");
        arguments.push("--quick".to_owned());
    }
    if !passed_on.is_empty() {
        command.push_str(" -- ");
        command.push_str(&passed_on.join(" "));
        arguments.extend_from_slice(passed_on);
    }
    arguments.extend(["--command".to_owned(), command]);
    let program = paths.binary(Profile::Release, "bench");
    guest.run(steps, &program, &arguments, groups)
}
