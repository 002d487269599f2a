//! `weldpool doctor`: examines devices, each step in a process of its own.

mod bench;
mod busy;
mod child;
mod environment;
mod event;
mod examine;
mod expectations;
mod findings;
mod injected;
mod process;
mod progress;
mod report;
mod scrub;
mod step;
mod stress;
mod text;

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use self::examine::Examination;
use self::injected::Injected;
use self::progress::Progress;
use self::report::{Report, Verdict};
use self::scrub::Scrub;
use self::step::Step;
use crate::output;
use crate::signals::StopSignals;

/// Options of `weldpool doctor`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A device to examine, as `weldpool devices --all` names it; may be given several times. Without it,
    /// every real device of this machine.
    #[arg(long, value_name = "NAME")]
    device: Vec<String>,
    /// File to write the report to, to be attached to a bug report: JSON without names of users or machines, and
    /// without paths.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Few cases, and figures that mean nothing: for tests of this command.
    #[arg(long, hide = true)]
    quick: bool,
    /// Adds a case that goes wrong: for tests of this command.
    #[arg(long, hide = true, value_name = "HOW")]
    inject: Vec<Injected>,
    /// Run this step alone and tell what comes of it: how this command runs itself.
    #[arg(long, hide = true, value_name = "STEP")]
    step: Option<Step>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(step) = options.step {
        let device = options.device.first().map_or("", String::as_str);
        return child::run(step, device, options.quick);
    }
    // Before anything is examined.
    let file = options.json.as_deref().map(open).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the examination")?;
    let report = runtime.block_on(async {
        let mut examination = Examination {
            quick: options.quick,
            injected: &options.inject,
            scrub: Scrub::of_this_machine(),
            progress: Progress::new(),
            stop: StopSignals::new()?,
            report: Report::new(),
        };
        examination.run(&options.device).await?;
        anyhow::Ok(examination.report)
    });
    let mut report = report?;
    findings::conclude(&mut report);
    if let (Some(file), Some(path)) = (file, &options.json) {
        save(&report, file).with_context(|| cannot_write(path))?;
    }
    output::line(text::report(&report))?;
    Ok(match report.verdict {
        Verdict::Healthy | Verdict::Attention if !report.interrupted => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Opens the file to write to; what is in it stays until there is a report.
fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false);
    options.open(path).with_context(|| cannot_write(path))
}

fn save(report: &Report, mut file: File) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    // Of what is no file, such as a pipe, there is nothing to cut off.
    let _kept = file.set_len(0);
    let _stays = file.rewind();
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    Ok(())
}
