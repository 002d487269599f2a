//! Counters of one thread, by list.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};

/// Counters of one list. They have one writer, so counting is a load and a store.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    allocations: AtomicU64,
    frees: AtomicU64,
    /// Requested bytes, ever.
    allocated_bytes: AtomicU64,
    freed_bytes: AtomicU64,
    /// Greatest difference of the two.
    live_peak: AtomicU64,
}

/// Sums over threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TallySum {
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) freed_bytes: u64,
    /// Sum of the threads' own peaks: exact for one thread, an upper bound for several.
    pub(crate) live_peak: u64,
}

/// Adds to a counter that this thread alone writes; wraps. Returns the sum.
#[inline]
pub(crate) fn add(counter: &AtomicU64, amount: u64) -> u64 {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
    sum
}

/// Raises a peak that this thread alone writes. A thread that frees what others allocated has a
/// negative level.
#[inline]
pub(crate) fn raise(peak: &AtomicU64, level: u64) {
    if level.cast_signed() > peak.load(Ordering::Relaxed).cast_signed() {
        peak.store(level, Ordering::Relaxed);
    }
}

impl Tally {
    #[inline]
    pub(crate) fn count_allocation(&self, requested: u64) {
        add(&self.allocations, 1);
        let allocated = add(&self.allocated_bytes, requested);
        let freed = self.freed_bytes.load(Ordering::Relaxed);
        raise(&self.live_peak, allocated.wrapping_sub(freed));
    }

    #[inline]
    pub(crate) fn count_free(&self, requested: u64) {
        add(&self.frees, 1);
        add(&self.freed_bytes, requested);
    }

    /// Adds, atomically, what another tally counted.
    pub(crate) fn absorb(&self, other: &Self) {
        for (own, other) in self.counters().into_iter().zip(other.counters()) {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(crate) fn reset(&self) {
        for counter in self.counters() {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> [&AtomicU64; 5] {
        [
            &self.allocations,
            &self.frees,
            &self.allocated_bytes,
            &self.freed_bytes,
            &self.live_peak,
        ]
    }
}

impl TallySum {
    pub(crate) fn add(&mut self, tally: &Tally) {
        let sums = [
            &mut self.allocations,
            &mut self.frees,
            &mut self.allocated_bytes,
            &mut self.freed_bytes,
            &mut self.live_peak,
        ];
        for (sum, counter) in sums.into_iter().zip(tally.counters()) {
            *sum = sum.wrapping_add(counter.load(Ordering::Relaxed));
        }
    }

    /// Requested bytes that users hold.
    pub(crate) fn live(&self) -> u64 {
        self.allocated_bytes.wrapping_sub(self.freed_bytes)
    }
}
