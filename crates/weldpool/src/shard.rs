//! What one thread has counted, and the idle blocks that others may take from it.

#![forbid(unsafe_code)]

use crate::block::{Block, ListId};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, PrivateGuard, PrivateLock};
use crate::tally::{self, GROUP, Tallies, TallySum};

/// The part of a thread's cache that other threads see.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    /// Requested bytes allocated less freed by this thread; wraps, since others may free.
    live: AtomicU64,
    /// Greatest value of `live`.
    live_peak: AtomicU64,
    /// Bytes of blocks handed out less taken back; wraps.
    block_bytes: AtomicU64,
    /// Whether the thread must go past its cache: to empty it, or because the pool is closed.
    bypass: AtomicBool,
    pub(crate) tallies: Tallies,
    shelf: PrivateLock<Shelf>,
}

/// Idle blocks that the thread's owner and whoever is short of memory take from.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) lists: Lists,
    pub(crate) bytes: usize,
}

/// Blocks by list.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    groups: Vec<Option<Box<[Vec<Block>; GROUP]>>>,
}

/// Sums over shards.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) live: u64,
    /// Sum of the shards' own peaks: exact for one thread, an upper bound for several.
    pub(crate) live_peak: u64,
    pub(crate) block_bytes: u64,
}

impl Shard {
    /// Counts a block handed out, but for its list.
    #[inline]
    pub(crate) fn count_allocation(&self, requested: u64, block_bytes: usize) {
        let live = tally::add(&self.live, requested);
        tally::raise(&self.live_peak, live);
        tally::add(&self.block_bytes, block_bytes as u64);
    }

    /// Counts a block given back, but for its list.
    #[inline]
    pub(crate) fn count_free(&self, requested: u64, block_bytes: usize) {
        tally::add(&self.live, requested.wrapping_neg());
        tally::add(&self.block_bytes, (block_bytes as u64).wrapping_neg());
    }

    /// Whether the thread must go past its cache.
    #[inline]
    pub(crate) fn bypassed(&self) -> bool {
        self.bypass.load(Ordering::Relaxed)
    }

    /// Asks the thread to go past its cache from its next call on.
    pub(crate) fn set_bypass(&self, on: bool) {
        self.bypass.store(on, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn shelf(&self) -> PrivateGuard<'_, Shelf> {
        self.shelf.lock()
    }

    /// Takes all blocks off the shelf.
    pub(crate) fn drain_shelf(&self, drained: &mut Vec<Block>) {
        let lists = {
            let mut shelf = self.shelf.lock();
            shelf.bytes = 0;
            std::mem::take(&mut shelf.lists)
        };
        lists.into_blocks(drained);
    }

    pub(crate) fn add_to(&self, totals: &mut Totals) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        totals.live = totals.live.wrapping_add(load(&self.live));
        totals.live_peak = totals.live_peak.wrapping_add(load(&self.live_peak));
        totals.block_bytes = totals.block_bytes.wrapping_add(load(&self.block_bytes));
    }

    /// Adds what was counted per list; `lists` has one sum more than there are lists, for blocks without.
    pub(crate) fn add_lists_to(&self, lists: &mut [TallySum]) {
        let last = lists.len() - 1;
        self.tallies.for_each(|list, tally| {
            if let Some(sum) = lists.get_mut(list.unwrap_or(last)) {
                sum.add(tally);
            }
        });
    }

    /// Adds, atomically, what another shard counted, whose thread has ended.
    pub(crate) fn absorb(&self, other: &Self) {
        let pairs = [
            (&self.live, &other.live),
            (&self.live_peak, &other.live_peak),
            (&self.block_bytes, &other.block_bytes),
        ];
        for (own, other) in pairs {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        other.tallies.for_each(|list, tally| match list {
            None => self.tallies.unlisted.absorb(tally),
            Some(list) => self.tallies.group(list / GROUP)[list % GROUP].absorb(tally),
        });
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        for counter in [&self.live, &self.live_peak, &self.block_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        self.tallies.for_each(|_, tally| tally.reset());
    }
}

/// The sums over the threads of a pool and those that have ended.
pub(crate) fn totals(shards: &Mutex<Vec<Arc<Shard>>>, ended: &Shard) -> Totals {
    let mut totals = Totals::default();
    // Held until all is added, so that no thread that ends meanwhile is counted twice, or not at all.
    let shards = shards.lock();
    for shard in shards.iter() {
        shard.add_to(&mut totals);
    }
    ended.add_to(&mut totals);
    totals
}

/// Moves what the shard of a thread counted to those that have ended. Returns how many are left.
pub(crate) fn end(shards: &Mutex<Vec<Arc<Shard>>>, ended: &Shard, shard: &Arc<Shard>) -> usize {
    let mut shards = shards.lock();
    shards.retain(|one| !Arc::ptr_eq(one, shard));
    ended.absorb(shard);
    shards.len()
}

impl Lists {
    /// The list, if its group exists.
    #[inline]
    pub(crate) fn get_mut(&mut self, list: ListId) -> Option<&mut Vec<Block>> {
        let group = self.groups.get_mut(list.index() / GROUP)?.as_mut()?;
        Some(&mut group[list.index() % GROUP])
    }

    /// The list, with its group made if need be. The list is one of the pool's.
    #[inline]
    pub(crate) fn make(&mut self, list: ListId) -> &mut Vec<Block> {
        let number = list.index() / GROUP;
        if self.groups.get(number).is_none_or(Option::is_none) {
            self.make_group(number);
        }
        match &mut self.groups[number] {
            Some(group) => &mut group[list.index() % GROUP],
            None => unreachable!("the group was just made"),
        }
    }

    #[cold]
    fn make_group(&mut self, number: usize) {
        if number >= self.groups.len() {
            self.groups.resize_with(number + 1, || None);
        }
        self.groups[number] = Some(Box::new(std::array::from_fn(|_| Vec::new())));
    }

    pub(crate) fn into_blocks(self, blocks: &mut Vec<Block>) {
        for group in self.groups.into_iter().flatten() {
            for mut list in *group {
                blocks.append(&mut list);
            }
        }
    }
}
