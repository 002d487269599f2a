//! `cargo xtask bench SUITE`: runs a suite of crates/weldpool-bench in its release build.

use std::path::Path;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::{Failure, Result};
use crate::paths::{Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

/// Suites that serve models with the program `weldpool`, and so need what it needs.
const SERVING: [&str; 2] = ["serve", "soak"];
/// Peers that only these suites build.
const FEATURES: [(&str, &str); 2] = [
    ("alloc", "allocators,suballocators"),
    ("instructions", "allocators"),
];

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
    let suite_arguments = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
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
    bench = bench.args(suite_arguments);
    if SERVING.contains(&suite.as_str()) {
        bench = Environment::prepare(paths, &mut steps, Profile::Release)?.apply(bench);
    }
    steps.show(&format!("bench {suite}"), bench)?;
    steps.done("bench");
    Ok(())
}
