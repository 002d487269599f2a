//! What single calls took, and what asking the clock adds to it.

#![forbid(unsafe_code)]

use std::time::Instant;

/// Times of single calls in nanoseconds, less what reading the clock takes.
#[derive(Debug)]
pub(super) struct Latencies {
    sorted_ns: Vec<u32>,
}

impl Latencies {
    /// `raw_ns` as measured between two readings of the clock.
    pub(super) fn new(mut raw_ns: Vec<u32>) -> Self {
        let overhead_ns = clock_ns();
        for ns in &mut raw_ns {
            *ns = ns.saturating_sub(overhead_ns);
        }
        raw_ns.sort_unstable();
        Self { sorted_ns: raw_ns }
    }

    pub(super) fn mean_ns(&self) -> f64 {
        if self.sorted_ns.is_empty() {
            return 0.0;
        }
        let sum: u64 = self.sorted_ns.iter().map(|ns| u64::from(*ns)).sum();
        sum as f64 / self.sorted_ns.len() as f64
    }

    /// The smallest time that `percent` of the calls do not exceed.
    pub(super) fn percentile_ns(&self, percent: usize) -> f64 {
        let rank = (self.sorted_ns.len() * percent).div_ceil(100);
        let index = rank.saturating_sub(1);
        self.sorted_ns.get(index).copied().map_or(0.0, f64::from)
    }
}

/// Nanoseconds between two readings of the clock with nothing between: the median of many.
fn clock_ns() -> u32 {
    const READINGS: usize = 4096;
    let mut readings: Vec<_> = (0..READINGS)
        .map(|_| {
            let start = Instant::now();
            start.elapsed().as_nanos()
        })
        .collect();
    readings.sort_unstable();
    u32::try_from(readings[READINGS / 2]).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_definition() {
        let latencies = Latencies {
            sorted_ns: (1..=200).collect(),
        };
        assert_eq!(latencies.percentile_ns(50), 100.0);
        assert_eq!(latencies.percentile_ns(99), 198.0);
        assert_eq!(latencies.percentile_ns(100), 200.0);
        assert_eq!(latencies.mean_ns(), 100.5);
        let none = Latencies::new(Vec::new());
        assert_eq!((none.percentile_ns(50), none.mean_ns()), (0.0, 0.0));
    }
}
