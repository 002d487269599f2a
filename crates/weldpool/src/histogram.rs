//! A histogram of sizes or durations: constant relative error, bounded size, weighted samples.

#![forbid(unsafe_code)]

/// Buckets per doubling, so that a value is known to a sixteenth.
const STEPS: u64 = 8;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();

/// Weights of values by size, eight buckets per doubling.
///
/// Values are whole numbers, bytes or nanoseconds. A weight says how many values a sample stands for;
/// 1 when every value is recorded. Histograms of the same thing can be [merged](Self::merge).
///
/// ```
/// let mut histogram = weldpool::Histogram::default();
/// for value in 1..=1000 {
///     histogram.record(value, 1.0);
/// }
/// let median = histogram.quantile(0.5).unwrap();
/// assert!((470..=530).contains(&median));
/// assert_eq!(histogram.max(), Some(1000));
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// By bucket number, as far as there are values; at most 496.
    buckets: Vec<f64>,
    samples: u64,
    weight: f64,
    sum: f64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// Counts `value` with a weight. A weight that is not a positive number counts nothing.
    pub fn record(&mut self, value: u64, weight: f64) {
        if !(weight.is_finite() && weight > 0.0) {
            return;
        }
        let index = index(value);
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, 0.0);
        }
        self.buckets[index] += weight;
        self.min = if self.samples == 0 {
            value
        } else {
            self.min.min(value)
        };
        self.max = self.max.max(value);
        self.samples += 1;
        self.weight += weight;
        self.sum += value as f64 * weight;
    }

    /// Adds what another histogram counted.
    pub fn merge(&mut self, other: &Self) {
        if other.samples == 0 {
            return;
        }
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0.0);
        }
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += other;
        }
        self.min = if self.samples == 0 {
            other.min
        } else {
            self.min.min(other.min)
        };
        self.max = self.max.max(other.max);
        self.samples += other.samples;
        self.weight += other.weight;
        self.sum += other.sum;
    }

    /// Values that were recorded, whatever their weights.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Sum of the weights: how many values the samples stand for.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.weight
    }

    /// Sum of the values, each by its weight.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Average of the values; none before the first.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum / self.weight)
    }

    /// The smallest value recorded, exactly.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.min)
    }

    /// The greatest value recorded, exactly.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (self.samples > 0).then_some(self.max)
    }

    /// The value that this part (0 to 1) of all values does not exceed, to a sixteenth; none before
    /// the first value.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<u64> {
        if self.samples == 0 {
            return None;
        }
        // A product that rounding put just above a whole number is meant to be that number.
        let rank = part.clamp(0.0, 1.0) * self.weight * (1.0 - 1e-12);
        let mut seen = 0.0;
        let found = self.buckets.iter().position(|&weight| {
            seen += weight;
            weight > 0.0 && seen >= rank
        });
        // Rounding may leave the sum of all buckets just below the rank of the last one.
        let middle = found.map_or(self.max, middle);
        Some(middle.clamp(self.min, self.max))
    }

    /// The buckets in which there is something: the greatest value that each holds, and its weight.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, f64)> {
        let buckets = self.buckets.iter().enumerate();
        buckets
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(index, &weight)| (upper(index), weight))
    }

    /// Weight of the values up to `bound`, which is exact where `bound` is a power of two.
    #[must_use]
    pub fn count_up_to(&self, bound: u64) -> f64 {
        let buckets = self.buckets.iter().enumerate();
        buckets
            .take_while(|(index, _)| upper(*index) <= bound)
            .map(|(_, weight)| weight)
            .sum()
    }
}

/// Bucket of a value. Each holds its upper bound, so that powers of two, which sizes often are, end
/// a bucket.
fn index(value: u64) -> usize {
    let below = value.saturating_sub(1);
    if below < STEPS {
        return usize::try_from(below).unwrap_or(0);
    }
    let shift = below.ilog2() - STEPS_LOG2;
    usize::try_from(u64::from(shift) * STEPS + (below >> shift)).unwrap_or(usize::MAX)
}

/// Greatest value of a bucket.
fn upper(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return index + 1;
    }
    let shift = index / STEPS - 1;
    let steps = u128::from(index - shift * STEPS + 1);
    u64::try_from(steps << shift).unwrap_or(u64::MAX)
}

/// The value in the middle of a bucket.
fn middle(index: usize) -> u64 {
    let lower = index.checked_sub(1).map_or(0, upper);
    let width = upper(index) - lower;
    upper(index) - width / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_bounds() {
        for power in 0..64 {
            let value = 1_u64 << power;
            assert_eq!(upper(index(value)), value, "a power of two ends its bucket");
        }
        let mut last = 0;
        for value in (1..10_000).chain((14..64).map(|power| (1_u64 << power) + 7)) {
            let index = index(value);
            assert!(index >= last && upper(index) >= value, "{value}");
            assert!(index == 0 || upper(index - 1) < value, "{value}");
            last = index;
        }
        assert!(index(u64::MAX) < 496);
        assert_eq!(upper(index(u64::MAX)), u64::MAX);
        assert_eq!(index(0), index(1));
    }

    #[test]
    fn nothing_and_nonsense_count_nothing() {
        let mut histogram = Histogram::default();
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            histogram.record(5, weight);
        }
        assert_eq!(histogram, Histogram::default());
        assert_eq!(histogram.quantile(0.5), None);
        assert_eq!(histogram.mean(), None);
        assert_eq!((histogram.min(), histogram.max()), (None, None));
    }

    #[test]
    fn counts_up_to_powers_of_two_are_exact() {
        let mut histogram = Histogram::default();
        for value in [255, 256, 257, 4096, 4097] {
            histogram.record(value, 1.0);
        }
        let counts = [128, 256, 512, 4096, 8192].map(|bound| histogram.count_up_to(bound));
        assert_eq!(counts, [0.0, 2.0, 3.0, 4.0, 5.0]);
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = (any::<u64>(), 0_u32..64).prop_map(|(value, shift)| value >> shift);
        prop::collection::vec(value, 1..200)
    }

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for &value in values {
            histogram.record(value, 1.0);
        }
        histogram
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list(mut values in values(), percent in 0_usize..=100) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() * percent).div_ceil(100).max(1);
            let exact = values[rank - 1];
            let got = histogram.quantile(percent as f64 / 100.0).unwrap();
            let off = got.abs_diff(exact);
            prop_assert!(off <= exact / 16 + 1, "{got} for {exact}");
            prop_assert_eq!(histogram.samples(), values.len() as u64);
            prop_assert_eq!(histogram.max(), values.last().copied());
            prop_assert_eq!(histogram.min(), values.first().copied());
        }

        #[test]
        fn merging_is_recording_both(first in values(), second in values()) {
            let mut merged = of(&first);
            merged.merge(&of(&second));
            let both: Vec<u64> = first.iter().chain(&second).copied().collect();
            let both = of(&both);
            prop_assert_eq!(&merged.buckets, &both.buckets);
            prop_assert_eq!((merged.samples, merged.min, merged.max), (both.samples, both.min, both.max));
            prop_assert!((merged.sum - both.sum).abs() <= both.sum * 1e-9);
        }

        #[test]
        fn a_weight_is_a_repetition(values in values(), weight in 1_u8..5) {
            let mut weighted = Histogram::default();
            for &value in &values {
                weighted.record(value, f64::from(weight));
            }
            let repeated: Vec<u64> = values
                .iter()
                .flat_map(|&value| std::iter::repeat_n(value, usize::from(weight)))
                .collect();
            let repeated = of(&repeated);
            prop_assert_eq!(&weighted.buckets, &repeated.buckets);
            for part in [0.0, 0.5, 0.9, 1.0] {
                prop_assert_eq!(weighted.quantile(part), repeated.quantile(part));
            }
        }
    }
}
