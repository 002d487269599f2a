//! The part of a thread's cache that other threads see.

#![forbid(unsafe_code)]

use super::bin::Bins;
use super::tally::{self, Tally, TallySum};
use crate::block::{CacheKey, ListId};
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// What is asked first on the warm path. It is the first field of a [`Shard`], so that one pointer
/// stands for both.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The id of the cache's key while the warm path is open, else zero.
    pub(crate) open: AtomicU64,
}

/// The idle blocks and counters of one thread for one pool or queue.
#[repr(C, align(128))]
pub(crate) struct Shard {
    pub(crate) gate: Gate,
    /// Bytes of blocks in the thread's own bins.
    pub(crate) own_bytes: AtomicUsize,
    /// Bytes that the thread put into bins that others may come to, less what it took out.
    pub(crate) lent_bytes: AtomicUsize,
    /// Bytes that others took from there.
    pub(crate) drained_bytes: AtomicUsize,
    pub(crate) totals: Arc<ThreadTotals>,
    pub(crate) bins: Bins,
    /// Of blocks that have no list.
    unlisted: Tally,
    key: CacheKey,
    /// Whether the thread's totals are taken from this one of its shards.
    speaks: AtomicBool,
}

/// Counters of one thread for one pool, over its queues. They have one writer, the thread, so counting
/// is a load and a store.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ThreadTotals {
    /// Requested bytes allocated less freed; wraps, since others may free.
    live: AtomicU64,
    /// Greatest value of `live`.
    live_peak: AtomicU64,
    /// Bytes of blocks handed out less taken back; wraps.
    block_bytes: AtomicU64,
    /// Counted bytes that may be served before an allocation is to be a sample.
    credit: AtomicU64,
    /// Most bytes that one allocation counts for.
    counted_max: AtomicU64,
    /// What the thread may put, of each cache, where others may take it: the pool's say.
    lent_bytes_max: AtomicUsize,
}

/// Sums over threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) live: u64,
    /// Sum of the threads' own peaks: exact for one thread, an upper bound for several.
    pub(crate) live_peak: u64,
    pub(crate) block_bytes: u64,
}

impl ThreadTotals {
    #[inline]
    pub(crate) fn count_allocation(&self, requested: u64, block_bytes: usize) {
        let live = tally::add(&self.live, requested);
        tally::raise(&self.live_peak, live);
        tally::add(&self.block_bytes, block_bytes as u64);
    }

    #[inline]
    pub(crate) fn count_free(&self, requested: u64, block_bytes: usize) {
        tally::add(&self.live, requested.wrapping_neg());
        tally::add(&self.block_bytes, (block_bytes as u64).wrapping_neg());
    }

    /// What an allocation leaves of the credit; none if the credit does not suffice.
    #[inline]
    pub(crate) fn credit_after(&self, requested: u64) -> Option<u64> {
        let counted = requested.min(self.counted_max.load(Ordering::Relaxed));
        self.credit.load(Ordering::Relaxed).checked_sub(counted)
    }

    #[inline]
    pub(crate) fn leave_credit(&self, credit: u64) {
        self.credit.store(credit, Ordering::Relaxed);
    }

    /// Sets the credit, and what one allocation counts for at most.
    pub(crate) fn set_credit(&self, credit: u64, counted_max: u64) {
        self.counted_max.store(counted_max, Ordering::Relaxed);
        self.credit.store(credit, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn lent_bytes_max(&self) -> usize {
        self.lent_bytes_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_lent_bytes_max(&self, bytes: usize) {
        self.lent_bytes_max.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_to(&self, totals: &mut Totals) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.live = totals.live.wrapping_add(load(&self.live));
        totals.live_peak = totals.live_peak.wrapping_add(load(&self.live_peak));
        totals.block_bytes = totals.block_bytes.wrapping_add(load(&self.block_bytes));
    }

    fn counters(&self) -> [&AtomicU64; 3] {
        [&self.live, &self.live_peak, &self.block_bytes]
    }

    /// Adds, atomically, what a thread counted that has ended.
    pub(crate) fn absorb(&self, other: &Self) {
        for (own, other) in self.counters().into_iter().zip(other.counters()) {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        for counter in self.counters() {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Shard {
    pub(crate) fn new(key: CacheKey, lists: usize, totals: Arc<ThreadTotals>) -> Self {
        Self {
            gate: Gate {
                open: AtomicU64::new(key.id),
            },
            own_bytes: AtomicUsize::new(0),
            lent_bytes: AtomicUsize::new(0),
            drained_bytes: AtomicUsize::new(0),
            totals,
            bins: Bins::new(lists),
            unlisted: Tally::default(),
            key,
            speaks: AtomicBool::new(true),
        }
    }

    /// Whether the thread's totals are taken from this one of its shards.
    pub(crate) fn speaks(&self) -> bool {
        self.speaks.load(Ordering::Relaxed)
    }

    pub(crate) fn set_speaks(&self, speaks: bool) {
        self.speaks.store(speaks, Ordering::Relaxed);
    }

    pub(super) fn key(&self) -> CacheKey {
        self.key
    }

    /// Asks the thread to go past its cache from its next call on, or no longer.
    pub(crate) fn set_bypass(&self, on: bool) {
        let open = if on { 0 } else { self.key.id };
        self.gate.open.store(open, Ordering::Relaxed);
    }

    /// Whether the thread goes past its cache.
    pub(crate) fn bypassed(&self) -> bool {
        self.gate.open.load(Ordering::Relaxed) == 0
    }

    /// The counters of a list.
    pub(crate) fn tally(&self, list: ListId) -> &Tally {
        self.bins
            .make(list.index())
            .map_or(&self.unlisted, |bin| &bin.tally)
    }

    /// Adds what was counted per list; `lists` has one sum more than there are lists, for blocks without.
    pub(crate) fn add_lists_to(&self, lists: &mut [TallySum]) {
        for (list, bin) in self.bins.used() {
            if let Some(sum) = lists.get_mut(list) {
                sum.add(&bin.tally);
            }
        }
        if let Some(sum) = lists.last_mut() {
            sum.add(&self.unlisted);
        }
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        self.totals.reset();
        self.unlisted.reset();
        for (_, bin) in self.bins.used() {
            bin.tally.reset();
        }
    }

    /// Adds, atomically, what another shard counted per list, whose thread has ended.
    pub(crate) fn absorb_lists(&self, other: &Self) {
        self.unlisted.absorb(&other.unlisted);
        for (list, bin) in other.bins.used() {
            if let Some(own) = self.bins.make(list) {
                own.tally.absorb(&bin.tally);
            }
        }
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
