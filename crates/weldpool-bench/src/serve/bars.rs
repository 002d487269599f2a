//! The design's bars P8 and P9, held against the figures.

use super::cells::{CELLS, peer, size};
use super::overhead::Overhead;
use super::{CEILING, OURS};
use crate::report::{Better, Verdict};
use crate::rounds::{CPU, Measured, P99, THROUGHPUT};

/// P8: share of the ceiling's throughput.
const CEILING_SHARE: f64 = 0.93;
/// P8: share of Triton's processor time.
const CPU_SHARE: f64 = 0.5;
/// P9: microseconds beside the engine.
const OVERHEAD_US: f64 = 60.0;

/// Bar P8 in each cell that has the figures.
pub(super) fn p8(measured: &Measured) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for cell in CELLS.map(|cell| cell.to_string()) {
        let mut hold = |figure, other: Option<&str>, what: &str, better, limit| {
            let of = |server| measured.figure(&cell, server, figure);
            if let Some((ours, theirs)) = of(OURS).zip(other.and_then(of)) {
                let case = format!("{cell}: {what}");
                let ceiling = of(CEILING).filter(|_| other != Some(CEILING));
                let verdict = Verdict::new("P8", case, "x", better, ours / theirs, limit);
                verdicts.push(verdict.beside_ceiling(ceiling.map(|ceiling| ceiling / theirs)));
            }
        };
        let peer = peer(measured);
        hold(
            THROUGHPUT,
            Some(CEILING),
            "throughput of the ceiling's",
            Better::Higher,
            CEILING_SHARE,
        );
        hold(
            THROUGHPUT,
            peer,
            "throughput of Triton's",
            Better::Higher,
            1.0,
        );
        hold(
            CPU,
            peer,
            "CPU per request of Triton's",
            Better::Lower,
            CPU_SHARE,
        );
        hold(P99, peer, "p99 of Triton's", Better::Lower, 1.0);
    }
    verdicts
}

/// Bar P9 for each size; from 1 MiB up one copy of the tensor is allowed on top.
pub(super) fn p9(overhead: &Overhead) -> Vec<Verdict> {
    let verdicts = overhead.by_size.iter().map(|(bytes, value)| {
        let (limit, allowance) = if *bytes >= 1 << 20 {
            (OVERHEAD_US + overhead.memcpy_us, ", one memcpy allowed")
        } else {
            (OVERHEAD_US, "")
        };
        let case = format!("HTTP {}: overhead p50{allowance}", size(*bytes));
        Verdict::new("P9", case, "us", Better::Lower, *value, limit)
    });
    verdicts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_tensor_is_allowed_one_copy() {
        let overhead = Overhead {
            by_size: vec![(64, 61.0), (1 << 20, 99.0)],
            memcpy_us: 40.0,
        };
        let verdicts = p9(&overhead);
        assert!(!verdicts[0].met);
        assert!(verdicts[1].met);
    }
}
