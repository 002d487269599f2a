//! The part of a thread's cache that other threads see.

#![forbid(unsafe_code)]

use super::bin::Bin;
use super::bins::Bins;
use super::lending::{Held, Lending};
use super::list_sums::ListSums;
use super::tally::{Tally, TallySum};
use crate::block::{CacheKey, ListId};
use crate::device::ZeroedPages;
use crate::high_water::{Headroom, HighWater};
use crate::pool::Pool;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Ordering};

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
    /// What the peak of requested bytes is above what is live, this shard's part.
    pub(super) headroom: Headroom,
    /// Most bytes of blocks that may lie where others may take them, and the largest such block: the pool's say.
    lent_bytes_max: AtomicUsize,
    lent_block_bytes_max: AtomicUsize,
    /// Bytes of room that the thread's own bins were given.
    pub(super) own_room_bytes: AtomicUsize,
    /// Bytes of blocks in bins that others may come to. Who has the right to those changes it.
    pub(super) lent_bytes: AtomicUsize,
    pub(super) lending: Lending,
    /// Of blocks that have no list.
    unlisted: Unlisted,
    key: CacheKey,
    pub(crate) bins: Bins,
}

/// Counters of blocks without a list, whose lengths no class tells.
#[derive(Debug, Default)]
struct Unlisted {
    tally: Tally,
    /// Bytes of blocks handed out, ever.
    allocated: AtomicU64,
    /// Bytes of blocks taken back, ever.
    freed: AtomicU64,
}

/// Sums over threads of what was counted of blocks without a list, besides their [`TallySum`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UnlistedSum {
    pub(crate) tally: TallySum,
    /// Bytes of blocks handed out, ever.
    pub(crate) allocated: u64,
    /// Bytes of blocks taken back, ever.
    pub(crate) freed: u64,
}

/// Adds to a counter that one thread writes; wraps.
fn add(counter: &AtomicU64, amount: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

/// Sums of nothing yet, for all lists of `shards`.
pub(crate) fn list_sums<'a>(shards: impl Iterator<Item = &'a Shard>, lists: usize) -> ListSums {
    ListSums::of(shards.map(|shard| shard.bins.used_words()), lists)
}

impl Shard {
    pub(crate) fn new(key: CacheKey, lists: usize, unused: &Arc<ZeroedPages>) -> Self {
        Self::with(key, Bins::new(lists, unused))
    }

    /// One that counts and keeps nothing.
    pub(crate) fn counting(key: CacheKey, lists: usize, unused: &Arc<ZeroedPages>) -> Self {
        Self::with(key, Bins::counting(lists, unused))
    }

    fn with(key: CacheKey, bins: Bins) -> Self {
        Self {
            gate: Gate {
                open: AtomicU64::new(key.id),
            },
            headroom: Headroom::default(),
            lent_bytes_max: AtomicUsize::new(0),
            lent_block_bytes_max: AtomicUsize::new(usize::MAX),
            own_room_bytes: AtomicUsize::new(0),
            lent_bytes: AtomicUsize::new(0),
            lending: Lending::new(),
            unlisted: Unlisted::default(),
            key,
            bins,
        }
    }

    #[inline]
    pub(crate) fn key(&self) -> CacheKey {
        self.key
    }

    /// What may lie where others may take it, if a block of `bytes` is among that; nothing if that may not.
    #[inline]
    pub(super) fn lent_with(&self, bytes: usize) -> Option<usize> {
        let lent = self.lent_bytes.load(Ordering::Relaxed) + bytes;
        let may = lent <= self.lent_bytes_max.load(Ordering::Relaxed)
            && bytes <= self.lent_block_bytes_max.load(Ordering::Relaxed);
        may.then_some(lent)
    }

    /// Sets how many bytes may lie where others may take them, and of how large blocks.
    pub(crate) fn set_lent_max(&self, bytes: usize, block_bytes: usize) {
        self.lent_bytes_max.store(bytes, Ordering::Relaxed);
        self.lent_block_bytes_max
            .store(block_bytes, Ordering::Relaxed);
    }

    pub(crate) fn headroom(&self) -> u64 {
        self.headroom.bytes()
    }

    /// Asks the thread to go past its cache from its next call on, or no longer; it has to while others claim
    /// its headroom. Under the lock of the pool's list of shards.
    pub(crate) fn set_bypass(&self, on: bool) {
        let closed = on || self.headroom.is_claimed();
        let open = if closed { 0 } else { self.key.id };
        self.gate.open.store(open, Ordering::Relaxed);
    }

    /// Bytes of blocks and of room for blocks that lie here: what the thread can serve by itself.
    pub(crate) fn bytes(&self) -> u64 {
        let own = self.own_room_bytes.load(Ordering::Relaxed);
        (own + self.lent_bytes.load(Ordering::Relaxed)) as u64
    }

    /// Counts an allocation that the warm path does not, of a block that is in no bin. For the owner.
    pub(super) fn count_allocation(
        &self,
        pool: &Pool,
        list: ListId,
        requested: u64,
        block_bytes: usize,
    ) {
        match self.bins.make(list) {
            Some(bin) => {
                let _alone = self.alone_at(bin);
                bin.tally
                    .set_usual(pool.usual_bytes(list, requested), bin.len());
                bin.tally.count_allocation(requested);
                pool.note_live(list, bin.tally.tell(bin.len()));
            }
            None => {
                add(&self.unlisted.allocated, block_bytes as u64);
                self.unlisted.tally.count_allocation(requested);
            }
        }
    }

    /// Counts a free that the warm path does not, of a block that is in no bin. For the owner.
    pub(super) fn count_free(&self, pool: &Pool, list: ListId, requested: u64, block_bytes: usize) {
        match self.bins.make(list) {
            Some(bin) => {
                let _alone = self.alone_at(bin);
                bin.tally
                    .set_usual(pool.usual_bytes(list, requested), bin.len());
                bin.tally.count_free(requested);
                pool.note_live(list, bin.tally.tell(bin.len()));
            }
            None => {
                add(&self.unlisted.freed, block_bytes as u64);
                self.unlisted.tally.count_free(requested);
            }
        }
    }

    /// Changes the part of the peak's headroom, if others claimed none of it. For the owner.
    pub(crate) fn change_headroom<T>(&self, change: impl FnOnce(&Headroom) -> T) -> Option<T> {
        // Nobody claims meanwhile.
        let _held = self.lending.hold();
        (!self.headroom.is_claimed()).then(|| change(&self.headroom))
    }

    /// Takes the part of the peak's headroom for anybody, if it is too much: the thread goes past its cache from
    /// its next call on, and is outside already. A call that is under way may still take or put a block that
    /// is not lent. Under the lock of the pool's list of shards.
    pub(crate) fn claim_headroom(&self, water: &HighWater) {
        if !water.has_too_much(&self.headroom) {
            return;
        }
        let open = self.gate.open.load(Ordering::Relaxed);
        self.gate.open.store(0, Ordering::Relaxed);
        // Whoever closes has the thread see what was written before.
        match self.lending.close() {
            Some(closed) => {
                // A call that found the warm path open may not have been inside yet.
                closed.bar();
                water.claim(&self.headroom);
            }
            None => self.gate.open.store(open, Ordering::Relaxed),
        }
    }

    /// Gives up what others claimed. Under the lock of the pool's list of shards, for the owner.
    pub(crate) fn return_claim(&self, water: &HighWater) {
        let held = self.lending.hold();
        water.return_claim(&self.headroom);
        self.lending.unbar(&held);
    }

    /// Keeps others away who empty a lent bin and count what leaves it. For the owner.
    fn alone_at(&self, bin: &Bin) -> Option<Held<'_>> {
        bin.is_lent().then(|| self.lending.hold())
    }

    /// The counters of a list.
    pub(super) fn tally(&self, list: ListId) -> &Tally {
        self.bins
            .make(list)
            .map_or(&self.unlisted.tally, |bin| &bin.tally)
    }

    /// Blocks that users hold, as far as this thread counted; wraps. Blocks that come to the bins or leave
    /// them, past the warm path, do so before or after.
    pub(crate) fn live_blocks(&self) -> u64 {
        let _held = self.lending.hold();
        let mut sum = TallySum::default();
        for (_, bin) in self.bins.used() {
            sum.add(&bin.tally, bin.len());
        }
        sum.add(&self.unlisted.tally, 0);
        sum.live
    }

    /// Bytes of the idle blocks that others may take, of the lists for which `block_bytes` says how long a block is;
    /// O(lists in use).
    pub(crate) fn lent_bytes_of(&self, block_bytes: impl Fn(usize) -> Option<usize>) -> u64 {
        let lent = self.bins.used().filter(|(_, bin)| bin.is_lent());
        let bytes = lent.filter_map(|(list, bin)| Some(bin.len() * block_bytes(list)?));
        bytes.sum::<usize>() as u64
    }

    /// Whether idle blocks lie here.
    pub(crate) fn has_blocks(&self) -> bool {
        self.bins.used().any(|(_, bin)| bin.len() > 0)
    }

    /// Adds what was counted per list.
    pub(crate) fn add_to(&self, lists: &mut ListSums, unlisted: &mut UnlistedSum) {
        for (list, bin) in self.bins.used() {
            lists.add(list, &bin.tally, bin.len());
        }
        unlisted.tally.add(&self.unlisted.tally, 0);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        unlisted.allocated = unlisted
            .allocated
            .wrapping_add(load(&self.unlisted.allocated));
        unlisted.freed = unlisted.freed.wrapping_add(load(&self.unlisted.freed));
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        self.headroom.reset();
        self.unlisted.tally.reset(0);
        self.unlisted.allocated.store(0, Ordering::Relaxed);
        self.unlisted.freed.store(0, Ordering::Relaxed);
        for (_, bin) in self.bins.used() {
            bin.tally.reset(bin.len());
        }
    }

    /// Adds what another shard counted per list, whose thread has ended; its part of the peak's headroom is
    /// anybody's. Under the lock of the pool's list of shards.
    pub(crate) fn absorb(&self, water: &HighWater, other: &Self) {
        water.return_claim(&other.headroom);
        self.unlisted.tally.absorb(&other.unlisted.tally);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        add(&self.unlisted.allocated, load(&other.unlisted.allocated));
        add(&self.unlisted.freed, load(&other.unlisted.freed));
        for (list, bin) in other.bins.used() {
            if let Some(own) = self.bins.make(ListId::new(list)) {
                own.tally.set_usual(bin.tally.usual(), own.len());
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
