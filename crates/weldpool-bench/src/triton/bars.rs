//! What our backend is held to in Triton: to the bare identity backend, which nothing can beat, and to the
//! Python backend, which everybody has.

use super::cells::cells;
use super::servers::{BARE, OURS, PYTHON};
use crate::report::{Better, Verdict};
use crate::rounds::{Measured, THROUGHPUT};

/// Share of the bare identity backend's throughput where a request is small.
const BARE_SHARE: f64 = 0.85;
/// Multiple of the Python backend's throughput where a request is small.
const PYTHON_SMALL: f64 = 1.0;
/// The same everywhere else.
const PYTHON_SHARE: f64 = 0.97;

/// The bars in each cell that has the figures.
pub(super) fn bars(measured: &Measured) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for cell in cells() {
        let name = cell.to_string();
        let of = |server| measured.figure(&name, server, THROUGHPUT);
        let wanted: &[(&str, f64)] = if cell.work.is_small() {
            &[(BARE, BARE_SHARE), (PYTHON, PYTHON_SMALL)]
        } else {
            &[(PYTHON, PYTHON_SHARE)]
        };
        for (peer, limit) in wanted {
            if let Some((ours, theirs)) = of(OURS).zip(of(peer)) {
                let case = format!("{name}: throughput of {peer}'s");
                let ratio = ours / theirs;
                verdicts.push(Verdict::new(
                    "backend",
                    case,
                    "x",
                    Better::Higher,
                    ratio,
                    *limit,
                ));
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Sample;

    fn measured(rates: &[(&str, &str, f64)]) -> Measured {
        let mut measured = Measured::default();
        for (cell, server, throughput) in rates {
            let sample = Sample {
                requests: 1,
                throughput: *throughput,
                p50_us: 1.0,
                p99_us: 1.0,
                cpu_us: 1.0,
                foreign: 0.0,
            };
            measured.add(cell, server, sample);
        }
        measured
    }

    #[test]
    fn a_small_request_is_held_to_both() {
        let cell = "identity 64 B, concurrency 8";
        let rates = [
            (cell, OURS, 84.0),
            (cell, BARE, 100.0),
            (cell, PYTHON, 80.0),
        ];
        let verdicts = bars(&measured(&rates));
        assert_eq!(verdicts.len(), 2);
        assert!(
            !verdicts[0].met && verdicts[0].case.contains(BARE),
            "{}",
            verdicts[0]
        );
        assert!(
            verdicts[1].met && verdicts[1].case.contains(PYTHON),
            "{}",
            verdicts[1]
        );
        let short = bars(&measured(&[(cell, OURS, 79.0), (cell, PYTHON, 80.0)]));
        assert!(!short[0].met, "{}", short[0]);
    }

    #[test]
    fn others_are_held_to_python_alone() {
        let cell = "cls 1x3x48x192, concurrency 1";
        for (ours, met) in [(97.0, true), (96.0, false)] {
            let rates = [(cell, OURS, ours), (cell, PYTHON, 100.0)];
            let verdicts = bars(&measured(&rates));
            assert_eq!(verdicts.len(), 1);
            assert_eq!(verdicts[0].met, met, "{}", verdicts[0]);
        }
        let large = "identity 1 MiB, concurrency 1";
        let rates = [(large, OURS, 10.0), (large, BARE, 100.0)];
        assert!(bars(&measured(&rates)).is_empty());
    }
}
