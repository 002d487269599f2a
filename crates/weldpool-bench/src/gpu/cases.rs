//! What is measured of every allocator.

use std::collections::BTreeMap;
use std::fmt;

use super::contender::Contender;
use super::traces;
use crate::report::{Better, Row, Verdict};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const SIZES: [usize; 7] = [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB];
const BATCH_BYTES_MAX: usize = 64 * MIB;
/// How much faster than the best peer an allocation has to be (P2).
const PAIR_RATIO_MIN: f64 = 15.0;
/// How much more than the best peer all threads have to do (P3), and of the loop's own scaling.
const MIX_RATIO_MIN: f64 = 500.0;
const SCALING_MIN: f64 = 0.8;
/// P4.
const RESERVED_MAX: f64 = 1.02;
const OPERATION_NS_MAX: f64 = 2000.0;

/// A workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Case {
    Pair(usize),
    Batch(usize),
    Mixed(usize),
    Trace(String),
}

/// One figure of a workload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
}

impl Figure {
    const fn new(what: &'static str, unit: &'static str, better: Better) -> Self {
        Self { what, unit, better }
    }

    pub(super) fn key(&self, case: &str) -> String {
        match self.what {
            "" => case.to_owned(),
            what => format!("{case}: {what}"),
        }
    }
}

pub(super) const RESERVED: Figure = Figure::new("peak reserved / peak live", "", Better::Lower);
pub(super) const OPERATION: Figure = Figure::new("mean of an operation", "ns", Better::Lower);
pub(super) const DRIVER: Figure = Figure::new("time in the driver", "ns/operation", Better::Lower);
pub(super) const DRIVER_SHARE: Figure =
    Figure::new("share of time in the driver", "", Better::Lower);
pub(super) const DRIVER_CALLS: Figure =
    Figure::new("driver calls per 1000 operations", "", Better::Lower);
const PAIR: Figure = Figure::new("", "ns/pair", Better::Lower);
const RATE: Figure = Figure::new("", "million operations/s", Better::Higher);

impl Case {
    /// All cases on a machine with so many cores.
    pub(super) fn all(cores: usize) -> Vec<Self> {
        let mut cases: Vec<_> = SIZES.into_iter().map(Self::Pair).collect();
        cases.extend(
            SIZES
                .into_iter()
                .filter(|bytes| *bytes <= BATCH_BYTES_MAX)
                .map(Self::Batch),
        );
        let threads = std::iter::successors(Some(1), |threads| Some(threads * 2));
        cases.extend(
            threads
                .take_while(|threads| *threads <= cores)
                .map(Self::Mixed),
        );
        cases.extend(traces::names().into_iter().map(Self::Trace));
        cases
    }

    pub(super) fn figures(&self) -> &'static [Figure] {
        match self {
            Self::Pair(_) | Self::Batch(_) => &[PAIR],
            Self::Mixed(_) => &[RATE],
            Self::Trace(_) => &[RESERVED, OPERATION, DRIVER, DRIVER_SHARE, DRIVER_CALLS],
        }
    }

    /// What the design asks of a figure.
    pub(super) fn verdict(
        &self,
        figure: &Figure,
        row: &Row,
        values: &BTreeMap<Contender, BTreeMap<String, f64>>,
    ) -> Vec<Verdict> {
        let Some(ours) = row.ours else {
            return Vec::new();
        };
        let of = |contender, key: &str| values.get(&contender)?.get(key).copied();
        let times = |bar, limit| {
            let case = format!("{}: times the best peer", row.case);
            row.ratio
                .map(|ratio| Verdict::new(bar, case, "", Better::Higher, ratio, limit))
        };
        match self {
            Self::Pair(_) | Self::Batch(_) => times("P2", PAIR_RATIO_MIN).into_iter().collect(),
            Self::Mixed(threads) => {
                let scaling = |contender| {
                    let one = of(contender, &Self::Mixed(1).to_string())?;
                    Some(of(contender, &row.case)? / one)
                };
                let scaled = scaling(Contender::Ours)
                    .zip(scaling(Contender::Reference))
                    .map(|(ours, loops)| {
                        let case = format!("{}: scaling of the loop's", row.case);
                        Verdict::new("P3", case, "", Better::Higher, ours / loops, SCALING_MIN)
                    });
                let best = (*threads == 16)
                    .then(|| times("P3", MIX_RATIO_MIN))
                    .flatten();
                best.into_iter().chain(scaled).collect()
            }
            Self::Trace(_) => {
                let bar = |limit| {
                    Verdict::new(
                        "P4",
                        row.case.clone(),
                        figure.unit,
                        Better::Lower,
                        ours,
                        limit,
                    )
                };
                let first = match figure.what {
                    what if what == RESERVED.what => bar(RESERVED_MAX),
                    what if what == OPERATION.what => bar(OPERATION_NS_MAX),
                    _ => return Vec::new(),
                };
                // The second point: a setting beside PyTorch's expandable segments.
                let frugal = of(Contender::Frugal, &row.case);
                let second = frugal.zip(of(Contender::TorchExpandable, &row.case));
                let second = second.map(|(frugal, torch)| {
                    let case = format!("{}, frugal, against expandable segments", row.case);
                    Verdict::new("P4", case, figure.unit, Better::Lower, frugal, torch)
                });
                std::iter::once(first).chain(second).collect()
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: usize| match bytes {
            0..KIB => format!("{bytes} B"),
            KIB..MIB => format!("{} KiB", bytes / KIB),
            _ => format!("{} MiB", bytes / MIB),
        };
        match self {
            Self::Pair(bytes) => write!(f, "pair, {}", size(*bytes)),
            Self::Batch(bytes) => write!(f, "64 live, {}", size(*bytes)),
            Self::Mixed(1) => f.write_str("mixed sizes, 1 thread"),
            Self::Mixed(threads) => write!(f, "mixed sizes, {threads} threads"),
            Self::Trace(name) => write!(f, "trace {name}"),
        }
    }
}
