//! The serving suite: our server beside Triton and beside the ceiling, over HTTP.
//!
//! All servers run at once, one of them busy at a time, in [rounds](crate::rounds).

mod bars;
mod cells;
mod overhead;
mod second_client;
mod servers;

use std::time::Duration;

use serde_json::{Value, json};

pub use cells::{CELLS, Cell};
pub use servers::{CEILING, OURS, Server};

use crate::cargo;
use crate::error::Result;
use crate::machine::{self, Machine};
use crate::placement::{self, Awake, Halves};
use crate::report::Report;
use crate::request::MODEL;
use crate::rounds::{Schedule, warm_up};
use servers::Servers;

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// Length of one measurement.
    pub window: Duration,
    /// How often to measure.
    pub schedule: Schedule,
    /// Leave our server out.
    pub peers_only: bool,
    /// Measure with `perf_analyzer` too.
    pub second_client: bool,
    /// Requests that Triton's model runs at once.
    pub triton_instances: usize,
    /// Give the client and the servers processors of their own, instead of leaving it to the scheduler.
    pub split: bool,
}

/// Runs the suite.
///
/// # Errors
/// Those of starting a server and of measuring it. A peer that this platform does not have is not an error: the
/// report says that it is missing.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::this();
    let mut missing = Vec::new();
    let peers = cargo::target_directory()?.join("weldpool/peers");
    let halves = if options.split {
        Halves::split()?
    } else {
        None
    };
    let mut start = || Servers::start(options, &peers, &mut missing);
    let servers = match halves {
        Some(halves) => halves.start_servers(start)?,
        None => start()?,
    };
    let awake = halves.map(|halves| Awake::all(&halves)).transpose()?;
    let measured = cells::measure(&servers.list, options)?;
    missing.extend(measured.disturbance());
    let mut rows = cells::rows(&measured);
    let mut bars = bars::p8(&measured);
    match overhead::measure(&servers, options)? {
        Ok(overhead) => {
            rows.extend(overhead.rows());
            bars.extend(bars::p9(&overhead));
        }
        Err(reason) => missing.push(format!("bar P9: {reason}")),
    }
    if options.second_client {
        match second_client::measure(&peers, &servers.list, options) {
            Ok((more, gaps)) => {
                rows.extend(more);
                missing.extend(gaps);
            }
            Err(error) => missing.push(format!("perf_analyzer: {error}")),
        }
    }
    if let Some(awake) = awake {
        awake.end();
    }
    let versions = servers.stop()?;
    Ok(Report {
        suite: "serve",
        command: options.command.clone(),
        date: machine::now(),
        machine,
        versions,
        config: config(options, halves),
        rows,
        bars,
        missing,
        samples: measured.samples(),
    })
}

/// All settings that shape the result.
fn config(options: &Options, halves: Option<Halves>) -> Value {
    json!({
        "model": MODEL,
        "tensor": "FP32, one dynamic dimension, binary in both directions",
        "protocol": "HTTP/1.1, keep-alive, 127.0.0.1",
        "client": "one thread and one connection per unit of concurrency",
        "placement": placement::describe(halves),
        "window_s": options.window.as_secs_f64(),
        "warm_up_s": warm_up(options.window).as_secs_f64(),
        "rounds": options.schedule.rounds,
        "attempts": options.schedule.attempts,
        "figure": "median over the rounds",
        "triton_instances": options.triton_instances,
        "weldpool": "defaults",
    })
}
