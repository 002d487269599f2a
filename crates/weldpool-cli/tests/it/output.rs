//! Standard output and standard error that take no more.

use std::io::PipeWriter;
use std::process::{Command, Output, Stdio};

/// Each way to have something printed that needs no model; `FOLDER` is one to write to.
const COMMANDS: [&str; 12] = [
    "--help",
    "--version",
    "replay --help",
    "devices",
    "devices --all --format json",
    "doctor --device host --quick",
    "replay TRACE",
    "replay TRACE --format json",
    "replay TRACE TRACE --dashboard",
    "replay TRACE --limit 1GiB",
    "trace convert TRACE FOLDER/out.wpt",
    "trace show TRACE -o FOLDER/out.svg",
];

/// A pipe that nobody reads.
pub(crate) fn closed() -> PipeWriter {
    let (_reader, writer) = std::io::pipe().unwrap();
    writer
}

/// A device without room.
#[cfg(target_os = "linux")]
pub(crate) fn full() -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).open("/dev/full").unwrap()
}

/// Checks that a program whose reader went away ended without a word.
pub(crate) fn assert_quiet(output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{what}: {stderr}");
    assert!(
        !stderr.contains("error") && !stderr.contains("panicked"),
        "{what}: {stderr}"
    );
}

/// Checks that a program said that its output was lost.
#[cfg(target_os = "linux")]
pub(crate) fn assert_error(output: &Output, what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
    let error = "error: cannot write to standard output: No space left on device";
    assert!(stderr.contains(error), "{what}: {stderr}");
}

fn run(line: &str, stdout: impl Into<Stdio>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let trace = crate::replay::recorded();
    let place = |word: &str| {
        let word = word.replace("FOLDER", folder.path().to_str().unwrap());
        word.replace("TRACE", trace.to_str().unwrap())
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
    command.args(line.split_whitespace().map(place));
    command
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

#[test]
fn a_reader_that_goes_away_ends_every_command_quietly() {
    for line in COMMANDS {
        assert_quiet(&run(line, closed()), line);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_an_error_of_every_command() {
    for line in COMMANDS {
        assert_error(&run(line, full()), line);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn standard_error_that_is_full_changes_no_exit_status() {
    use std::ffi::OsStr;

    let trace = crate::replay::recorded();
    let limited = [
        "replay".as_ref(),
        trace.as_os_str(),
        "--limit".as_ref(),
        "1GiB".as_ref(),
    ];
    let missing = ["replay".as_ref(), OsStr::new("missing.csv")];
    let wrong = ["replay".as_ref(), OsStr::new("--no-such-option")];
    for (arguments, status) in [(&limited[..], 3), (&missing[..], 1), (&wrong[..], 2)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weldpool"));
        command.args(arguments).env("METAL_ALLOCATOR_STATS", "full");
        let status_of = command
            .stdout(Stdio::null())
            .stderr(full())
            .status()
            .unwrap();
        assert_eq!(status_of.code(), Some(status), "{arguments:?}");
    }
}
