//! A histogram of durations that threads share: constant relative error, constant size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per doubling: a quantile is off by at most a 32nd.
const STEPS: u64 = 32;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();
/// Durations of 2^40 ns, some 18 minutes, and above share the last bucket.
const BUCKETS: usize = ((40 - STEPS_LOG2 as usize) + 1) * STEPS as usize;

/// Counts of durations by size.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_ns: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[index(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How many durations were counted, and their sum.
    #[must_use]
    pub fn totals(&self) -> (u64, Duration) {
        let count = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum();
        (
            count,
            Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        )
    }

    /// The durations below which these parts of all lie; none before the first is counted.
    #[must_use]
    pub fn quantiles<const N: usize>(&self, parts: [f64; N]) -> Option<[Duration; N]> {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        Some(parts.map(|part| {
            let rank = ((total as f64 * part).ceil() as u64).clamp(1, total);
            let mut seen = 0;
            let bucket = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            Duration::from_nanos(middle(bucket.unwrap_or(BUCKETS - 1)))
        }))
    }
}

/// Values below `STEPS` have buckets of their own; each doubling above has `STEPS` buckets.
fn index(ns: u64) -> usize {
    if ns < STEPS {
        return ns as usize;
    }
    let shift = ns.ilog2() - STEPS_LOG2;
    let index = u64::from(shift) * STEPS + (ns >> shift);
    (index as usize).min(BUCKETS - 1)
}

/// The value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    let low = (index - shift * STEPS) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_middles() {
        let mut last = 0;
        for ns in (0..10_000).chain((14..40).map(|shift| (1 << shift) + 7)) {
            let index = index(ns);
            assert!(index >= last, "{ns}");
            last = index;
            let middle = middle(index) as f64;
            assert!(
                (middle - ns as f64).abs() <= ns as f64 / 32.0,
                "{ns} is near {middle}"
            );
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_ranks() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantiles([0.5]), None);
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        let [median, p99] = histogram.quantiles([0.5, 0.99]).unwrap();
        assert!(
            (median.as_secs_f64() / 500e-6 - 1.0).abs() < 0.04,
            "{median:?}"
        );
        assert!((p99.as_secs_f64() / 990e-6 - 1.0).abs() < 0.04, "{p99:?}");
        assert_eq!(histogram.totals(), (1000, Duration::from_micros(500_500)));
    }
}
