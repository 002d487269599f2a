//! `weldpool serve`, as a server under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::model::OneNode;
use crate::process::{Listening, Process};
use crate::repository::write_model;

/// Names the program under test.
pub const PROGRAM_VARIABLE: &str = "WELDPOOL_BIN";

/// Longest start; loading the engine's library from a cold disk takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The program under test, from `WELDPOOL_BIN`.
///
/// # Errors
/// `Environment` when the variable is not set or names no file.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os(PROGRAM_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(|| {
            let message = format!(
                "{PROGRAM_VARIABLE} is not set; run `cargo xtask test` or `cargo xtask bench serve`"
            );
            Error::new(ErrorKind::Environment, message)
        })?;
    if path.is_file() {
        return Ok(path);
    }
    let message = format!(
        "{PROGRAM_VARIABLE} names {}, which is no file",
        path.display()
    );
    Err(Error::new(ErrorKind::Environment, message))
}

/// What `program --version` says, such as `0.1.0`.
///
/// # Errors
/// `Process` when the program cannot be run or fails.
pub fn version(program: &Path) -> Result<String> {
    let failed = |what: String| {
        Error::new(
            ErrorKind::Process,
            format!("{} --version {what}", program.display()),
        )
    };
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.trim().trim_start_matches("weldpool ").to_owned())
}

/// Writes a model repository at `directory` that serves `models` on onnxruntime.
///
/// # Errors
/// `Io` when a file cannot be written.
pub fn write_repository(directory: &Path, models: &[(&str, OneNode)]) -> Result<()> {
    models.iter().try_for_each(|(name, model)| {
        let files: [(&str, &[u8]); 1] = [("model.onnx", &model.onnx())];
        write_model(directory, name, &model.config("onnxruntime"), &files)
    })
}

/// The command that serves `repository` on free ports of 127.0.0.1.
pub fn serve_command(program: &Path, repository: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg("--model-repository")
        .arg(repository)
        .args([
            "--http-address",
            "127.0.0.1",
            "--http-port",
            "0",
            "--metrics-port",
            "0",
        ]);
    command
}

/// Starts `command` (see [`serve_command`]) and waits until its models are loaded.
///
/// # Errors
/// `Process` when it does not become ready within a minute.
pub fn start(command: &mut Command, log: &Path) -> Result<(Process, Listening)> {
    Process::start_listening("weldpool serve", command, log, START_TIMEOUT)
}
