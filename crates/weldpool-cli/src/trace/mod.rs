//! `weldpool trace`: convert and draw allocation traces.

mod chart;
mod convert;
pub(crate) mod input;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Options of `weldpool trace`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a trace in another format, so that other tools can open it.
    Convert(convert::Options),
    /// Draw live, cached and reserved memory over a replay of a trace.
    Show(show::Options),
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.command {
        Command::Convert(options) => convert::run(options).map(|()| ExitCode::SUCCESS),
        Command::Show(options) => show::run(options),
    }
}
