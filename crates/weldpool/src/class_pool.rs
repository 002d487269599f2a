//! Central lists of idle blocks, one per size class and storage mode, between the threads' caches and
//! the arenas.

#![forbid(unsafe_code)]

use crate::block::{Block, ListId};
use crate::device::StorageMode;
use crate::grouped::Grouped;
use crate::size_class::{ClassIndex, SizeClasses};
use crate::stats::ClassStats;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::thread_cache::TallySum;

/// The pools of one allocator.
#[derive(Debug)]
pub(crate) struct ClassPools {
    classes: SizeClasses,
    /// The classes of requests without wishes of their own; none if all of them have some.
    warm: ClassIndex,
    lists: Grouped<ClassPool>,
}

#[derive(Debug, Default)]
struct ClassPool {
    idle: Mutex<Vec<Block>>,
    /// Requests that no idle block served.
    misses: AtomicU64,
    /// Bytes of blocks cut for the list, in use or idle.
    held: AtomicU64,
    held_peak: AtomicU64,
}

impl ClassPools {
    /// `warm` says whether requests without wishes of their own can be served as they come.
    pub(crate) fn new(classes: SizeClasses, warm: bool) -> Self {
        let lists = classes.as_slice().len() * StorageMode::ALL.len();
        let warm = if warm {
            classes.index().clone()
        } else {
            ClassIndex::default()
        };
        Self {
            classes,
            warm,
            lists: Grouped::new(lists),
        }
    }

    pub(crate) fn classes(&self) -> &SizeClasses {
        &self.classes
    }

    /// Most blocks of a list that a thread keeps.
    pub(crate) fn thread_max(&self, list: ListId) -> u8 {
        let classes = self.classes.as_slice();
        let class = classes.get(list.index() % classes.len().max(1));
        class
            .filter(|_| list.is_some())
            .map_or(0, |class| class.thread_max)
    }

    /// Bytes of each block of a list, by its position.
    pub(crate) fn block_bytes(&self, list: usize) -> usize {
        let classes = self.classes.as_slice();
        classes
            .get(list % classes.len().max(1))
            .map_or(0, |class| class.bytes)
    }

    /// Number of lists there are.
    pub(crate) fn list_count(&self) -> usize {
        self.classes.as_slice().len() * StorageMode::ALL.len()
    }

    /// The list that serves a request without wishes of its own.
    #[inline]
    pub(crate) fn warm_list(&self, storage: StorageMode, bytes: usize) -> Option<ListId> {
        // Zero bytes wrap to more than any class holds.
        let class = self.warm.index_of_last(bytes.wrapping_sub(1))?;
        Some(self.list(storage, class))
    }

    /// The list of a class.
    #[inline]
    pub(crate) fn list(&self, storage: StorageMode, class: usize) -> ListId {
        ListId::new(storage.index() * self.classes.as_slice().len() + class)
    }

    /// Up to `count` idle blocks, most recently freed first: those are the likeliest to be in a cache.
    pub(crate) fn take(&self, list: ListId, count: usize) -> Vec<Block> {
        let Some(pool) = self.lists.get(list.index()) else {
            return Vec::new();
        };
        let mut idle = pool.idle.lock();
        let rest = idle.len().saturating_sub(count);
        idle.split_off(rest)
    }

    /// Keeps blocks of one list up to the class's limit; gives the others back.
    pub(crate) fn put(&self, list: ListId, mut blocks: Vec<Block>) -> Vec<Block> {
        let Some(pool) = self.lists.make(list.index()) else {
            return blocks;
        };
        let class = list.index() % self.classes.as_slice().len().max(1);
        let most = self
            .classes
            .as_slice()
            .get(class)
            .map_or(0, |class| class.cached_max);
        let mut idle = pool.idle.lock();
        let room = most.saturating_sub(idle.len()).min(blocks.len());
        idle.extend(blocks.drain(..room));
        drop(idle);
        blocks
    }

    /// Takes every idle block out.
    pub(crate) fn drain(&self, drained: &mut Vec<Block>) {
        for (_, pool) in self.lists.iter() {
            drained.append(&mut pool.idle.lock());
        }
    }

    /// Takes every idle block of one list out.
    pub(crate) fn drain_list(&self, list: usize, drained: &mut Vec<Block>) {
        if let Some(pool) = self.lists.get(list) {
            drained.append(&mut pool.idle.lock());
        }
    }

    /// Keeps, of drained blocks, as many of each class as it started with; gives the others back.
    pub(crate) fn keep_initial(&self, drained: Vec<Block>) -> Vec<Block> {
        let count = self.classes.as_slice().len().max(1);
        let keep = |block: Block| {
            let list = block.list();
            let class = self.classes.as_slice().get(list.index() % count);
            let initial = class.map_or(0, |class| class.initial);
            if initial == 0 || !list.is_some() || block.point().is_some() {
                return Some(block);
            }
            let mut idle = self.lists.make(list.index())?.idle.lock();
            if idle.len() >= initial {
                return Some(block);
            }
            idle.push(block);
            None
        };
        drained.into_iter().filter_map(keep).collect()
    }

    /// Counts a request that no idle block served.
    pub(crate) fn count_miss(&self, list: ListId) {
        if let Some(pool) = self.lists.make(list.index()) {
            pool.misses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a block cut for a list.
    pub(crate) fn count_cut(&self, list: ListId, bytes: usize) {
        if let Some(pool) = self.lists.make(list.index()) {
            let held = pool.held.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
            pool.held_peak.fetch_max(held, Ordering::Relaxed);
        }
    }

    /// Counts a block that went back to its arena.
    pub(crate) fn count_returned(&self, list: ListId, bytes: usize) {
        if let Some(pool) = self.lists.get(list.index()) {
            pool.held.fetch_sub(bytes as u64, Ordering::Relaxed);
        }
    }

    /// Forgets hits and misses.
    pub(crate) fn reset(&self) {
        for (_, pool) in self.lists.iter() {
            pool.misses.store(0, Ordering::Relaxed);
        }
    }

    /// Statistics of the classes, given what the threads counted per list.
    pub(crate) fn stats(&self, totals: &[TallySum]) -> Vec<ClassStats> {
        let count = self.classes.as_slice().len();
        let of = |class: usize, size: usize| {
            let mut stats = ClassStats {
                bytes: size,
                ..ClassStats::default()
            };
            for list in (0..StorageMode::ALL.len()).map(|storage| storage * count + class) {
                if let Some(totals) = totals.get(list) {
                    stats.allocations += totals.allocations;
                    stats.frees += totals.frees;
                    stats.live_bytes += totals.live();
                    stats.live_bytes_peak += totals.live_peak;
                }
                if let Some(pool) = self.lists.get(list) {
                    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                    stats.misses += load(&pool.misses);
                    stats.held_bytes += load(&pool.held);
                    stats.held_bytes_peak += load(&pool.held_peak);
                }
            }
            stats.hits = stats.allocations.saturating_sub(stats.misses);
            stats
        };
        let classes = self.classes.as_slice().iter().enumerate();
        classes.map(|(class, size)| of(class, size.bytes)).collect()
    }
}
