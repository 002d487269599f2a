//! `cargo xtask gpu`: everything that a machine with an NVIDIA GPU is to run, in one folder.
//!
//! Building needs no GPU; running needs no checkout, but nvcc and a Python with PyTorch for the peers.

use std::fs;
use std::path::{Path, PathBuf};

use crate::arguments::Arguments;
use crate::error::{Failure, Result};
use crate::paths::{self, Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;
use crate::python::{self, Requirements};

const WHEELS: Requirements = Requirements {
    file: "gpu.txt",
    options: &["--no-deps"],
};

/// What the wheels hold and compiling does not need.
const SURPLUS: [&str; 4] = [
    "librmm/include/rapids",
    "librmm/lib64/rapids",
    "librmm/lib64/cmake",
    "nvidia/cu13/lib/cmake",
];

/// Runs the parts, from the folder that it lies in.
const RUN: &str = include_str!("gpu/run.sh");
/// Writes what the tests found into one file.
const RECORD: &str = include_str!("gpu/record.py");
/// What `run.sh` is told when nothing is named.
const PARTS: [&str; 6] = ["test", "check", "bench", "rmm", "torch", "record"];

pub(crate) fn run(paths: &Paths, mut arguments: Arguments) -> Result<()> {
    let here = arguments.flag("--run");
    let steps_to_run = arguments.finish()?;
    let mut steps = Steps::new(paths.logs());
    let folder = paths.cache().join("gpu");
    pack(paths, &mut steps, &folder)?;
    eprintln!(
        "packed in {}; `sh run.sh {}` runs it",
        folder.display(),
        PARTS.join(" ")
    );
    if here {
        let what = match steps_to_run.is_empty() {
            true => PARTS.map(str::to_owned).to_vec(),
            false => steps_to_run,
        };
        steps.show(
            "run on this machine's GPU",
            Run::new("sh").arg(folder.join("run.sh")).args(what),
        )?;
    }
    steps.done("gpu");
    Ok(())
}

fn pack(paths: &Paths, steps: &mut Steps, folder: &Path) -> Result<()> {
    let build = |arguments: &[&str]| {
        Run::cargo()
            .directory(paths.root())
            .args(["build", "--release"])
            .args(arguments)
    };
    steps.log(
        "build the suite",
        build(&["--package", "weldpool-bench", "--bin", "bench"]),
    )?;
    steps.log(
        "build the C interface",
        build(&["--package", "weldpool-capi"]),
    )?;
    let tests = Run::cargo().directory(paths.root()).args([
        "test",
        "--release",
        "--package",
        "weldpool",
        "--test",
        "cuda",
        "--no-run",
        "--message-format",
        "json",
    ]);
    let tests = executable(&tests.output()?)?;
    paths::create_directory(folder)?;
    for (from, name) in [
        (paths.binary(Profile::Release, "bench"), "bench"),
        (
            paths.binary(Profile::Release, "libweldpool.so"),
            "libweldpool.so",
        ),
        (tests, "cuda-tests"),
    ] {
        let to = folder.join(name);
        steps.log(
            &format!("strip {name}"),
            Run::new("strip").arg("-o").arg(to).arg(from),
        )?;
    }
    let venv = python::ensure(paths, steps, "gpu-peers", &[WHEELS])?;
    let packages = venv.site_packages()?;
    let wheels = folder.join("wheels");
    for part in ["librmm", "rapids_logger", "nvidia"] {
        copy_directory(&packages.join(part), &wheels.join(part))?;
    }
    for surplus in SURPLUS {
        paths::remove_directory(&wheels.join(surplus))?;
    }
    let traces = paths.root().join("crates/weldpool/tests/data/traces");
    copy_directory(&traces, &folder.join("traces"))?;
    let capi = paths.root().join("crates/weldpool-capi");
    for name in ["torch_train.py", "rmm_vector.cu"] {
        let text = paths::read(&capi.join("examples").join(name))?;
        paths::write(&folder.join(name), &text)?;
    }
    copy_directory(&capi.join("include"), &folder.join("include"))?;
    paths::write(&folder.join("commit"), &crate::bench::commit(paths))?;
    paths::write(&folder.join("record.py"), RECORD)?;
    paths::write(&folder.join("run.sh"), RUN)
}

/// The test binary in what cargo says of its build.
fn executable(messages: &str) -> Result<PathBuf> {
    let mark = "\"executable\":\"";
    let found = messages.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(mark)?;
        Some(PathBuf::from(rest.split_once('"')?.0))
    });
    found.ok_or_else(|| Failure::new("cargo named no executable of the tests on a GPU"))
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    paths::create_directory(to)?;
    let entries = fs::read_dir(from).map_err(|error| Failure::file("read", from, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| Failure::file("read", from, &error))?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            paths::place(&from, &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_executable_is_found() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/a/cuda-1\",\"fresh\":true}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        assert_eq!(executable(messages).unwrap(), Path::new("/a/cuda-1"));
        assert!(executable("{}").is_err());
    }
}
