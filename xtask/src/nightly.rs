//! The nightly toolchain, which the sanitizers and the fuzzer need.

use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::process::Run;

/// The target must be named, so that build scripts are not instrumented.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Its cargo with a subcommand, or why there is none.
pub(crate) fn cargo(subcommand: &str, flags: &str) -> Result<Run> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Failure::new(format!("this needs {TARGET}")));
    }
    let run = Run::new("rustup").args(["run", "nightly", "cargo"]);
    run.arg("--version").output().map_err(|failure| {
        failure.hint("`rustup toolchain install nightly` installs the toolchain")
    })?;
    let run = Run::new("rustup")
        .args(["run", "nightly", "cargo", subcommand, "--target", TARGET])
        .env("RUSTFLAGS", flags)
        // Set by the cargo that runs this program, for its own toolchain.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTDOC")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN");
    Ok(run)
}

/// A library that comes with its compiler.
pub(crate) fn library(name: &str) -> Result<PathBuf> {
    let asked = Run::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "target-libdir"])
        .args(["--target", TARGET])
        .env_remove("RUSTUP_TOOLCHAIN");
    let directory = asked.output().map_err(|failure| {
        failure.hint("`rustup toolchain install nightly` installs the toolchain")
    })?;
    let file = Path::new(directory.trim()).join(name);
    if file.exists() {
        return Ok(file);
    }
    Err(Failure::new(format!("the nightly toolchain has no {name}")))
}
