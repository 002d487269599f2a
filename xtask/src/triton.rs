//! Triton Inference Server from its pinned wheel, and `cargo xtask triton-demo`: the demo's models in the real Triton.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::error::{Failure, Result};
use crate::paths::{self, Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;

/// The backend's name in configurations.
const BACKEND: &str = "metal_mps";

pub(crate) fn demo(paths: &Paths, arguments: Arguments) -> Result<()> {
    let pipeline_arguments = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    require_platform()?;
    let environment = Environment::fetch(paths, &mut steps, Profile::Release)?;
    let server = ensure(paths, &mut steps, environment.python())?;
    let backends = install(paths, &mut steps, environment.onnxruntime())?;
    let pipeline = Run::new(environment.python())
        // The checkout stays free of compiled Python.
        .args(["-B", "examples/demo/ocr_pipeline.py", "--triton"])
        .arg(server)
        .arg("--backends")
        .arg(backends)
        .arg("--models")
        .arg(environment.ocr_models())
        .arg("--work")
        .arg(paths.cache().join("triton-demo"))
        .args(pipeline_arguments)
        .directory(paths.root());
    steps.show("read a picture", pipeline)?;
    steps.done("triton-demo");
    Ok(())
}

/// There is a Triton for one platform only.
fn require_platform() -> Result<()> {
    if cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    )) {
        return Ok(());
    }
    Err(Failure::new(
        "Triton's wheel exists for Linux x86_64 with glibc only, and Triton has no build for macOS",
    )
    .hint("`cargo xtask demo` serves the same models with `weldpool serve`"))
}

/// Returns the program `tritonserver`, fetching its wheel when it is not there.
fn ensure(paths: &Paths, steps: &mut Steps, python: &Path) -> Result<PathBuf> {
    let requirements = paths.requirements("triton.txt");
    let pinned = paths::read(&requirements)?;
    let (name, version) = pin(&pinned)?;
    // Where the benchmarks look too.
    let peers = paths.cache().join("peers");
    let place = peers.join(format!("{name}-{version}"));
    let program = place.join("pytriton/tritonserver/bin/tritonserver");
    if !place.is_dir() {
        let scratch = peers.join(format!("{name}-{version}.new"));
        paths::remove_directory(&scratch)?;
        paths::create_directory(&scratch)?;
        let fetch = Run::new(python)
            .args(["-m", "pip", "download", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary", ":all:", "--require-hashes"])
            .args(["--platform", "manylinux_2_35_x86_64"])
            .arg("--requirement")
            .arg(&requirements)
            .arg("--dest")
            .arg(scratch.join("wheel"));
        steps.log(&format!("fetch {name} {version}"), fetch)?;
        let wheel = only_file(&scratch.join("wheel"))?;
        let unpack = Run::new(python)
            .args(["-m", "zipfile", "-e"])
            .arg(wheel)
            .arg(scratch.join("content"));
        steps.log(&format!("unpack {name} {version}"), unpack)?;
        let content = scratch.join("content");
        fs::rename(&content, &place).map_err(|error| Failure::file("move", &content, &error))?;
        paths::remove_directory(&scratch)?;
    }
    make_executable(&program)?;
    Ok(program)
}

/// Builds the backend and lays it out as Triton looks for it, with onnxruntime beside it: the way to install it.
fn install(paths: &Paths, steps: &mut Steps, onnxruntime: &Path) -> Result<PathBuf> {
    let build = Run::cargo().directory(paths.root()).args([
        "build",
        "--release",
        "--package",
        "weldpool-triton",
    ]);
    steps.log("build the backend metal_mps", build)?;
    let backends = paths.cache().join("triton-backends");
    let home = backends.join(BACKEND);
    let file = format!("libtriton_{BACKEND}{}", env::consts::DLL_SUFFIX);
    let built = paths.artifact(Profile::Release, &file);
    // Anew each time: files of one length may differ.
    paths::remove_directory(&home)?;
    paths::place(&built, &home.join(&file))?;
    let name = onnxruntime.file_name().unwrap_or_default();
    paths::place(onnxruntime, &home.join(name))?;
    Ok(backends)
}

/// Name and version of the one pinned package.
fn pin(requirements: &str) -> Result<(&str, &str)> {
    requirements
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .find_map(|line| line.split_whitespace().next()?.split_once("=="))
        .ok_or_else(|| Failure::new("requirements/triton.txt pins nothing"))
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let failed = |error| Failure::file("read", directory, &error);
    let mut entries = fs::read_dir(directory).map_err(failed)?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(failed)?.path()),
        None => Err(Failure::new("pip fetched nothing")),
    }
}

/// Unpacking an archive with `zipfile` loses that.
#[cfg(unix)]
fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .map_err(|error| Failure::file("make executable", file, &error))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_read_past_comments() {
        let text = "# a==1\n\nnvidia-pytriton==0.7.0 --hash=sha256:00\n";
        assert_eq!(pin(text).unwrap(), ("nvidia-pytriton", "0.7.0"));
        assert!(pin("# nothing\n").is_err());
    }
}
