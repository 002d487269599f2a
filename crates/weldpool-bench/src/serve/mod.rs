//! The serving suite: our server beside Triton and beside the ceiling, over HTTP.
//!
//! All servers run at once, one of them busy at a time, on processors of their own (see [`crate::placement`]). Each cell is measured in several short rounds with the
//! servers' order rotated from round to round, and the figure is the median over the rounds: the machine is
//! shared, so a long run of one server would be charged with whatever else happened then.

mod bars;
mod cells;
mod overhead;
mod second_client;
mod servers;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

pub use cells::{CELLS, Cell};
pub use servers::{CEILING, OURS, Server};

use crate::cargo;
use crate::error::Result;
use crate::machine::{self, Machine};
use crate::peers::fetch::python;
use crate::placement::{Awake, Halves};
use crate::report::Report;
use crate::request::MODEL;
use servers::Servers;

/// What to measure, and how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line, for the report.
    pub command: String,
    /// Length of one measurement.
    pub window: Duration,
    /// Measurements of each server in each cell.
    pub rounds: usize,
    /// Leave our server out.
    pub peers_only: bool,
    /// Measure with `perf_analyzer` too.
    pub second_client: bool,
    /// Requests that Triton's model runs at once.
    pub triton_instances: usize,
    /// Leave it to the scheduler where client and servers run.
    pub free_placement: bool,
}

/// Time before each window.
fn warm_up(window: Duration) -> Duration {
    (window / 4).clamp(Duration::from_millis(100), Duration::from_millis(500))
}

/// Runs the suite.
///
/// # Errors
/// Those of starting a server and of measuring it. A peer that this platform does not have is not an error: the
/// report says that it is missing.
pub fn run(options: &Options) -> Result<Report> {
    let mut missing = Vec::new();
    let peers = cargo::target_directory()?.join("weldpool/peers");
    let halves = if options.free_placement {
        None
    } else {
        Halves::split()?
    };
    let mut start = || Servers::start(options, &peers, &mut missing);
    let servers = match halves {
        Some(halves) => halves.start_servers(start)?,
        None => start()?,
    };
    let awake = halves.map(|halves| Awake::all(&halves)).transpose()?;
    let measured = cells::measure(&servers.list, options)?;
    let mut rows = measured.rows();
    let mut bars = bars::p8(&measured);
    match &servers.ours_metrics {
        Some(metrics) => match overhead::measure(&servers, *metrics, options)? {
            Some(overhead) => {
                rows.extend(overhead.rows());
                bars.extend(bars::p9(&overhead));
            }
            None => missing.push(format!(
                "bar P9: the server publishes no {}",
                overhead::METRIC
            )),
        },
        None => missing.push("ours and bar P9: only the peers were asked for".to_owned()),
    }
    if options.second_client {
        let found = python()
            .and_then(|python| second_client::measure(&python, &peers, &servers.list, options));
        match found {
            Ok((more, gaps)) => {
                rows.extend(more);
                missing.extend(gaps);
            }
            Err(error) => missing.push(format!("perf_analyzer: {error}")),
        }
    }
    let samples = measured.samples();
    let versions: BTreeMap<String, String> = servers.versions.clone();
    drop(awake);
    servers.stop()?;
    Ok(Report {
        suite: "serve",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions,
        config: json!({
            "model": MODEL,
            "tensor": "FP32, one dynamic dimension, binary in both directions",
            "protocol": "HTTP/1.1, keep-alive, 127.0.0.1",
            "client": "one thread and one connection per unit of concurrency",
            "window_s": options.window.as_secs_f64(),
            "warm_up_s": warm_up(options.window).as_secs_f64(),
            "rounds": options.rounds,
            "figure": "median over the rounds",
            "triton_instances": options.triton_instances,
            "placement": placement(halves),
            "weldpool": "defaults",
        }),
        rows,
        bars,
        missing,
        samples,
    })
}

/// Where client and servers ran, in words.
fn placement(halves: Option<Halves>) -> String {
    match halves.map(|halves| halves.counts()) {
        Some((client, server)) => {
            format!("client on {client} processors, servers on {server} others, none halting")
        }
        None => "left to the scheduler".to_owned(),
    }
}
