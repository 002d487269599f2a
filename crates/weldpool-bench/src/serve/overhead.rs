//! Bar P9: what our server adds to a request, as it measures itself.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use super::cells::{Cell, load, size};
use super::servers::Servers;
use super::{OURS, Options};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::report::{Better, Row};
use crate::statistics::median;

/// The summary our server publishes: from the last byte of a request read to the first byte of its answer
/// written, less the engine's time, in microseconds, per model.
const METRIC: &str = "weldpool_http_overhead_us";

/// A model for each size, so that the summaries are kept apart.
pub(super) const MODELS: [(&str, usize); 2] = [
    ("identity_overhead_small", 64),
    ("identity_overhead_large", 1 << 20),
];

/// Copies timed for the figure of one memcpy.
const COPIES: usize = 401;

/// The figures of bar P9, in microseconds.
#[derive(Debug)]
pub(super) struct Overhead {
    /// Median overhead by tensor size.
    pub(super) by_size: Vec<(usize, f64)>,
    /// Median time of copying 1 MiB from and to memory that is in use.
    pub(super) memcpy_us: f64,
}

/// Sends both sizes, one request at a time, and reads what the server says of them; the inner error is the reason
/// why there is nothing to read.
pub(super) fn measure(
    servers: &Servers,
    options: &Options,
) -> Result<std::result::Result<Overhead, String>> {
    let Some((ours, metrics)) = servers.ours().zip(servers.ours_metrics) else {
        return Ok(Err("only the peers were asked for".to_owned()));
    };
    for (model, bytes) in MODELS {
        let cell = Cell {
            bytes,
            concurrency: 1,
        };
        load(ours, model, cell, options).run()?;
    }
    let published = Metrics::read(metrics)?;
    let by_size: Option<Vec<(usize, f64)>> = MODELS
        .iter()
        .map(|(model, bytes)| {
            let labels = [("model", *model), ("quantile", "0.5")];
            Some((*bytes, published.value(METRIC, &labels)?))
        })
        .collect();
    let overhead = by_size.map(|by_size| Overhead {
        by_size,
        memcpy_us: memcpy_us(1 << 20),
    });
    Ok(overhead.ok_or_else(|| format!("the server publishes no {METRIC}")))
}

/// Median time of copying `bytes` bytes between two buffers that stay in the cache: the cheapest copy there is,
/// so the allowance it gives is the smallest.
fn memcpy_us(bytes: usize) -> f64 {
    let source = vec![1_u8; bytes];
    let mut target = vec![0_u8; bytes];
    let times: Vec<f64> = (0..COPIES)
        .map(|_| {
            let start = Instant::now();
            black_box(&mut target[..]).copy_from_slice(black_box(&source));
            start.elapsed().as_nanos() as f64 / 1e3
        })
        .collect();
    median(&times).unwrap_or_default()
}

impl Overhead {
    /// The overheads, and the copy they are allowed.
    pub(super) fn rows(&self) -> Vec<Row> {
        let row = |case, value| Row::new(case, "us", Better::Lower, Some(value), BTreeMap::new());
        let overheads = self.by_size.iter().map(|(bytes, value)| {
            row(
                format!(
                    "{OURS} HTTP {}: overhead beside the engine, p50",
                    size(*bytes)
                ),
                *value,
            )
        });
        overheads
            .chain([row("memcpy of 1 MiB, p50".to_owned(), self.memcpy_us)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_takes_time() {
        let time = memcpy_us(1 << 20);
        assert!(time > 1.0 && time < 1e5, "{time}");
    }
}
