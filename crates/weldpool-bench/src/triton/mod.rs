//! The suite of our backend in Triton: the same models and the same client in front of our backend, of Triton's
//! Python backend calling onnxruntime, of a backend that does nothing but copy, and of our own server.
//!
//! One Triton holds all three backends, so they share its HTTP server, its scheduler and its settings. All servers
//! run at once, one of them busy at a time, in [rounds](crate::rounds).

mod bars;
mod cells;
mod models;
mod servers;

use std::time::Duration;

use serde_json::{Value, json};

pub use servers::{BARE, OURS, PYTHON, SERVE};

use crate::error::Result;
use crate::machine::{self, Machine};
use crate::placement::{self, Awake, Halves};
use crate::report::Report;
use crate::rounds::{Measured, Schedule, warm_up};
use servers::Servers;

/// The peers of our backend, and what their rows have behind their names.
const PEERS: [(&str, &str); 3] = [
    (BARE, ", against the bare identity"),
    (PYTHON, ", against the Python backend"),
    (SERVE, ", against weldpool serve"),
];

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// Length of one measurement.
    pub window: Duration,
    /// How often to measure.
    pub schedule: Schedule,
    /// Executions of a model at once, in every server.
    pub instances: usize,
    /// Give the client and the servers processors of their own, instead of leaving it to the scheduler.
    pub split: bool,
}

/// Runs the suite.
///
/// # Errors
/// `Environment` where there is no Triton, and those of starting a server and of measuring it. A Python backend
/// that cannot run here is not an error: the report says that it is missing.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::this();
    let mut missing = Vec::new();
    let halves = if options.split {
        Halves::split()?
    } else {
        None
    };
    let mut start = || Servers::start(options, &mut missing);
    let servers = match halves {
        Some(halves) => halves.start_servers(start)?,
        None => start()?,
    };
    let awake = halves.map(|halves| Awake::all(&halves)).transpose()?;
    let cases = cells::cases(&servers.list, options)?;
    let measured = Measured::of(&cases, options.schedule)?;
    missing.extend(measured.disturbance());
    if let Some(awake) = awake {
        awake.end();
    }
    let versions = servers.stop()?;
    Ok(Report {
        suite: "triton",
        command: options.command.clone(),
        date: machine::now(),
        machine,
        versions,
        config: config(options, halves),
        rows: measured.rows(OURS, &PEERS),
        bars: bars::bars(&measured),
        missing,
        samples: measured.samples(),
    })
}

/// All settings that shape the result.
fn config(options: &Options, halves: Option<Halves>) -> Value {
    json!({
        "models": "identity: FP32, one dynamic dimension; cls: the text-line classifier of the OCR models, FP32",
        "protocol": "HTTP/1.1, keep-alive, 127.0.0.1, tensors binary in both directions",
        "client": "one thread and one connection per unit of concurrency",
        "batching": "none in any server: max_batch_size 0, no dynamic batching",
        "instances": options.instances,
        "instance_kind": "KIND_CPU",
        "intra_op_thread_count": models::ENGINE_THREADS,
        "answers": "compared byte for byte",
        "cpu": "all processes of a server; Triton's with the stubs of its Python backend, whichever backend is busy",
        "placement": placement::describe(halves),
        "window_s": options.window.as_secs_f64(),
        "warm_up_s": warm_up(options.window).as_secs_f64(),
        "rounds": options.schedule.rounds,
        "attempts": options.schedule.attempts,
        "figure": "median over the rounds",
        "weldpool": "defaults",
    })
}
