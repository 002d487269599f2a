//! `cargo xtask bench SUITE`: runs a suite of crates/weldpool-bench against the release build.

use std::path::Path;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::{Failure, Result};
use crate::paths::{Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

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
    let suite_arguments = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    let environment = Environment::prepare(paths, &mut steps, Profile::Release)?;
    let mut bench = Run::cargo()
        .directory(paths.root())
        .args([
            "run",
            "--release",
            "--package",
            "weldpool-bench",
            "--bin",
            "bench",
            "--",
        ])
        .arg(&suite);
    if let Some(json) = json {
        bench = bench.arg("--json").arg(json);
    }
    steps.show(
        &format!("bench {suite}"),
        environment.apply(bench.args(suite_arguments)),
    )?;
    steps.done("bench");
    Ok(())
}
