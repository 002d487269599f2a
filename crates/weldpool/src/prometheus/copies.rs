//! Metrics of copiers.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::table::write_named;
use super::{Family, Kind, Metric, Value};
use crate::transfer::{CopyPath, CopyStats, PathStats};

const PATHS: &[Metric<PathStats>] = metrics! { "weldpool_copier_":
    "copies_total", Counter, "Copies that came to an end", |path| path.copies;
    "bytes_total", Counter, "Bytes that arrived", |path| path.bytes;
    "seconds_total", Counter, "Seconds that copies took, without their waits for other work", |path| path.ns as f64 / 1e9;
};

const COPIERS: &[Metric<CopyStats>] = metrics! { "weldpool_copier_":
    "cancelled_total", Counter, "Copies that were cancelled before their end", |all| all.cancelled;
    "failed_total", Counter, "Copies that failed", |all| all.failed;
    "threads", Gauge, "Threads that help with copies", |all| all.threads;
};

/// The metrics of copiers, `weldpool_copier_*`, each under the label `copier`; copies, bytes and seconds have `path`
/// besides, the [name](CopyPath::name) of the way that the bytes took.
#[must_use]
pub fn copies(copiers: &[(&str, &CopyStats)]) -> String {
    let mut text = String::with_capacity(2 << 10);
    // A string takes everything.
    let _infallible = write_copies_to(&mut text, copiers);
    text
}

/// Writes what [`copies`] gives.
///
/// # Errors
///
/// What `out` says.
pub fn write_copies_to(out: &mut impl Write, copiers: &[(&str, &CopyStats)]) -> fmt::Result {
    for metric in PATHS {
        let mut family = Family::begin(out, metric.name, metric.kind, metric.help)?;
        for (name, stats) in copiers {
            for path in CopyPath::ALL {
                let labels = [("copier", *name), ("path", path.name())];
                family.sample(&labels, (metric.read)(&stats.of(path)))?;
            }
        }
    }
    write_named(out, COPIERS, "copier", copiers)
}
