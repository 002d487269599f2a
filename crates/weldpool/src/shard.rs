//! What one thread has counted, and the idle blocks that others may take from it.

#![forbid(unsafe_code)]

use crate::block::{Block, ListId};
use crate::grouped::Grouped;
use crate::sync::{AtomicBool, AtomicU64, Ordering, PrivateGuard, PrivateLock};

/// Lists per group of a [`Lists`].
const GROUP: usize = 64;

/// The part of a thread's cache that other threads see. Its counters have one writer, the thread, so
/// counting is a load and a store on a line of its own; the shared shard is the exception and adds
/// atomically.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    allocations: AtomicU64,
    frees: AtomicU64,
    /// Requested bytes allocated less freed by this thread; wraps, since others may free.
    live: AtomicU64,
    /// Greatest value of `live`.
    live_peak: AtomicU64,
    /// All bytes ever requested.
    live_total: AtomicU64,
    /// Bytes of blocks handed out less taken back; wraps.
    block_bytes: AtomicU64,
    /// Whether the thread must go past its cache: to empty it, or because the pool is closed.
    bypass: AtomicBool,
    /// Several threads count here.
    shared: bool,
    tallies: Grouped<Tally>,
    shelf: PrivateLock<Shelf>,
}

/// Counters of one list in one shard.
#[derive(Debug, Default)]
#[repr(align(32))]
struct Tally {
    allocations: AtomicU64,
    /// Requested bytes; wraps.
    live: AtomicU64,
    live_peak: AtomicU64,
}

/// Blocks by list.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    groups: Vec<Option<Box<[Vec<Block>]>>>,
}

/// Idle blocks that the thread's owner and whoever is short of memory take from.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) lists: Lists,
    pub(crate) bytes: usize,
}

/// Sums over shards.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) allocations: u64,
    pub(crate) frees: u64,
    pub(crate) live: u64,
    /// Sum of the shards' own peaks: exact for one thread, an upper bound for several.
    pub(crate) live_peak: u64,
    pub(crate) live_total: u64,
    pub(crate) block_bytes: u64,
}

/// Sums of one list over shards.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ListTotals {
    pub(crate) allocations: u64,
    pub(crate) live: u64,
    /// As in [`Totals::live_peak`].
    pub(crate) live_peak: u64,
}

impl Totals {
    /// Buffers that users hold.
    pub(crate) fn live_buffers(&self) -> u64 {
        self.allocations.wrapping_sub(self.frees)
    }
}

impl Shard {
    pub(crate) fn new(lists: usize, shared: bool) -> Self {
        Self {
            allocations: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            live: AtomicU64::new(0),
            live_peak: AtomicU64::new(0),
            live_total: AtomicU64::new(0),
            block_bytes: AtomicU64::new(0),
            bypass: AtomicBool::new(false),
            shared,
            tallies: Grouped::new(lists),
            shelf: PrivateLock::default(),
        }
    }

    #[inline]
    fn add(&self, counter: &AtomicU64, amount: u64) -> u64 {
        if self.shared {
            counter
                .fetch_add(amount, Ordering::Relaxed)
                .wrapping_add(amount)
        } else {
            let value = counter.load(Ordering::Relaxed).wrapping_add(amount);
            counter.store(value, Ordering::Relaxed);
            value
        }
    }

    #[inline]
    fn raise(&self, peak: &AtomicU64, value: u64) {
        // A thread that frees what others allocated has a negative level.
        if value.cast_signed() > peak.load(Ordering::Relaxed).cast_signed() {
            if self.shared {
                peak.fetch_max(value, Ordering::Relaxed);
            } else {
                peak.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Counts a block handed out.
    #[inline]
    pub(crate) fn count_allocation(&self, list: ListId, requested: usize, block_bytes: usize) {
        let requested = requested as u64;
        self.add(&self.allocations, 1);
        self.add(&self.live_total, requested);
        self.add(&self.block_bytes, block_bytes as u64);
        let live = self.add(&self.live, requested);
        self.raise(&self.live_peak, live);
        let tally = match self.tallies.get(list.index()) {
            Some(tally) => Some(tally),
            None => self.tallies.make(list.index()),
        };
        if let Some(tally) = tally {
            self.add(&tally.allocations, 1);
            let live = self.add(&tally.live, requested);
            self.raise(&tally.live_peak, live);
        }
    }

    /// Counts a block given back.
    #[inline]
    pub(crate) fn count_free(&self, list: ListId, requested: usize, block_bytes: usize) {
        let less = (requested as u64).wrapping_neg();
        self.add(&self.frees, 1);
        self.add(&self.live, less);
        self.add(&self.block_bytes, (block_bytes as u64).wrapping_neg());
        let tally = match self.tallies.get(list.index()) {
            Some(tally) => Some(tally),
            None => self.tallies.make(list.index()),
        };
        if let Some(tally) = tally {
            self.add(&tally.live, less);
        }
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
        let sum = |sum: &mut u64, counter| *sum = sum.wrapping_add(load(counter));
        sum(&mut totals.allocations, &self.allocations);
        sum(&mut totals.frees, &self.frees);
        sum(&mut totals.live, &self.live);
        sum(&mut totals.live_total, &self.live_total);
        sum(&mut totals.block_bytes, &self.block_bytes);
        sum(&mut totals.live_peak, &self.live_peak);
    }

    pub(crate) fn add_lists_to(&self, totals: &mut [ListTotals]) {
        for (list, tally) in self.tallies.iter() {
            if let Some(totals) = totals.get_mut(list) {
                let sum = |sum: &mut u64, counter: &AtomicU64| {
                    *sum = sum.wrapping_add(counter.load(Ordering::Relaxed));
                };
                sum(&mut totals.allocations, &tally.allocations);
                sum(&mut totals.live, &tally.live);
                sum(&mut totals.live_peak, &tally.live_peak);
            }
        }
    }

    /// Adds what another shard has counted, whose thread has ended.
    pub(crate) fn absorb(&self, other: &Self) {
        let pairs = [
            (&self.allocations, &other.allocations),
            (&self.frees, &other.frees),
            (&self.live, &other.live),
            (&self.live_total, &other.live_total),
            (&self.block_bytes, &other.block_bytes),
            (&self.live_peak, &other.live_peak),
        ];
        for (counter, amount) in pairs {
            counter.fetch_add(amount.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (list, tally) in other.tallies.iter() {
            if let Some(own) = self.tallies.make(list) {
                let pairs = [
                    (&own.allocations, &tally.allocations),
                    (&own.live, &tally.live),
                    (&own.live_peak, &tally.live_peak),
                ];
                for (counter, amount) in pairs {
                    counter.fetch_add(amount.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
        }
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        for counter in [
            &self.allocations,
            &self.frees,
            &self.live,
            &self.live_peak,
            &self.live_total,
            &self.block_bytes,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        for (_, tally) in self.tallies.iter() {
            for counter in [&tally.allocations, &tally.live, &tally.live_peak] {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }
}

impl Lists {
    /// The list, if its group exists.
    #[inline]
    pub(crate) fn get_mut(&mut self, list: ListId) -> Option<&mut Vec<Block>> {
        let group = self.groups.get_mut(list.index() / GROUP)?.as_mut()?;
        group.get_mut(list.index() % GROUP)
    }

    /// The list, with its group made if need be.
    #[inline]
    pub(crate) fn make(&mut self, list: ListId) -> &mut Vec<Block> {
        let number = list.index() / GROUP;
        if number >= self.groups.len() {
            self.groups.resize_with(number + 1, || None);
        }
        let group =
            self.groups[number].get_or_insert_with(|| (0..GROUP).map(|_| Vec::new()).collect());
        &mut group[list.index() % GROUP]
    }

    pub(crate) fn into_blocks(self, blocks: &mut Vec<Block>) {
        for mut list in self.groups.into_iter().flatten().flatten() {
            blocks.append(&mut list);
        }
    }

    /// Takes all blocks out and keeps the lists.
    pub(crate) fn drain(&mut self, blocks: &mut Vec<Block>) {
        for list in self
            .groups
            .iter_mut()
            .flatten()
            .flat_map(|group| group.iter_mut())
        {
            blocks.append(list);
        }
    }
}
