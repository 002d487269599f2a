//! `cargo xtask loom`: the small concurrent kernels under the model checker.

use crate::arguments::Arguments;
use crate::error::Result;
use crate::paths::Paths;
use crate::process::Run;
use crate::progress::Steps;

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    check(paths, &mut steps)?;
    steps.done("loom");
    Ok(())
}

pub(crate) fn check(paths: &Paths, steps: &mut Steps) -> Result<()> {
    let loom = Run::cargo()
        .directory(paths.root())
        .args(["test", "--package", "weldpool", "--test", "loom"])
        .compiled_with("--cfg loom", &paths.variant("loom"));
    steps.log("check the concurrent kernels with loom", loom)
}
