//! The peak of a sum to which threads add apart.
//!
//! What the peak is above the sum, its headroom, is split among the threads: who adds to the sum takes
//! from the own part, who subtracts puts there. Only a thread whose part does not suffice touches what
//! all share. Before it raises the peak, it [claims](HighWater::claim) what others have too much of. Hence
//! for one thread the peak is exact, and for several, or one with several queues, it is too high by at
//! most the [`tolerance`](HighWater::tolerance) of each other part.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Ordering};

/// Headroom that is never claimed from a thread, at most and at least, and between that the part of the
/// peak: threads whose needs go up and down are not to take it from each other all the time.
const TOLERANCE_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;
const TOLERANCE_PART: u64 = 64;

/// The peak, and the headroom that no thread has.
#[derive(Debug, Default)]
pub(crate) struct HighWater {
    peak: AtomicU64,
    spare: AtomicU64,
}

/// The part of one thread, which it alone changes.
#[derive(Debug, Default)]
pub(crate) struct Headroom {
    bytes: AtomicU64,
    /// What others claimed of that; the thread may use none of it until it has
    /// [returned](HighWater::return_claim) it.
    claimed: AtomicU64,
}

impl Headroom {
    /// What the thread has, less what was claimed of it; wraps, since a call of the thread may be under way
    /// while others claim.
    pub(crate) fn bytes(&self) -> u64 {
        let claimed = self.claimed.load(Ordering::Relaxed);
        self.own().wrapping_sub(claimed)
    }

    #[inline(always)]
    fn own(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Relaxed) != 0
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.leave(0);
        self.claimed.store(0, Ordering::Relaxed);
    }

    /// What is left when the sum grows by an amount; none if the part does not suffice.
    #[inline]
    pub(crate) fn after(&self, amount: u64) -> Option<u64> {
        self.own().checked_sub(amount)
    }

    #[inline]
    pub(crate) fn leave(&self, left: u64) {
        self.bytes.store(left, Ordering::Relaxed);
    }

    /// The sum shrinks by an amount.
    #[inline]
    pub(crate) fn put(&self, amount: u64) {
        let sum = self.own().wrapping_add(amount);
        self.bytes.store(sum, Ordering::Relaxed);
    }
}

impl HighWater {
    /// The sum grows by an amount, if the headroom suffices of which nobody else has any.
    pub(crate) fn try_take(&self, own: &Headroom, amount: u64) -> bool {
        let there = own.own();
        let wanted = amount.saturating_sub(there);
        let relaxed = Ordering::Relaxed;
        let take = |spare: u64| spare.checked_sub(wanted);
        let taken = wanted == 0 || self.spare.fetch_update(relaxed, relaxed, take).is_ok();
        if taken {
            own.leave((there + wanted) - amount);
        }
        taken
    }

    /// The sum grows by an amount, and the peak if it must.
    pub(crate) fn take(&self, own: &Headroom, amount: u64) {
        let there = own.own();
        let wanted = amount.saturating_sub(there);
        self.take_shared(wanted);
        own.leave((there + wanted) - amount);
    }

    /// Takes of what nobody has, and raises the peak by what that lacks.
    fn take_shared(&self, wanted: u64) {
        let taken = self.take_spare(wanted);
        if taken < wanted {
            self.peak.fetch_add(wanted - taken, Ordering::Relaxed);
        }
    }

    /// Gives a thread so much of the headroom in all, as far as nobody else has it.
    pub(crate) fn borrow(&self, own: &Headroom, wanted: u64) {
        let there = own.own();
        if there < wanted {
            own.leave(there + self.take_spare(wanted - there));
        }
    }

    /// Most of the headroom that a thread keeps while another would have to raise the peak.
    pub(crate) fn tolerance(&self) -> u64 {
        let (least, most) = TOLERANCE_BYTES.into_inner();
        (self.peak() / TOLERANCE_PART).clamp(least, most)
    }

    /// Whether there is something to claim.
    pub(crate) fn has_too_much(&self, other: &Headroom) -> bool {
        !other.is_claimed() && other.own() > self.tolerance()
    }

    /// Makes a thread's part anybody's. The thread's next call must see that it may not use it; one that is under
    /// way may still do so by a little, which shows when the part is returned. One thread at a time may claim
    /// or return.
    pub(crate) fn claim(&self, other: &Headroom) {
        let there = other.own();
        other.claimed.store(there, Ordering::Relaxed);
        self.spare.fetch_add(there, Ordering::Relaxed);
    }

    /// Leaves to others what they claimed, and what came or went meanwhile. For the owner, or when it has
    /// ended.
    pub(crate) fn return_claim(&self, own: &Headroom) {
        let (there, claimed) = (own.own(), own.claimed.load(Ordering::Relaxed));
        own.reset();
        match there.checked_sub(claimed) {
            Some(came) => drop(self.spare.fetch_add(came, Ordering::Relaxed)),
            None => self.take_shared(claimed - there),
        }
    }

    /// Whether so much is spare.
    pub(crate) fn has_spare(&self, wanted: u64) -> bool {
        self.spare.load(Ordering::Relaxed) >= wanted
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
        let there = own.own();
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
        // Parts read while they change may come to more than the peak, and parts that were claimed while they
        // were used to less than nothing.
        let sum = self.peak().wrapping_sub(above).cast_signed();
        u64::try_from(sum).unwrap_or(0)
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
    fn what_another_has_is_claimed_before_the_peak_rises() {
        let (water, idle, own) = (
            HighWater::default(),
            Headroom::default(),
            Headroom::default(),
        );
        const MIB: u64 = 1 << 20;
        water.take(&idle, 8 * MIB);
        idle.put(8 * MIB);
        let sum = || water.sum(idle.bytes().wrapping_add(own.bytes()));
        assert!(!water.try_take(&own, 8 * MIB) && water.has_too_much(&idle));
        water.claim(&idle);
        assert!(!water.has_too_much(&idle) && sum() == 0);
        assert!(water.try_take(&own, 8 * MIB));
        assert_eq!((sum(), water.peak()), (8 * MIB, 8 * MIB));
        // Calls that were under way: a free, then an allocation.
        idle.put(100);
        assert_eq!(sum(), 8 * MIB - 100);
        water.return_claim(&idle);
        assert_eq!((sum(), water.peak()), (8 * MIB - 100, 8 * MIB));
        own.put(8 * MIB);
        water.claim(&own);
        water.take(&idle, 8 * MIB);
        own.leave(own.after(300).unwrap());
        water.return_claim(&own);
        assert_eq!((sum(), water.peak()), (8 * MIB + 200, 8 * MIB + 200));
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
