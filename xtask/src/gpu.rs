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
    let parts = parts(here, arguments.finish()?)?;
    let mut steps = Steps::new(paths.logs());
    let folder = paths.cache().join("gpu");
    pack(paths, &mut steps, &folder)?;
    eprintln!(
        "packed in {}; `sh run.sh {}` runs it",
        folder.display(),
        PARTS.join(" ")
    );
    if here {
        steps.show(
            "run on this machine's GPU",
            Run::new("sh").arg(folder.join("run.sh")).args(parts),
        )?;
    }
    steps.done("gpu");
    Ok(())
}

/// The parts to run: those named, or all.
fn parts(here: bool, named: Vec<String>) -> Result<Vec<String>> {
    if let Some(unknown) = named.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(Failure::new(format!("there is no part `{unknown}`"))
            .hint(format!("the parts are {}", PARTS.join(", "))));
    }
    match named.as_slice() {
        [] => Ok(PARTS.map(str::to_owned).to_vec()),
        _ if here => Ok(named),
        _ => Err(Failure::new("parts were named, and nothing is to be run").hint(format!(
            "`cargo xtask gpu --run -- {0}` runs them here; without them it packs, for `sh run.sh {0}` elsewhere",
            named.join(" ")
        ))),
    }
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
    fn parts_are_named_for_a_run_alone() {
        let named = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(parts(false, Vec::new()).unwrap(), PARTS);
        assert_eq!(parts(true, Vec::new()).unwrap(), PARTS);
        assert_eq!(parts(true, named(&["bench"])).unwrap(), ["bench"]);
        let error = parts(false, named(&["bench", "rmm"])).unwrap_err();
        assert!(error.to_string().contains("--run -- bench rmm"), "{error}");
        assert!(parts(true, named(&["bnech"])).is_err());
    }

    const TESTS: &str = "test result: ok. 9 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s\n";
    const FAILED: &str = "test a::b ... FAILED\n\
        test result: FAILED. 8 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.5s\n";
    const CLEAN: &str = "========= ERROR SUMMARY: 0 errors\n";

    /// Whether record.py passes a folder of these files.
    fn passes(name: &str, files: &[(&str, &str)]) -> bool {
        let folder =
            std::env::temp_dir().join(format!("weldpool-record-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("record.py"), RECORD).unwrap();
        for (file, text) in files {
            fs::write(folder.join(file), text).unwrap();
        }
        let python = python::find().unwrap();
        let recorded = Run::new(python)
            .arg(folder.join("record.py"))
            .arg("commit")
            .arg(&folder)
            .output();
        let written = fs::read_to_string(folder.join("gpu-tests.json")).unwrap();
        assert!(written.contains("\"exits\""), "{written}");
        fs::remove_dir_all(&folder).unwrap();
        recorded.is_ok()
    }

    #[test]
    fn a_record_passes_only_if_all_that_ran_did() {
        let checked = format!("{TESTS}{CLEAN}");
        let run = "{\"losses\": [1.5], \"inference\": 2}\n".repeat(3);
        let good = [
            ("parts.txt", "test 9\ntest 0\ncheck 0\nrmm 0\ntorch 0\n"),
            ("tests.txt", TESTS),
            ("memcheck.txt", &checked),
            ("rmm.txt", "0 sums wrong; and more\n"),
            ("torch.jsonl", &run),
        ];
        assert!(passes("good", &good));
        assert!(passes("part", &good[1..2]), "what did not run is null");
        let (failed_under, aborted) = (format!("{FAILED}{CLEAN}"), CLEAN.to_owned());
        for (name, file, text) in [
            ("exit", "parts.txt", "rmm 2\n"),
            ("failed", "tests.txt", FAILED),
            ("aborted", "tests.txt", "running 9 tests\n"),
            ("failed-under", "memcheck.txt", &failed_under),
            ("aborted-under", "memcheck.txt", &aborted),
            (
                "errors",
                "memcheck.txt",
                "========= ERROR SUMMARY: 2 errors\n",
            ),
            ("nvcc", "rmm.txt", "error: no such file\n"),
            ("sums", "rmm.txt", "3 sums wrong\n"),
            ("torch", "torch.jsonl", ""),
        ] {
            let files = good.map(|(at, said)| (at, if at == file { text } else { said }));
            assert!(!passes(name, &files), "{name}");
        }
    }

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
