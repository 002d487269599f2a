//! Builds this crate's shared libraries and says where they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// The target directory of the build that this program comes from.
///
/// # Errors
/// `Environment` when the program does not lie in one.
pub fn target_directory() -> Result<PathBuf> {
    let program =
        std::env::current_exe().map_err(|error| Error::io("locating this program", error))?;
    // TARGET/PROFILE/bench, or TARGET/PROFILE/deps/TEST-HASH.
    let mut directory = program.parent();
    if directory.is_some_and(|directory| directory.ends_with("deps")) {
        directory = directory.and_then(Path::parent);
    }
    directory
        .and_then(Path::parent)
        .map(Path::to_owned)
        .ok_or_else(|| {
            let message = format!("{} is not in a target directory", program.display());
            Error::new(ErrorKind::Environment, message)
        })
}

/// Builds the example `name` of this crate, a `cdylib`, in release form and returns the library's path.
///
/// # Errors
/// `Environment` when the build fails or makes no library; cargo's own messages go to standard error.
pub fn build_library(name: &str) -> Result<PathBuf> {
    build(
        name,
        &[
            "--release",
            "--package",
            env!("CARGO_PKG_NAME"),
            "--example",
            name,
        ],
    )
}

/// Builds the library target `name` of another package of the workspace, a `cdylib`, in the form that `options`
/// ask for, and returns its path. Another build with other options overwrites it.
///
/// # Errors
/// As [`build_library`].
pub fn build_package_library(package: &str, name: &str, options: &[&str]) -> Result<PathBuf> {
    build(name, &[&["--lib", "--package", package], options].concat())
}

/// Builds the example `name` of another package of the workspace, a `cdylib`, in release form and returns the library's
/// path.
///
/// # Errors
/// As [`build_library`].
pub fn build_package_example(package: &str, name: &str) -> Result<PathBuf> {
    build(
        name,
        &["--release", "--package", package, "--example", name],
    )
}

fn build(name: &str, options: &[&str]) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet"])
        .args(options)
        .args(["--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(target_directory()?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| Error::caused(ErrorKind::Environment, "running cargo", error))?;
    if !output.status.success() {
        let message = format!("building {name} failed");
        return Err(Error::new(ErrorKind::Environment, message));
    }
    library_in(&String::from_utf8_lossy(&output.stdout), name).ok_or_else(|| {
        let message = format!("building {name} made no shared library");
        Error::new(ErrorKind::Environment, message)
    })
}

/// Finds the shared library of target `name` in cargo's JSON messages.
fn library_in(messages: &str, name: &str) -> Option<PathBuf> {
    let suffix = std::env::consts::DLL_EXTENSION;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| {
            file.extension()
                .is_some_and(|extension| extension == suffix)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_among_messages() {
        let library = format!("/t/libx.{}", std::env::consts::DLL_EXTENSION);
        let messages = format!(
            "not json\n{}\n{}\n",
            serde_json::json!({"reason": "compiler-artifact", "target": {"name": "y"}, "filenames": ["/t/liby.so"]}),
            serde_json::json!({"target": {"name": "x"}, "filenames": ["/t/libx.d", library]}),
        );
        assert_eq!(library_in(&messages, "x"), Some(PathBuf::from(&library)));
        assert_eq!(library_in(&messages, "z"), None);
    }
}
