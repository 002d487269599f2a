//! A compiler that knows the macOS targets.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::debian;
use crate::error::{Failure, Result};
use crate::process::Run;
use crate::progress::Steps;

/// The targets that are checked. The first one is also linked.
pub(crate) const TARGETS: [&str; 2] = ["aarch64-apple-darwin", "x86_64-apple-darwin"];

/// Debian's compiler and the source of its standard library. They come in one version, newer than `rustc`.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Where the standard library for macOS comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// rustup has installed it for every target.
    Installed,
    /// Debian's packages bring its source, and cargo builds it.
    Debian,
}

impl Toolchain {
    /// Finds a toolchain, or installs Debian's packages where that is possible.
    pub(crate) fn find(steps: &mut Steps) -> Result<Self> {
        if TARGETS.iter().all(|target| has_library(target)) {
            return Ok(Self::Installed);
        }
        Self::debian(steps)
    }

    /// Debian's packages, which bring the source of the standard library too.
    pub(crate) fn debian(steps: &mut Steps) -> Result<Self> {
        if !debian::is_debian() {
            return Err(missing());
        }
        if !debian_packages_installed() {
            if !debian::can_install() {
                return Err(missing());
            }
            debian::install(steps, &DEBIAN_PACKAGES)?;
        }
        let version = Run::new(DEBIAN_RUSTC).arg("--version").output()?;
        let wanted = env!("CARGO_PKG_RUST_VERSION");
        if numbers(&version) < numbers(wanted) {
            return Err(Failure::new(format!(
                "{DEBIAN_RUSTC} is {}; needed is {wanted}",
                version.trim()
            ))
            .hint(format!(
                "apt-get update; apt-get install {}",
                DEBIAN_PACKAGES.join(" ")
            )));
        }
        Ok(Self::Debian)
    }

    /// The subcommand that type-checks: clippy, which checks more, where the toolchain has it.
    pub(crate) fn check(self) -> &'static str {
        let has_clippy = match self {
            Self::Installed => Run::cargo().args(["clippy", "--version"]).output().is_ok(),
            Self::Debian => Path::new(DEBIAN_CLIPPY).exists(),
        };
        if has_clippy { "clippy" } else { "check" }
    }

    /// Cargo with a subcommand for a target.
    pub(crate) fn cargo(self, subcommand: &str, target: &str) -> Run {
        let run = match self {
            Self::Installed => Run::cargo().arg(subcommand),
            Self::Debian => Run::new(match subcommand {
                // By name, cargo would find another toolchain's.
                "clippy" => DEBIAN_CLIPPY,
                _ => DEBIAN_CARGO,
            })
            .args([subcommand, "-Zbuild-std"])
            .env("RUSTC", DEBIAN_RUSTC)
            // Building the standard library is not stable; this admits it on a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            // The cargo that runs this program sets its own, which clippy would call.
            .env("CARGO", DEBIAN_CARGO)
            .env_remove("RUSTDOC")
            .env_remove("RUSTUP_TOOLCHAIN"),
        };
        run.args(["--target", target])
    }
}

fn missing() -> Failure {
    let targets = TARGETS.join(" ");
    let packages = DEBIAN_PACKAGES.join(" ");
    Failure::new("there is no source of Rust's standard library on this machine").hint(format!(
        "on Debian, as root, `apt-get install {packages}`; for macOS also `rustup target add {targets}`"
    ))
}

/// Whether the compiler on `PATH` has a compiled standard library for the target.
fn has_library(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let asked = Run::new(rustc)
        .args(["--print", "target-libdir", "--target", target])
        .output();
    let Ok(entries) = asked.and_then(|printed| {
        let directory = Path::new(printed.trim());
        fs::read_dir(directory).map_err(|error| Failure::file("read", directory, &error))
    }) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn debian_packages_installed() -> bool {
    let asked = Run::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Abbrev} ${Version}\n"])
        .args(DEBIAN_PACKAGES)
        .output();
    asked.is_ok_and(|printed| same_version(&printed))
}

/// Whether every line says `ii VERSION` with one and the same version.
fn same_version(printed: &str) -> bool {
    let mut lines = printed.lines();
    let Some(first) = lines.next() else {
        return false;
    };
    first.starts_with("ii ") && lines.all(|line| line == first)
}

/// The first word of the form `1.96.0` as numbers; empty when there is none.
fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace()
        .map(|word| {
            word.split('.')
                .map_while(|part| part.parse().ok())
                .collect::<Vec<u32>>()
        })
        .find(|parts| parts.len() >= 2)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(
            numbers("rustc 1.96.0 (abc 2026-01-01) (built from a source tarball)"),
            [1, 96, 0]
        );
        assert!(numbers("rustc 1.96.0") >= numbers("1.90"));
        assert!(numbers("rustc 1.9.0") < numbers("1.90"));
        assert!(numbers("no version") < numbers("1.90"));
    }

    #[test]
    fn packages_must_be_installed_in_one_version() {
        assert!(same_version("ii  1.96\nii  1.96\nii  1.96\n"));
        assert!(!same_version("ii  1.96\nii  1.85\nii  1.96\n"));
        assert!(!same_version("rc  1.96\nrc  1.96\nrc  1.96\n"));
        assert!(!same_version(""));
    }
}
