//! `cargo xtask test`: every test of the workspace, with everything they look for in place.

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::Result;
use crate::paths::{Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;
use crate::{loom, mutants};

/// Random programs of operations on the allocator are replayed for so long.
const ALLOC_OPS_SECONDS: &str = "60";

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let filter = arguments.value("--filter")?;
    let everything = filter.is_none();
    let harness_arguments = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    let environment = Environment::prepare(paths, &mut steps, Profile::Debug)?;
    let tests = Run::cargo()
        .directory(paths.root())
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--features",
            "weldpool-bench/allocators",
        ])
        .args(filter)
        .arg("--")
        .args(harness_arguments);
    let tests = tests.env("WELDPOOL_ALLOC_OPS_SECONDS", ALLOC_OPS_SECONDS);
    steps.show("run the tests", environment.apply(tests))?;
    if everything {
        loom::check(paths, &mut steps)?;
        mutants::check(paths, &mut steps)?;
    }
    steps.done("test");
    Ok(())
}
