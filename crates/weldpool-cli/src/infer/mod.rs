//! `weldpool infer`: run one model, without a server.

mod input;
mod npy;
mod npy_header;
mod summary;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use weldpool::env::Environment;
use weldpool::{Allocator, Config, Runtime};
use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{Engine, LoadOptions, ModelSource, OutputRequest, Tensor};

use self::input::{InputSource, ShapeOverride};
use crate::output;

/// Options of `weldpool infer`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The ONNX file.
    model: PathBuf,
    /// Contents of an input: a .npy file, or made up. Inputs that are not given are random.
    #[arg(long = "input", value_name = "NAME=FILE.npy|random|zeros")]
    inputs: Vec<InputSource>,
    /// Shape of an input that is made up; needed where the model leaves dimensions open, which
    /// otherwise are 1.
    #[arg(long = "shape", value_name = "NAME:D1,D2,..")]
    shapes: Vec<ShapeOverride>,
    /// Names of the outputs to compute; all of them by default.
    #[arg(long = "output", value_name = "NAME")]
    outputs: Vec<String>,
    /// Folder to write each output to, as NAME.npy. It is made if need be.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Runs to measure, after one to warm up.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: u32,
    /// Seed of the random inputs.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Parameter of the engine, by the name a model's configuration uses, such as
    /// intra_op_thread_count=2.
    #[arg(long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<String>,
    /// The onnxruntime shared library; see the README for where it is looked for otherwise.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// More log lines: 1 for debugging, 2 for everything.
    #[arg(long, default_value_t = 0, value_name = "LEVEL")]
    log_verbose: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let environment = Environment::read()?;
    // That a profiler was asked for in vain is told too.
    let wants_log = environment.debug.is_some() || environment.profile == Some(true);
    if options.log_verbose > 0 || wants_log {
        crate::logging::start(options.log_verbose, environment.debug);
    }
    let mut config = Config::default();
    environment.apply(&mut config);
    let allocator = Allocator::builder(Runtime::default_device()?)
        .config(config)
        .build()?;
    let engine = OnnxRuntime::load(options.onnxruntime.as_deref())?;
    let mut load = LoadOptions::new(allocator.clone());
    for parameter in &options.parameters {
        let (name, value) = parameter
            .split_once('=')
            .with_context(|| format!("--parameter {parameter:?} is not NAME=VALUE"))?;
        ensure!(
            engine.parameters().contains(&name),
            "--parameter {name:?}: the engine knows {}",
            engine.parameters().join(", ")
        );
        load = load.parameter(name, value);
    }
    let start = Instant::now();
    let model = engine.load(ModelSource::Path(&options.model), &load)?;
    let loaded = start.elapsed();

    let inputs = input::make(model.inputs(), options, &allocator)?;
    let named: Vec<(&str, &Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let wanted: Vec<&str> = if options.outputs.is_empty() {
        model
            .outputs()
            .iter()
            .map(|output| output.name.as_str())
            .collect()
    } else {
        options.outputs.iter().map(String::as_str).collect()
    };
    let requests: Vec<_> = wanted.iter().map(|name| OutputRequest::new(name)).collect();

    let mut instance = model.instance()?;
    let start = Instant::now();
    let mut outputs = instance.run(&named, &requests)?;
    let first = start.elapsed();
    let progress = progress(options.repeat);
    let mut latencies = Vec::with_capacity(options.repeat as usize);
    for _ in 0..options.repeat {
        outputs.clear();
        let start = Instant::now();
        outputs = instance.run(&named, &requests)?;
        latencies.push(start.elapsed());
        progress.inc(1);
    }
    progress.finish_and_clear();

    output::line(format_args!(
        "{} on {} {} ({} arena)",
        options.model.display(),
        engine.name(),
        engine.version(),
        format!("{:?}", model.arena()).to_lowercase()
    ))?;
    for (name, tensor) in &inputs {
        output::line(format_args!("  input  {}", summary::tensor(name, tensor)?))?;
    }
    for (name, tensor) in wanted.iter().zip(&outputs) {
        output::line(format_args!("  output {}", summary::tensor(name, tensor)?))?;
    }
    output::line(latency(loaded, first, &mut latencies))?;
    output::line(format_args!("  pool   {}", allocator.stats()))?;
    if let Some(folder) = &options.output_dir {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let mut written = BTreeMap::new();
        for (name, tensor) in wanted.iter().zip(&outputs) {
            let path = folder.join(npy::file_name(name));
            if let Some(other) = written.insert(path.clone(), name) {
                bail!(
                    "outputs {other:?} and {name:?} would both be {}",
                    path.display()
                );
            }
            npy::write(&path, tensor)
                .with_context(|| format!("cannot write {}", path.display()))?;
            output::line(format_args!("  wrote  {}", path.display()))?;
        }
    }
    Ok(())
}

fn progress(runs: u32) -> ProgressBar {
    if runs < 10 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} runs, {eta} left");
    ProgressBar::new(runs.into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn latency(loaded: Duration, first: Duration, latencies: &mut [Duration]) -> String {
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part).round() as usize];
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    format!(
        "  time   load {:.1} ms, first run {:.3} ms, then {} runs: min {:.3}, p50 {:.3}, p90 {:.3}, \
         p99 {:.3} ms",
        ms(loaded),
        ms(first),
        latencies.len(),
        ms(at(0.0)),
        ms(at(0.5)),
        ms(at(0.9)),
        ms(at(0.99)),
    )
}
