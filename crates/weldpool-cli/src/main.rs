//! The program `weldpool`: serves ONNX models, runs one, lists the devices, works with allocation traces.

mod devices;
mod infer;
mod logging;
mod replay;
mod serve;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pools GPU and host memory, and serves ONNX models out of it.
#[derive(Debug, Parser)]
#[command(name = "weldpool", version, arg_required_else_help = true)]
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
    /// Replay allocation traces on a device and report memory, driver calls and times.
    Replay(replay::Options),
    /// Convert and draw allocation traces.
    Trace(trace::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Serve(options) => serve::run(*options),
        Command::Infer(options) => infer::run(&options),
        Command::Devices(options) => devices::run(&options),
        Command::Replay(options) => replay::run(&options),
        Command::Trace(options) => trace::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: the error and its causes.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
