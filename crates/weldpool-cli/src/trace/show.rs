//! `weldpool trace show`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use weldpool::Allocator;
use weldpool::trace::{Replay, ReplayOptions};

use super::chart::{Chart, Picture};
use super::input::{Input, load};
use crate::replay::{On, bar, name_of, status};
use crate::{WrongCommandLine, output};

/// Moments of the replay that are drawn.
const POINTS: usize = 4000;

/// Options of `weldpool trace show`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The trace.
    file: PathBuf,
    /// The picture to write, its kind by its name: .svg or .png.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    on: On,
    /// Trace time after which memory freed on a stream may be used on another.
    #[arg(long, default_value_t = 1000, value_name = "U")]
    stream_latency_us: u64,
    /// Width of the picture in pixels.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(400..=8000))]
    width: u32,
    /// Height of the picture in pixels.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(300..=8000))]
    height: u32,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let end = options.output.extension().and_then(|end| end.to_str());
    let picture = match end.map(str::to_ascii_lowercase).as_deref() {
        Some("svg") => Picture::Svg,
        Some("png") => Picture::Png,
        _ => bail!(WrongCommandLine(format!(
            "the name {} ends in neither .svg nor .png",
            options.output.display()
        ))),
    };
    let target = options.on.target()?;
    let trace = load(&options.file, &options.input)?;
    let replay = Replay::new(ReplayOptions {
        stream_latency_us: options.stream_latency_us,
        ..ReplayOptions::default()
    });
    let name = name_of(&options.file);
    let bar = bar(&name);
    let mut watched: Option<Allocator> = None;
    let make = || {
        let (allocator, made) = target.watched()?;
        watched.get_or_insert(allocator);
        Ok(made)
    };
    let samples = replay.samples(&trace.events, make, POINTS, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let samples = samples.with_context(|| format!("cannot replay {}", options.file.display()))?;
    let chart = Chart {
        title: format!("{name} on {}, preset {}", target.device, target.preset),
        samples: &samples,
        size: (options.width, options.height),
    };
    let drawn = chart.draw(picture).context("cannot draw the picture")?;
    std::fs::write(&options.output, drawn)
        .with_context(|| format!("cannot write {}", options.output.display()))?;
    output::line(format_args!("{} written", options.output.display()))?;
    let failures = watched.map_or(0, |allocator| allocator.stats().failures);
    if failures > 0 {
        output::note(format_args!(
            "warning: {}: {failures} allocations failed; the picture shows only what was allocated",
            options.file.display()
        ));
    }
    Ok(status(failures))
}
