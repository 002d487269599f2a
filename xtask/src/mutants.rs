//! `cargo xtask mutants`: each wait that ordered reuse depends on, and each line that keeps a rule of Metal's, is taken away
//! once, and a test must notice.

mod build;
mod rules;
mod waits;

use self::build::Built;
use crate::arguments::Arguments;
use crate::error::Result;
use crate::paths::Paths;
use crate::progress::Steps;

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    check(paths, &mut steps)?;
    steps.done("mutants");
    Ok(())
}

/// Builds once with a switch for each mutation, and runs the tests without any, then with each.
pub(crate) fn check(paths: &Paths, steps: &mut Steps) -> Result<()> {
    let built = Built::new(paths, steps)?;
    waits::check(&built, steps)?;
    rules::check(paths, &built, steps)
}
