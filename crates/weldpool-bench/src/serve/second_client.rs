//! The same cells through `perf_analyzer`, so that no figure rests on our client alone.
//!
//! Its work per request is larger than ours and, for large tensors, larger than a fast server's: it copies and
//! keeps every answer. Where it is the slower side, its rates say little about the servers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{CEILING, CELLS, OURS, Options, Server};
use crate::error::Result;
use crate::peers::fetch::python;
use crate::peers::perf_analyzer::{Figures, PerfAnalyzer};
use crate::report::Row;
use crate::request::MODEL;
use crate::rounds::{Figure, P50, P99, THROUGHPUT};
use crate::statistics::median;

/// Longest window of its three; longer ones only make it keep more records.
const WINDOW_MAX: Duration = Duration::from_millis(500);

/// How a figure is read from a report.
type Reading = fn(&Figures) -> f64;

const FIGURES: [(Figure, Reading); 3] = [
    (THROUGHPUT, |found| found.throughput),
    (P50, |found| found.p50_us),
    (P99, |found| found.p99_us),
];

/// Rows for the cells it could measure, and a line for each it could not.
pub(super) fn measure(
    peers: &Path,
    servers: &[Server],
    options: &Options,
) -> Result<(Vec<Row>, Vec<String>)> {
    let client = PerfAnalyzer::ready(&python()?, peers)?;
    let window = options.window.min(WINDOW_MAX);
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for cell in CELLS {
        let mut found: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
        for round in 0..options.schedule.rounds {
            for turn in 0..servers.len() {
                let server = &servers[(round + turn) % servers.len()];
                let name = server.name.as_str();
                match client.run(server.address, MODEL, cell.bytes, cell.concurrency, window) {
                    Ok(figures) => {
                        eprintln!("{cell}, perf_analyzer, {name}: {:.0}/s", figures.throughput);
                        found.entry(name).or_default().push(figures);
                    }
                    Err(error) => missing.push(format!("{cell}, perf_analyzer, {name}: {error}")),
                }
            }
        }
        let others = servers
            .iter()
            .map(|server| server.name.as_str())
            .filter(|name| *name != OURS);
        for other in others {
            let suffix = if other == CEILING {
                ", against the ceiling"
            } else {
                ""
            };
            for (figure, of) in FIGURES {
                let value = |name| median(&found.get(name)?.iter().map(of).collect::<Vec<_>>());
                let peers = value(other).map(|value| (other.to_owned(), value));
                rows.push(Row::new(
                    format!("{cell}, perf_analyzer: {}{suffix}", figure.name),
                    figure.unit,
                    figure.better,
                    value(OURS),
                    peers.into_iter().collect(),
                ));
            }
        }
    }
    Ok((rows, missing))
}
