//! The peak of a sum to which threads add apart.
//!
//! What the peak is above the sum, its headroom, is split among the threads: who adds to the sum takes
//! from the own part, who subtracts puts there. Only a thread whose part does not suffice touches what
//! all share. Hence for one thread the peak is exact, and for several, or one with several queues,
//! it is too high by at most the parts that the others keep, which are [settled](HighWater::settle) to
//! what they have in their caches.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};

/// The peak, and the headroom that no thread has.
#[derive(Debug, Default)]
pub(crate) struct HighWater {
    peak: AtomicU64,
    spare: AtomicU64,
}

/// The part of one thread, which it alone changes.
#[derive(Debug, Default)]
pub(crate) struct Headroom(AtomicU64);

impl Headroom {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What is left when the sum grows by an amount; none if the part does not suffice.
    #[inline]
    pub(crate) fn after(&self, amount: u64) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(amount)
    }

    #[inline]
    pub(crate) fn leave(&self, left: u64) {
        self.0.store(left, Ordering::Relaxed);
    }

    /// The sum shrinks by an amount.
    #[inline]
    pub(crate) fn put(&self, amount: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(amount);
        self.0.store(sum, Ordering::Relaxed);
    }
}

impl HighWater {
    /// The sum grows by an amount, and the peak if it must.
    pub(crate) fn take(&self, own: &Headroom, amount: u64) {
        let there = own.bytes();
        if let Some(left) = there.checked_sub(amount) {
            own.leave(left);
            return;
        }
        let wanted = amount - there;
        let taken = self.take_spare(wanted);
        if taken < wanted {
            self.peak.fetch_add(wanted - taken, Ordering::Relaxed);
        }
        own.leave(0);
    }

    /// Gives a thread so much of the headroom in all, as far as nobody else has it.
    pub(crate) fn borrow(&self, own: &Headroom, wanted: u64) {
        let there = own.bytes();
        if there < wanted {
            own.leave(there + self.take_spare(wanted - there));
        }
    }

    fn take_spare(&self, wanted: u64) -> u64 {
        let relaxed = Ordering::Relaxed;
        if self.spare.load(relaxed) == 0 {
            return 0;
        }
        let take = |spare: u64| Some(spare.saturating_sub(wanted));
        let spare = self.spare.fetch_update(relaxed, relaxed, take);
        spare.unwrap_or_default().min(wanted)
    }

    /// Leaves a thread so much of its part; others may have the rest.
    pub(crate) fn settle(&self, own: &Headroom, keep: u64) {
        let there = own.bytes();
        if there > keep {
            own.leave(keep);
            self.spare.fetch_add(there - keep, Ordering::Relaxed);
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The sum, given all threads' parts; exact while nobody changes it.
    pub(crate) fn sum(&self, headrooms: u64) -> u64 {
        let above = self.spare.load(Ordering::Relaxed).wrapping_add(headrooms);
        // Parts read while they change may come to more than the peak.
        self.peak().saturating_sub(above)
    }

    /// Starts anew from zero; all parts must be zero too.
    pub(crate) fn reset(&self) {
        self.peak.store(0, Ordering::Relaxed);
        self.spare.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_has_the_exact_peak() {
        let (water, own) = (HighWater::default(), Headroom::default());
        water.take(&own, 100);
        own.put(60);
        water.take(&own, 30);
        assert_eq!((water.sum(own.bytes()), water.peak()), (70, 100));
        water.settle(&own, 0);
        water.take(&own, 50);
        assert_eq!((water.sum(own.bytes()), water.peak()), (120, 120));
    }

    #[test]
    fn what_one_thread_frees_another_may_take() {
        let water = HighWater::default();
        let (producer, consumer) = (Headroom::default(), Headroom::default());
        for _ in 0..1000 {
            water.take(&producer, 10);
            consumer.put(10);
            water.settle(&consumer, 40);
        }
        assert_eq!(water.sum(producer.bytes() + consumer.bytes()), 0);
        assert!(water.peak() <= 50, "{}", water.peak());
    }
}
