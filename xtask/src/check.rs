//! `cargo xtask check`: everything that can be said about the sources without running the product.

use crate::arguments::Arguments;
use crate::error::Result;
use crate::paths::Paths;
use crate::process::Run;
use crate::progress::Steps;
use crate::{dependencies, header, metal_rules, unsafe_list};

pub(crate) fn run(paths: &Paths, arguments: Arguments) -> Result<()> {
    arguments.finish_all()?;
    let mut steps = Steps::new(paths.logs());
    let cargo = || Run::cargo().directory(paths.root());
    steps.show("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    steps.work("files with unsafe code", || {
        unsafe_list::check(paths.root())
    })?;
    steps.work("docs/metal.md", || metal_rules::check(paths.root()))?;
    steps.work("dependency direction", || dependencies::check(paths.root()))?;
    steps.show(
        "clippy",
        cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    steps.show(
        "documentation",
        cargo()
            .args(["doc", "--workspace", "--no-deps"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    steps.show("weldpool.h", header::check(paths))?;
    steps.done("check");
    Ok(())
}
