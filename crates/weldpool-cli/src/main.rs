//! The program `weldpool`: serves ONNX models, runs one, lists and examines the devices, works with
//! allocation traces.

// Both panic when nobody reads, or a disk is full.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod byte_size;
mod devices;
mod doctor;
mod infer;
mod logging;
mod output;
mod replay;
mod serve;
mod signals;
mod trace;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use self::output::OutputError;

/// What the exit status says; 2 is what clap exits with.
const EXIT_STATUS: &str = "\
Exit status: 0 when all was done, also where the reader of standard output went away before its end; \
1 after an error, also where doctor found something broken or was interrupted; 2 for a wrong command line; \
3 when allocations of a replay failed.";

/// Exit status for a command line that clap cannot tell to be wrong; the one that it exits with.
const WRONG_COMMAND_LINE: u8 = 2;

/// What is wrong with the command line, as context of an error or as one.
#[derive(Debug)]
struct WrongCommandLine(String);

impl std::fmt::Display for WrongCommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongCommandLine {}

/// Exit status of a replay in which allocations failed.
const ALLOCATIONS_FAILED: u8 = 3;

/// Pools GPU and host memory, and serves ONNX models out of it.
#[derive(Debug, Parser)]
#[command(name = "weldpool", version, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a Triton model repository over the KServe v2 protocol.
    Serve(Box<serve::Options>),
    /// Run one ONNX model and show its outputs, its latency and the pool.
    Infer(infer::Options),
    /// List the devices of this machine.
    Devices(devices::Options),
    /// Examine devices: tests, a short stress and benchmarks, with a verdict and a file for a bug report.
    #[command(after_help = EXIT_STATUS)]
    Doctor(doctor::Options),
    /// Replay allocation traces on a device and report memory, driver calls and times.
    #[command(after_help = EXIT_STATUS)]
    Replay(replay::Options),
    /// Convert and draw allocation traces.
    #[command(after_help = EXIT_STATUS)]
    Trace(trace::Options),
}

fn main() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => exit_code(run(arguments.command)),
        // Help, the version, or a wrong command line.
        Err(asked) => {
            let printed = asked.print().and_then(|()| std::io::stdout().flush());
            // What is wrong with the command line is told as far as standard error takes it.
            let printed = if asked.use_stderr() { Ok(()) } else { printed };
            let status = u8::try_from(asked.exit_code()).unwrap_or(u8::MAX);
            let printed = printed.map_err(|error| OutputError::from(error).into());
            exit_code(printed.map(|()| ExitCode::from(status)))
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Serve(options) => serve::run(*options).map(done),
        Command::Infer(options) => infer::run(&options).map(done),
        Command::Devices(options) => devices::run(&options).map(done),
        Command::Doctor(options) => doctor::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Trace(options) => trace::run(&options),
    }
}

fn exit_code(result: Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    if error.downcast_ref().is_some_and(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    output::note(format_args!("error: {}", one_line(&error)));
    if error.is::<WrongCommandLine>() {
        ExitCode::from(WRONG_COMMAND_LINE)
    } else {
        ExitCode::FAILURE
    }
}

/// An error and its causes, each once: some errors say their cause themselves.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let gone = || std::io::Error::other("gone");
        let error = anyhow::Error::new(gone()).context("cannot read x");
        assert_eq!(one_line(&error), "cannot read x: gone");
        let error = anyhow::Error::new(gone()).context("cannot read x: gone");
        let error = error.context("loading");
        assert_eq!(one_line(&error), "loading: cannot read x: gone");
    }

    fn each(command: &clap::Command, check: &mut impl FnMut(&clap::Arg)) {
        command.get_arguments().for_each(&mut *check);
        for inner in command.get_subcommands() {
            each(inner, check);
        }
    }

    #[test]
    fn every_number_of_bytes_takes_units_and_says_so() {
        let mut names = Vec::new();
        each(&Arguments::command(), &mut |argument| {
            let of_bytes = |names: &[clap::builder::Str]| names.iter().any(|name| name == "BYTES");
            if !argument.get_value_names().is_some_and(of_bytes) {
                return;
            }
            let name = argument.get_id().to_string();
            let help = argument.get_help().map(ToString::to_string);
            assert!(help.is_some_and(|help| help.contains("MiB")), "{name}");
            names.push(name);
        });
        names.sort_unstable();
        names.dedup();
        assert_eq!(
            names,
            [
                "http_max_header_size",
                "http_max_input_size",
                "limit",
                "pool_limit"
            ]
        );
        for line in [
            "weldpool replay x --limit 1MiB",
            "weldpool serve --model-repository x --pool-limit 1MiB --http-max-input-size 1MiB \
             --http-max-header-size 8KiB",
        ] {
            let parsed = Arguments::try_parse_from(line.split_whitespace());
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
    }
}
