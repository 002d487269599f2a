//! Workloads that use the same sizes again and again: how many driver calls the pool avoids, and what it holds
//! for that.

use std::collections::BTreeMap;

use weldpool::{Allocator, Buffer, Stats};

use crate::error::{Error, ErrorKind, Result};
use crate::report::{Better, Row, Verdict};

/// Driver allocations that are to be avoided, in percent of all requests.
const AVOIDED_MIN: f64 = 99.9;
/// Reserved / live up to which that counts.
const RATIO_MAX: f64 = 1.02;

/// Sizes of the mixed workload, from small tensors to activations.
const MIXED: [usize; 10] = [
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    100_000,
    256 << 10,
    1 << 20,
    3 << 20,
    16 << 20,
];

/// Each workload: its name, and the sizes that one round allocates before it frees them.
fn workloads() -> [(&'static str, Vec<usize>); 2] {
    let mixed = MIXED.into_iter().cycle().take(1000).collect();
    [
        ("1000 x 4 KiB", vec![4096; 1000]),
        ("1000 mixed sizes", mixed),
    ]
}

pub(super) fn run(quick: bool) -> Result<(Vec<Row>, Vec<Verdict>)> {
    let rounds = if quick { 20 } else { 2000 };
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for (name, sizes) in workloads() {
        let stats = measure(&sizes, rounds).map_err(|error| {
            Error::caused(ErrorKind::Environment, format!("running {name}"), error)
        })?;
        let avoided = 100.0 * stats.allocation_reduction();
        let ratio = stats.reserved.peak as f64 / stats.live.peak as f64;
        let figures = [
            (
                "driver allocations avoided",
                "%",
                Better::Higher,
                avoided,
                AVOIDED_MIN,
            ),
            (
                "peak reserved / peak live",
                "",
                Better::Lower,
                ratio,
                RATIO_MAX,
            ),
        ];
        for (what, unit, better, value, limit) in figures {
            let case = format!("host reuse {name}, {rounds} rounds: {what}");
            rows.push(Row::new(
                case.clone(),
                unit,
                better,
                Some(value),
                BTreeMap::new(),
            ));
            bars.push(Verdict::new("P5", case, unit, better, value, limit));
        }
    }
    Ok((rows, bars))
}

fn measure(sizes: &[usize], rounds: usize) -> weldpool::Result<Stats> {
    let allocator = Allocator::host()?;
    let mut live: Vec<Buffer> = Vec::with_capacity(sizes.len());
    for _ in 0..rounds {
        for &bytes in sizes {
            live.push(allocator.allocate(bytes)?);
        }
        live.clear();
    }
    Ok(allocator.stats())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_rounds_call_no_driver() {
        for (name, sizes) in workloads() {
            let first = measure(&sizes, 2).unwrap();
            let later = measure(&sizes, 20).unwrap();
            assert_eq!(later.growths, first.growths, "{name}");
            assert_eq!(later.allocations, 20 * sizes.len() as u64);
        }
    }
}
