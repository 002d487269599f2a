//! A number that goes up and down, with its history.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};

/// A level with its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Counter {
    /// The level now.
    pub value: u64,
    /// The highest level so far.
    pub peak: u64,
    /// The sum of all that was ever added.
    pub total: u64,
}

/// A [`Counter`] that threads share.
#[derive(Debug, Default)]
pub(crate) struct AtomicCounter {
    value: AtomicU64,
    peak: AtomicU64,
    total: AtomicU64,
}

impl AtomicCounter {
    pub(crate) fn add(&self, amount: u64) {
        let value = self.value.fetch_add(amount, Ordering::Relaxed) + amount;
        self.rose(value, amount);
    }

    /// Adds unless the level would be above `most`; the level it has then, or has if nothing was added.
    pub(crate) fn try_add(&self, amount: u64, most: u64) -> Result<u64, u64> {
        let add = |value: u64| value.checked_add(amount).filter(|&sum| sum <= most);
        let before = self
            .value
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)?;
        self.rose(before + amount, amount);
        Ok(before + amount)
    }

    fn rose(&self, value: u64, amount: u64) {
        // The peak seldom changes, and a load leaves its line to everybody.
        if self.peak.load(Ordering::Relaxed) < value {
            self.peak.fetch_max(value, Ordering::Relaxed);
        }
        self.total.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    pub(crate) fn subtract(&self, amount: u64) {
        self.value.fetch_sub(amount, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counter {
        let value = self.value.load(Ordering::Relaxed);
        Counter {
            value,
            // A reader may come between the two updates of a writer.
            peak: self.peak.load(Ordering::Relaxed).max(value),
            total: self.total.load(Ordering::Relaxed),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_keeps_level_peak_and_total() {
        let counter = AtomicCounter::default();
        counter.add(10);
        counter.add(5);
        counter.subtract(12);
        counter.add(1);
        let expected = Counter {
            value: 4,
            peak: 15,
            total: 16,
        };
        assert_eq!(counter.read(), expected);
        assert_eq!(counter.try_add(1, 4), Err(4));
        assert_eq!(counter.try_add(u64::MAX, u64::MAX), Err(4));
        assert_eq!(counter.read(), expected, "nothing was added");
        assert_eq!(counter.try_add(12, 16), Ok(16));
        assert_eq!((counter.value(), counter.read().peak), (16, 16));
    }
}
