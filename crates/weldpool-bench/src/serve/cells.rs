//! Bar P8's cells: sizes and concurrencies, measured in rounds over all servers.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{CEILING, OURS, Options, Server, warm_up};
use crate::error::Result;
use crate::load::{Load, Sample};
use crate::report::{Better, Row};
use crate::request::MODEL;
use crate::statistics::median;

/// One combination of tensor size and concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Bytes of the tensor.
    pub bytes: usize,
    /// Requests in flight.
    pub concurrency: usize,
}

/// The cells of the suite.
pub const CELLS: [Cell; 4] = [
    Cell {
        bytes: 64,
        concurrency: 1,
    },
    Cell {
        bytes: 64,
        concurrency: 8,
    },
    Cell {
        bytes: 1 << 20,
        concurrency: 1,
    },
    Cell {
        bytes: 1 << 20,
        concurrency: 8,
    },
];

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "HTTP {}, concurrency {}",
            size(self.bytes),
            self.concurrency
        )
    }
}

/// A size as people write it.
pub(super) fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{bytes} B")
    }
}

/// Processors' worth of foreign work up to which a measurement counts as undisturbed.
const QUIET_PROCESSORS: f64 = 0.1;
/// Time before a disturbed measurement is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// A figure taken from samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    of: fn(&Sample) -> f64,
}

pub(super) const THROUGHPUT: Figure = Figure {
    name: "throughput",
    unit: "1/s",
    better: Better::Higher,
    of: |s| s.throughput,
};
pub(super) const P50: Figure = Figure {
    name: "p50",
    unit: "us",
    better: Better::Lower,
    of: |s| s.p50_us,
};
pub(super) const P99: Figure = Figure {
    name: "p99",
    unit: "us",
    better: Better::Lower,
    of: |s| s.p99_us,
};
pub(super) const CPU: Figure = Figure {
    name: "server CPU per request",
    unit: "us",
    better: Better::Lower,
    of: |s| s.cpu_us,
};
const FOREIGN: Figure = Figure {
    name: "foreign work",
    unit: "processors",
    better: Better::Lower,
    of: |s| s.foreign,
};

/// All samples of a run, by cell and server.
#[derive(Debug)]
pub(super) struct Measured {
    cells: Vec<(Cell, BTreeMap<String, Vec<Sample>>)>,
}

/// Measures all cells.
pub(super) fn measure(servers: &[Server], options: &Options) -> Result<Measured> {
    let mut cells = Vec::new();
    for cell in CELLS {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for round in 0..options.rounds {
            for turn in 0..servers.len() {
                let server = &servers[(round + turn) % servers.len()];
                let sample = measure_quietly(server, cell, options)?;
                eprintln!(
                    "{cell}, round {} of {}, {}: {:.0}/s, p50 {:.1} us, p99 {:.1} us, CPU {:.1} us; \
                     others took {:.2} processors",
                    round + 1,
                    options.rounds,
                    server.name,
                    sample.throughput,
                    sample.p50_us,
                    sample.p99_us,
                    sample.cpu_us,
                    sample.foreign
                );
                samples.entry(server.name.clone()).or_default().push(sample);
            }
        }
        cells.push((cell, samples));
    }
    Ok(Measured { cells })
}

/// Measures one server, again if something else used the machine meanwhile, and takes the least disturbed result.
fn measure_quietly(server: &Server, cell: Cell, options: &Options) -> Result<Sample> {
    let mut best = measure_one(server, MODEL, cell, options)?;
    for _ in 1..options.attempts {
        if best.foreign <= QUIET_PROCESSORS {
            break;
        }
        thread::sleep(PAUSE);
        let next = measure_one(server, MODEL, cell, options)?;
        if next.foreign < best.foreign {
            best = next;
        }
    }
    Ok(best)
}

/// Measures one server once.
pub(super) fn measure_one(
    server: &Server,
    model: &str,
    cell: Cell,
    options: &Options,
) -> Result<Sample> {
    let load = Load {
        address: server.address,
        pid: server.pid,
        model: model.to_owned(),
        bytes: cell.bytes,
        concurrency: cell.concurrency,
        warm_up: warm_up(options.window),
        window: options.window,
    };
    load.run()
}

impl Measured {
    /// The median of `figure` over the rounds of `server` in `cell`.
    pub(super) fn figure(&self, cell: Cell, server: &str, figure: Figure) -> Option<f64> {
        let (_, samples) = self.cells.iter().find(|(own, _)| *own == cell)?;
        let values: Vec<f64> = samples.get(server)?.iter().map(figure.of).collect();
        median(&values)
    }

    /// The name of the peer that is a real server.
    pub(super) fn peer(&self) -> Option<&str> {
        let (_, samples) = self.cells.first()?;
        samples
            .keys()
            .map(String::as_str)
            .find(|name| *name != OURS && *name != CEILING)
    }

    /// Two rows per cell and figure: beside the peer, and beside the ceiling.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (cell, _) in &self.cells {
            for figure in [THROUGHPUT, P50, P99, CPU] {
                for (other, suffix) in [(self.peer(), ""), (Some(CEILING), ", against the ceiling")]
                {
                    let Some(other) = other else { continue };
                    let peers = self
                        .figure(*cell, other, figure)
                        .map(|value| (other.to_owned(), value));
                    rows.push(Row::new(
                        format!("{cell}: {}{suffix}", figure.name),
                        figure.unit,
                        figure.better,
                        self.figure(*cell, OURS, figure),
                        peers.into_iter().collect(),
                    ));
                }
            }
        }
        rows
    }

    /// A warning when other work on the machine has blurred the figures.
    pub(super) fn disturbance(&self) -> Option<String> {
        let samples = self
            .cells
            .iter()
            .flat_map(|(_, servers)| servers.values().flatten());
        let (disturbed, all): (Vec<_>, Vec<_>) = (
            samples
                .clone()
                .filter(|s| s.foreign > QUIET_PROCESSORS)
                .collect(),
            samples.collect(),
        );
        let most = disturbed
            .iter()
            .map(|sample| sample.foreign)
            .reduce(f64::max)?;
        Some(format!(
            "an undisturbed machine: in {} of {} measurements other work took more than {QUIET_PROCESSORS} \
             processors, up to {most:.2}",
            disturbed.len(),
            all.len()
        ))
    }

    /// Every sample, for those who want to judge the spread.
    pub(super) fn samples(&self) -> Value {
        let list = |samples: &[Sample], figure: Figure| -> Vec<f64> {
            samples.iter().map(figure.of).collect()
        };
        let cells = self.cells.iter().flat_map(|(cell, servers)| {
            servers.iter().map(move |(server, samples)| {
                json!({
                    "case": cell.to_string(),
                    "server": server,
                    "requests": samples.iter().map(|sample| sample.requests).collect::<Vec<_>>(),
                    "throughput": list(samples, THROUGHPUT),
                    "p50_us": list(samples, P50),
                    "p99_us": list(samples, P99),
                    "cpu_us": list(samples, CPU),
                    "foreign_processors": list(samples, FOREIGN),
                })
            })
        });
        cells.collect()
    }
}
