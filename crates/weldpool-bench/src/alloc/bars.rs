//! The design's bars P1 and P3 and the bounds on recording and mappings, held against the figures: which rows each is about, and what it asks of them.

use super::cases::{Case, Field, SIZES, Workload};
use super::contender::Contender;
use super::mappings;
use super::rounds::Measured;
use crate::report::{Better, Verdict};

/// P1: from this size up, with 64 live, the lead over the best peer.
const LARGE_BYTES: usize = 1 << 20;
const LARGE_LEAD: f64 = 20.0;
/// P1: the slowest size's time of the fastest's, alone, that still counts as flat.
const FLAT: f64 = 2.0;
/// P3: share of the scaling of a thread-local loop.
const SCALING_SHARE: f64 = 0.8;

/// Most nanoseconds that recording adds to an allocation or a free.
const RECORDED_NS: f64 = 100.0;

/// The bar that the row of `case` belongs to; none for rows that are there to be seen.
pub(super) fn of(case: &Case) -> Option<&'static str> {
    match (case.field, case.workload) {
        (
            Field::Host,
            Workload::Pair(_) | Workload::Batch(_) | Workload::Write(_) | Workload::WriteBatch(_),
        ) => Some("P1"),
        (Field::Host, Workload::Mixed(_)) => Some("P3"),
        _ => None,
    }
}

/// Both bars in all cases that were measured.
pub(super) fn verdicts(measured: &Measured) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for (case, row) in measured.cases().zip(measured.rows()) {
        let (Some(bar), Some(ratio)) = (of(case), row.ratio) else {
            continue;
        };
        let lead = |limit| {
            let what = format!("{case}: lead over the best peer");
            Verdict::new(bar, what, "x", Better::Higher, ratio, limit)
        };
        match case.workload {
            Workload::Pair(256) | Workload::Batch(256) => verdicts.extend(mimalloc(measured, case)),
            _ => {}
        }
        match case.workload {
            Workload::Batch(LARGE_BYTES..) => verdicts.push(lead(LARGE_LEAD)),
            _ => verdicts.push(lead(1.0)),
        }
    }
    verdicts.extend(flat(measured));
    verdicts.extend(scaling(measured));
    verdicts.extend(recording(measured));
    verdicts.extend(mappings(measured, mappings::limit()));
    verdicts
}

/// Recording stays cheap enough to be left on.
fn recording(measured: &Measured) -> Option<Verdict> {
    let case = Case {
        field: Field::Seeing,
        workload: Workload::Recorded,
    };
    let ns = measured.figure(&case, Contender::Ours)?;
    let what = case.to_string();
    Some(Verdict::new(
        "recording",
        what,
        case.unit(),
        Better::Lower,
        ns,
        RECORDED_NS,
    ))
}

/// The number of mappings stays below half of what the system lets a process have.
fn mappings(measured: &Measured, limit: Option<u64>) -> Option<Verdict> {
    let (most, case) = measured.mappings_max(Contender::Ours)?;
    let half = limit? / 2;
    Some(Verdict::new(
        "mappings",
        format!("at most half of the system's limit; the most in {case}"),
        "mappings",
        Better::Lower,
        most as f64,
        half as f64,
    ))
}

/// P1 at the smallest size: at most mimalloc's time, at its better setting.
fn mimalloc(measured: &Measured, case: &Case) -> Option<Verdict> {
    let ours = measured.figure(case, Contender::Ours)?;
    let theirs = [Contender::Mimalloc, Contender::MimallocKeeping]
        .into_iter()
        .filter_map(|contender| measured.figure(case, contender))
        .reduce(f64::min)?;
    let what = format!("{case}: time of mimalloc's");
    Some(Verdict::new(
        "P1",
        what,
        "x",
        Better::Lower,
        ours / theirs,
        1.0,
    ))
}

/// P1: flat over the sizes, once more than one was measured.
fn flat(measured: &Measured) -> Option<Verdict> {
    let times = SIZES.into_iter().filter_map(|bytes| {
        let case = Case {
            field: Field::Host,
            workload: Workload::Pair(bytes),
        };
        measured.figure(&case, Contender::Ours)
    });
    let times: Vec<f64> = times.collect();
    let slowest = times.iter().copied().reduce(f64::max)?;
    let fastest = times.iter().copied().reduce(f64::min)?;
    let verdict = || {
        let what = "pair: the slowest size's time of the fastest's";
        Verdict::new("P1", what, "x", Better::Lower, slowest / fastest, FLAT)
    };
    (times.len() > 1).then(verdict)
}

/// P3: how the rate grows with threads, against how that of a loop grows that shares nothing.
fn scaling(measured: &Measured) -> Vec<Verdict> {
    let rate = |threads, contender| {
        let case = Case {
            field: Field::Host,
            workload: Workload::Mixed(threads),
        };
        measured.figure(&case, contender)
    };
    let growth = |threads, contender| Some(rate(threads, contender)? / rate(1, contender)?);
    let counts = measured.cases().filter_map(|case| match case.workload {
        Workload::Mixed(threads) if threads > 1 => Some(threads),
        _ => None,
    });
    let verdicts = counts.filter_map(|threads| {
        let ours = growth(threads, Contender::Ours)?;
        let share = ours / growth(threads, Contender::Reference)?;
        let what = format!("mixed sizes, {threads} threads: scaling of a thread-local loop's");
        Some(Verdict::new(
            "P3",
            what,
            "x",
            Better::Higher,
            share,
            SCALING_SHARE,
        ))
    });
    verdicts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(workload: Workload) -> Case {
        Case {
            field: Field::Host,
            workload,
        }
    }

    fn of_case(verdicts: &[Verdict], case: &str) -> Vec<(f64, bool)> {
        let found = verdicts
            .iter()
            .filter(|verdict| verdict.case.starts_with(case));
        found.map(|verdict| (verdict.value, verdict.met)).collect()
    }

    #[test]
    fn the_best_peer_counts_and_large_batches_ask_for_more() {
        let (small, large) = (host(Workload::Batch(256)), host(Workload::Batch(1 << 20)));
        let measured = Measured::default()
            .with(small, Contender::Ours, 10.0)
            .with(small, Contender::Mimalloc, 8.0)
            .with(small, Contender::MimallocKeeping, 20.0)
            .with(large, Contender::Ours, 10.0)
            .with(large, Contender::Jemalloc, 190.0);
        let verdicts = verdicts(&measured);
        assert_eq!(
            of_case(&verdicts, "64 live, 256 B"),
            [(1.25, false), (0.8, false)]
        );
        assert_eq!(of_case(&verdicts, "64 live, 1 MiB"), [(19.0, false)]);
    }

    #[test]
    fn flatness_needs_two_sizes() {
        let one = Measured::default().with(host(Workload::Pair(256)), Contender::Ours, 10.0);
        assert!(flat(&one).is_none());
        let two = one.with(host(Workload::Pair(1 << 20)), Contender::Ours, 20.0);
        assert!(flat(&two).is_some_and(|verdict| verdict.met));
        let three = two.with(host(Workload::Pair(64 << 20)), Contender::Ours, 21.0);
        assert!(flat(&three).is_some_and(|verdict| !verdict.met));
    }

    #[test]
    fn scaling_is_relative_to_the_loop_that_shares_nothing() {
        let (one, two) = (host(Workload::Mixed(1)), host(Workload::Mixed(2)));
        let measured = Measured::default()
            .with(one, Contender::Ours, 10.0)
            .with(two, Contender::Ours, 12.5)
            .with(one, Contender::Reference, 2.0)
            .with(two, Contender::Reference, 2.0);
        let verdicts = scaling(&measured);
        assert_eq!((verdicts[0].value, verdicts[0].met), (0.8, true));
    }

    #[test]
    fn mappings_are_held_against_half_of_the_limit() {
        let measured = |mappings| {
            let mut measured =
                Measured::default().with(host(Workload::Pair(256)), Contender::Ours, 1.0);
            measured.set_mappings(mappings);
            measured
        };
        let met = |most, limit| mappings(&measured(most), limit).map(|verdict| verdict.met);
        assert_eq!(met(Some(500), Some(1000)), Some(true));
        assert_eq!(met(Some(501), Some(1000)), Some(false));
        assert_eq!(met(None, Some(1000)), None);
        assert_eq!(met(Some(1), None), None);
    }

    #[test]
    fn recording_has_a_bound() {
        let case = Case {
            field: Field::Seeing,
            workload: Workload::Recorded,
        };
        let met = |ns| {
            let measured = Measured::default().with(case, Contender::Ours, ns);
            of_case(&verdicts(&measured), "recording")
        };
        assert_eq!(met(100.0), [(100.0, true)]);
        assert_eq!(met(100.5), [(100.5, false)]);
    }

    #[test]
    fn rows_without_a_bar_are_held_against_none() {
        let case = host(Workload::ProducerConsumer(256));
        let measured = Measured::default().with(case, Contender::Ours, 10.0).with(
            case,
            Contender::Mimalloc,
            1.0,
        );
        assert!(verdicts(&measured).is_empty());
    }
}
