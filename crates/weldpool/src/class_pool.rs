//! Central lists of idle blocks, one per size class and storage mode, between the threads' caches and
//! the arenas.

#![forbid(unsafe_code)]

use crate::block::{Block, ListId, Node};
use crate::device::StorageMode;
use crate::grouped::Grouped;
use crate::request::DEFAULT_ALIGNMENT;
use crate::size_class::{ClassIndex, SizeClasses};
use crate::stats::ClassStats;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::thread_cache::ListSums;

/// Multiples of 256 bytes below which a request's list is found by one look.
const SMALL: usize = 256;

/// The pools of one allocator.
#[derive(Debug)]
pub(crate) struct ClassPools {
    classes: SizeClasses,
    /// The lists of small requests without wishes of their own, by storage mode and last byte.
    small: [[ListId; SMALL]; StorageMode::ALL.len()],
    /// The classes of larger ones; none if all of them have wishes.
    warm: ClassIndex,
    /// By node and list. What is counted of a list is counted at the first node.
    lists: Grouped<ClassPool>,
}

#[derive(Debug, Default)]
struct ClassPool {
    idle: Mutex<Vec<Block>>,
    /// The length of most requests; 0 until there is one.
    usual: AtomicU32,
    /// Requested bytes, as far as threads told; wraps.
    live: AtomicU64,
    live_peak: AtomicU64,
    /// Requests that needed memory from the driver.
    misses: AtomicU64,
    /// Bytes of blocks cut for the list, in use or idle.
    held: AtomicU64,
    held_peak: AtomicU64,
}

impl ClassPool {
    /// Raises the peak to a level; a negative one is that of threads that have not told yet.
    fn raise_peak(&self, live: u64) {
        let live = live.cast_signed().max(0).cast_unsigned();
        if live > self.live_peak.load(Ordering::Relaxed) {
            self.live_peak.fetch_max(live, Ordering::Relaxed);
        }
    }
}

impl ClassPools {
    /// `warm` says whether requests without wishes of their own can be served as they come.
    pub(crate) fn new(classes: SizeClasses, warm: bool, nodes: usize) -> Self {
        let count = classes.as_slice().len();
        let lists = count * StorageMode::ALL.len();
        let warm = if warm {
            classes.index().clone()
        } else {
            ClassIndex::default()
        };
        // Sizes of classes are multiples of 256, so one byte stands for 256.
        let small = |storage: StorageMode, number: usize| {
            let class = warm.index_of_last(number * DEFAULT_ALIGNMENT);
            class.map_or(ListId::NONE, |class| {
                ListId::new(storage.index() * count + class)
            })
        };
        let small =
            StorageMode::ALL.map(|storage| std::array::from_fn(|number| small(storage, number)));
        Self {
            classes,
            small,
            warm,
            lists: Grouped::new(lists * nodes),
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

    /// Most idle blocks of a list that all threads share.
    pub(crate) fn cached_max(&self, list: ListId) -> usize {
        let classes = self.classes.as_slice();
        let class = classes.get(list.index() % classes.len().max(1));
        class
            .filter(|_| list.is_some())
            .map_or(0, |class| class.cached_max)
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
        let last = bytes.wrapping_sub(1);
        if let Some(list) = self.small[storage.index()].get(last / DEFAULT_ALIGNMENT) {
            return Some(*list);
        }
        let class = self.warm.index_of_last(last)?;
        Some(self.list(storage, class))
    }

    /// The list of a class.
    #[inline]
    pub(crate) fn list(&self, storage: StorageMode, class: usize) -> ListId {
        ListId::new(storage.index() * self.classes.as_slice().len() + class)
    }

    /// The list of a block's length.
    pub(crate) fn list_of(&self, block: &Block) -> ListId {
        let class = self.classes.index_of(block.bytes());
        class.map_or(ListId::NONE, |class| self.list(block.storage(), class))
    }

    /// The position of a list's idle blocks of a node; none for what is no list.
    fn position(&self, list: ListId, node: Node) -> Option<usize> {
        let lists = self.list_count();
        (list.index() < lists).then(|| node.index() * lists + list.index())
    }

    /// Up to `count` idle blocks of a node, most recently freed first: those are the likeliest to be in a
    /// cache.
    pub(crate) fn take(&self, list: ListId, node: Node, count: usize) -> Vec<Block> {
        let pool = self.position(list, node);
        let Some(pool) = pool.and_then(|position| self.lists.get(position)) else {
            return Vec::new();
        };
        let mut idle = pool.idle.lock();
        let rest = idle.len().saturating_sub(count);
        idle.split_off(rest)
    }

    /// Keeps blocks of one list up to the class's limit, of each node; gives the others back.
    pub(crate) fn put(&self, list: ListId, blocks: Vec<Block>) -> Vec<Block> {
        let most = self.cached_max(list);
        let mut left = Vec::new();
        let mut blocks = blocks.into_iter().peekable();
        while let Some(node) = blocks.peek().map(Block::node) {
            let position = self.position(list, node);
            let Some(pool) = position.and_then(|position| self.lists.make(position)) else {
                left.extend(blocks);
                break;
            };
            let mut idle = pool.idle.lock();
            while let Some(block) = blocks.next_if(|block| block.node() == node) {
                if idle.len() < most {
                    idle.push(block);
                } else {
                    left.push(block);
                }
            }
        }
        left
    }

    /// Takes the idle blocks of the lists that are `wanted` out.
    pub(crate) fn drain(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        let lists = self.list_count();
        for (position, pool) in self.lists.iter() {
            if wanted(position % lists) {
                drained.append(&mut pool.idle.lock());
            }
        }
    }

    /// Keeps, of drained blocks, as many of each class as it is to keep, or as `least` says if that is
    /// more; gives the others back.
    pub(crate) fn keep_least(
        &self,
        drained: Vec<Block>,
        least: impl Fn(usize) -> usize,
    ) -> Vec<Block> {
        let keep = |block: Block| {
            let list = block.list();
            let kept = self.kept(list.index(), &least);
            if kept == 0 || !list.is_some() || block.point().is_some() {
                return Some(block);
            }
            let position = self.position(list, block.node());
            let Some(pool) = position.and_then(|position| self.lists.make(position)) else {
                return Some(block);
            };
            let mut idle = pool.idle.lock();
            if idle.len() >= kept {
                return Some(block);
            }
            idle.push(block);
            None
        };
        drained.into_iter().filter_map(keep).collect()
    }

    /// Bytes of the idle blocks of the lists for which `block_bytes` says how long a block is; O(lists in use).
    pub(crate) fn idle_bytes_of(&self, block_bytes: impl Fn(usize) -> Option<usize>) -> u64 {
        let lists = self.list_count();
        let bytes = self.lists.iter().filter_map(|(position, pool)| {
            let block_bytes = block_bytes(position % lists)?;
            Some(pool.idle.lock().len() * block_bytes)
        });
        bytes.sum::<usize>() as u64
    }

    /// Bytes of the idle blocks that would stay so.
    pub(crate) fn kept_bytes(&self, least: impl Fn(usize) -> usize) -> u64 {
        let kept = |(list, pool): (usize, &ClassPool)| match self.kept(list, &least) {
            0 => 0,
            most => (pool.idle.lock().len().min(most) * self.block_bytes(list)) as u64,
        };
        self.lists.iter().map(kept).sum()
    }

    /// How many idle blocks of a list stay, at whatever node.
    fn kept(&self, list: usize, least: impl Fn(usize) -> usize) -> usize {
        let class = list % self.classes.as_slice().len().max(1);
        let kept = self.classes.as_slice().get(class);
        kept.map_or(0, |class| class.kept).max(least(class))
    }

    /// The usual length of requests of a list, which is that of the first; 0 where there is none.
    pub(crate) fn usual_bytes(&self, list: ListId, requested: u64) -> u32 {
        let (Some(pool), Ok(requested)) = (self.lists.make(list.index()), u32::try_from(requested))
        else {
            return 0;
        };
        let relaxed = Ordering::Relaxed;
        match pool.usual.load(relaxed) {
            0 => match pool.usual.compare_exchange(0, requested, relaxed, relaxed) {
                Ok(_) => requested,
                Err(first) => first,
            },
            usual => usual,
        }
    }

    /// Takes note of requested bytes that are live, or no longer, in one thread; wraps.
    pub(crate) fn note_live(&self, list: ListId, more: u64) {
        if let Some(pool) = self.lists.make(list.index()) {
            let before = pool.live.fetch_add(more, Ordering::Relaxed);
            pool.raise_peak(before.wrapping_add(more));
        }
    }

    /// Counts a request that needed memory from the driver.
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

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self) {
        for (_, pool) in self.lists.iter() {
            pool.misses.store(0, Ordering::Relaxed);
            pool.live.store(0, Ordering::Relaxed);
            pool.live_peak.store(0, Ordering::Relaxed);
        }
    }

    /// Statistics of the classes, given what the threads counted per list.
    pub(crate) fn stats(&self, totals: &ListSums) -> Vec<ClassStats> {
        let classes = self.classes.as_slice().iter();
        let mut stats: Vec<ClassStats> = classes
            .map(|class| ClassStats {
                bytes: class.bytes,
                ..ClassStats::default()
            })
            .collect();
        let count = stats.len();
        for (list, totals) in totals.iter() {
            let stats = &mut stats[list % count];
            stats.allocations += totals.allocations;
            stats.frees += totals.frees();
            stats.live_bytes += totals.live_bytes;
            if let Some(pool) = self.lists.get(list) {
                pool.raise_peak(totals.live_bytes);
            }
        }
        let at_first_node = self.list_count();
        for (list, pool) in self.lists.iter() {
            if list >= at_first_node {
                break;
            }
            let stats = &mut stats[list % count];
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            stats.live_bytes_peak += load(&pool.live_peak);
            stats.misses += load(&pool.misses);
            stats.held_bytes += load(&pool.held);
            stats.held_bytes_peak += load(&pool.held_peak);
        }
        for stats in &mut stats {
            stats.hits = stats.allocations.saturating_sub(stats.misses);
        }
        stats
    }
}
