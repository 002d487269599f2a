//! Counters of one list in one thread.

#![forbid(unsafe_code)]

use crate::high_water::{Headroom, HighWater};
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Counters of one list, which one thread writes, so that counting is a load and a store.
///
/// Of the allocations the warm path counts only how many may follow before one is to be a sample.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tally {
    /// Allocations before the next sample.
    left: AtomicU64,
    frees: AtomicU64,
    /// What the peak of requested bytes of the list is above what is live, this thread's part.
    pub(super) headroom: Headroom,
    /// The number of allocations at which `left` is zero.
    end: AtomicU64,
    /// Whether `left` was ever drawn.
    drawn: AtomicBool,
}

/// Sums over threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TallySum {
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    /// For the list's [`HighWater`].
    pub(crate) headroom: u64,
}

fn set(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    /// What is left of the allocations before the next sample, after one; none if this is the sample.
    #[inline]
    pub(super) fn left_after_one(&self) -> Option<u64> {
        self.left.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Counts the allocation that leaves so many.
    #[inline]
    pub(super) fn leave(&self, left: u64) {
        self.left.store(left, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn count_free(&self, requested: u64) {
        let frees = self.frees.load(Ordering::Relaxed).wrapping_add(1);
        self.frees.store(frees, Ordering::Relaxed);
        self.headroom.put(requested);
    }

    /// Whether the next allocation, which the warm path does not count, is to be a sample. `draw` says
    /// after how many further ones the next is.
    pub(super) fn charge(&self, draw: impl Fn() -> u64) -> bool {
        let renew = |allocations: u64| {
            let drawn = draw();
            set(&self.end, allocations.wrapping_add(drawn));
            set(&self.left, drawn);
        };
        if !self.drawn.swap(true, Ordering::Relaxed) {
            renew(get(&self.end));
        }
        let (left, end) = (get(&self.left), get(&self.end));
        match left.checked_sub(1) {
            Some(left) => {
                set(&self.end, end.wrapping_sub(1));
                set(&self.left, left);
            }
            None => renew(end),
        }
        left == 0
    }

    /// Counts an allocation that the warm path does not.
    pub(super) fn count_allocation(&self, water: &HighWater, requested: u64) {
        set(&self.end, get(&self.end).wrapping_add(1));
        water.take(&self.headroom, requested);
    }

    /// Adds what another tally counted, whose thread has ended.
    pub(super) fn absorb(&self, other: &Self) {
        let TallySum {
            allocations, frees, ..
        } = other.read();
        set(&self.end, get(&self.end).wrapping_add(allocations));
        set(&self.frees, get(&self.frees).wrapping_add(frees));
        self.headroom.put(other.headroom.bytes());
    }

    pub(super) fn reset(&self) {
        set(&self.end, get(&self.left));
        set(&self.frees, 0);
        self.headroom.leave(0);
    }

    fn read(&self) -> TallySum {
        TallySum {
            allocations: get(&self.end).wrapping_sub(get(&self.left)),
            frees: get(&self.frees),
            headroom: self.headroom.bytes(),
        }
    }
}

impl TallySum {
    pub(crate) fn add(&mut self, tally: &Tally) {
        let read = tally.read();
        self.allocations = self.allocations.wrapping_add(read.allocations);
        self.frees = self.frees.wrapping_add(read.frees);
        self.headroom = self.headroom.wrapping_add(read.headroom);
    }

    /// Blocks that users hold.
    pub(crate) fn live(&self) -> u64 {
        self.allocations.wrapping_sub(self.frees)
    }
}
