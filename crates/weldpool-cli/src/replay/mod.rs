//! `weldpool replay`: what an allocator makes of recorded allocations.

mod progress;
mod seen;
mod table;
pub(crate) mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use weldpool::trace::{Replay, ReplayOptions, ReplayReport};
use weldpool::{Allocator, Dashboard, ErrorKind, Preset};

pub(crate) use self::progress::bar;
use self::target::{DEVICES, Target};
use crate::trace::input::{Input, load};
use crate::{ALLOCATIONS_FAILED, WrongCommandLine, byte_size, output};

/// Options of `weldpool replay`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Traces: CSV, RMM's log, PyTorch's memory snapshot, STAlloc's text or the recorder's file, plain
    /// or compressed with gzip.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    on: On,
    /// Threads; events are split by their thread and stream.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Trace time after which memory freed on a stream may be used on another.
    #[arg(long, default_value_t = 1000, value_name = "U")]
    stream_latency_us: u64,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Draw the allocator's dashboard after each trace; with --format json to standard error.
    #[arg(long)]
    dashboard: bool,
    /// File to write the allocators' statistics to, in Prometheus's text format; the label `pool` is
    /// the trace's name.
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,
}

/// What to replay on.
#[derive(Debug, Args)]
pub(crate) struct On {
    /// The device: host, fake:discrete or fake:apple.
    #[arg(long, default_value = DEVICES[0])]
    device: String,
    /// The configuration: fine is the default one, seed has powers of two, pooling too, up to 256 MiB and with
    /// at most 32 idle blocks of each, adaptive follows the workload.
    #[arg(long, default_value_t)]
    preset: Preset,
    /// Most bytes to hold from the driver; KiB, MiB, GiB or TiB may follow the number, or K, M, G or T
    /// for the same.
    #[arg(long, value_name = "BYTES", value_parser = byte_size::within(1..=u64::MAX))]
    limit: Option<u64>,
}

impl On {
    /// Says at once what does not exist, before a trace is read.
    pub(crate) fn target(&self) -> Result<Target> {
        let target = Target::new(&self.device, self.preset, self.limit);
        target.map_err(|error| match error.kind() {
            // There is no device of this name anywhere.
            ErrorKind::InvalidRequest => WrongCommandLine(error.to_string()).into(),
            _ => error.into(),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people.
    Table,
    /// One JSON object per trace and line.
    Json,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let target = options.on.target()?;
    let replay = Replay::new(ReplayOptions {
        threads: options.threads as usize,
        stream_latency_us: options.stream_latency_us,
        ..ReplayOptions::default()
    });
    let mut seen = Vec::new();
    let mut failures = 0;
    for file in &options.files {
        let (report, after) = replay_file(&replay, file, options, &target)?;
        if seen.is_empty() && options.format == Format::Table {
            output::line(table::heading(&target, options))?;
        }
        match options.format {
            Format::Table => output::line(table::row(&name_of(file), &report))?,
            Format::Json => output::line(object(file, &report)?)?,
        }
        warn_of_failures(file, &report);
        failures += report.failures;
        if options.dashboard {
            seen::draw(&after, options.format == Format::Json)?;
        }
        seen.push(after);
    }
    if let Some(file) = &options.prometheus {
        seen::write(file, &seen)?;
    }
    Ok(status(failures))
}

/// The exit status, by how many allocations failed.
pub(crate) fn status(failures: u64) -> ExitCode {
    match failures {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(ALLOCATIONS_FAILED),
    }
}

/// Says on standard error what figures are worth of which a part is missing.
fn warn_of_failures(file: &Path, report: &ReplayReport) {
    if report.failures == 0 {
        return;
    }
    let first = report.first_failure.as_deref().unwrap_or("unknown");
    output::note(format_args!(
        "warning: {}: {} of {} allocations failed; live, reserved and their ratio cover only what was \
         allocated. The first: {first}",
        file.display(),
        report.failures,
        report.allocs,
    ));
}

fn replay_file(
    replay: &Replay,
    file: &Path,
    options: &Options,
    target: &Target,
) -> Result<(ReplayReport, Dashboard)> {
    let trace = load(file, &options.input)?;
    let bar = bar(&name_of(file));
    // Of the first pass, which the report is about.
    let mut watched: Option<Allocator> = None;
    let make = || {
        let (allocator, made) = target.watched()?;
        watched.get_or_insert(allocator);
        Ok(made)
    };
    let report = replay.run_with_progress(&trace.events, make, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let mut report = report.with_context(|| format!("cannot replay {}", file.display()))?;
    report.skipped_frees += trace.skipped.frees;
    let mut after = watched
        .map(|allocator| allocator.dashboard())
        .unwrap_or_default();
    after.allocator = name_of(file);
    after.finished = true;
    Ok((report, after))
}

/// The report, with the trace first.
fn object(file: &Path, report: &ReplayReport) -> Result<Value> {
    let mut object = Map::new();
    object.insert("trace".to_owned(), Value::from(file.display().to_string()));
    if let Value::Object(fields) = serde_json::from_str(&report.to_json())? {
        object.extend(fields);
    }
    Ok(Value::Object(object))
}

/// The file's name without folders and what its format needs.
pub(crate) fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    let name = name.to_string_lossy();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.to_owned()
}
