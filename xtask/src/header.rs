//! `cargo xtask header`: writes the C header from the sources of libweldpool, or compares it.
//!
//! cbindgen does it, in an example of that crate, so that xtask stays free of dependencies.

use crate::arguments::Arguments;
use crate::error::Result;
use crate::paths::Paths;
use crate::process::Run;
use crate::progress::Steps;

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    steps.show("crates/weldpool-capi/include/weldpool.h", program(paths))?;
    steps.done("header");
    Ok(())
}

/// Fails when the committed header is another than the sources say.
pub(crate) fn check(paths: &Paths) -> Run {
    program(paths).args(["--", "--check"])
}

fn program(paths: &Paths) -> Run {
    Run::cargo().directory(paths.root()).args([
        "run",
        "--quiet",
        "--package",
        "weldpool-capi",
        "--example",
        "header",
    ])
}
