//! Opening traces, and saying what was left out of them.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use weldpool::trace::{Event, Format, ReadOptions, Reader, Skipped, read_all};

use crate::output;

/// How to read a trace.
#[derive(Debug, Args)]
pub(crate) struct Input {
    /// The traces' format: csv, rmm, pytorch, stalloc or compact. Recognised by the contents when it
    /// is not given.
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// The device to take from a snapshot that has several; the busiest when it is not given.
    #[arg(long, value_name = "N")]
    trace_device: Option<usize>,
}

/// A trace in memory.
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    pub(crate) skipped: Skipped,
}

pub(crate) fn open(file: &Path, input: &Input) -> Result<Reader> {
    let mut options = ReadOptions::default();
    options.format = input.from;
    options.device = input.trace_device;
    Ok(Reader::open_with(file, options)?)
}

/// Reads a whole trace, with a line on standard error for what was left out.
pub(crate) fn load(file: &Path, input: &Input) -> Result<Trace> {
    let reader = open(file, input)?;
    let (events, skipped) = read_all(reader)?;
    warn(file, &skipped);
    Ok(Trace { events, skipped })
}

/// Says on standard error what was left out of a trace, if anything of weight.
pub(crate) fn warn(file: &Path, skipped: &Skipped) {
    let remarks = [
        (
            skipped.frees,
            "frees of memory allocated before the recording skipped",
        ),
        (skipped.failures, "failed allocations skipped"),
        (skipped.empty, "empty allocations skipped"),
        (skipped.dropped, "events lost while recording"),
        (
            skipped.other_devices,
            "entries of other devices skipped (see --trace-device)",
        ),
        (skipped.implied_frees, "missing frees added"),
        (
            skipped.live_before,
            "blocks live before the recording added",
        ),
    ];
    let mut remarks: Vec<_> = remarks
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, remark)| format!("{count} {remark}"))
        .collect();
    if skipped.truncated {
        remarks.push("the file lacks its end".to_owned());
    }
    if !remarks.is_empty() {
        output::note(format_args!("{}: {}", file.display(), remarks.join(", ")));
    }
}
