//! What a pool counts, added up.

#![forbid(unsafe_code)]

use super::Pool;
use crate::block;
use crate::error::{Error, ErrorKind, PoolState};
use crate::name::Name;
use crate::report::LeakReport;
use crate::size_class::SizeClasses;
use crate::stats::{Counter, Stats};
use crate::sync::{Arc, Ordering};
use crate::thread_cache::{self, ListSums, Shard, TallySum, UnlistedSum};

/// What all threads of a pool counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) lists: ListSums,
    /// Of blocks without a list.
    pub(super) unlisted: UnlistedSum,
}

impl Counted {
    /// A figure of all lists and of blocks without one.
    pub(super) fn sum(&self, figure: impl Fn(&TallySum) -> u64) -> u64 {
        let lists = self.lists.iter().map(|(_, list)| figure(list));
        lists.fold(figure(&self.unlisted.tally), u64::wrapping_add)
    }

    /// Bytes of so many blocks of each list as `count` says.
    fn listed_bytes(&self, classes: &SizeClasses, count: impl Fn(&TallySum) -> u64) -> u64 {
        let classes = classes.as_slice();
        let class = |list: usize| &classes[list % classes.len()];
        let lists = self.lists.iter();
        let bytes = lists.map(|(list, sum)| count(sum).wrapping_mul(class(list).bytes as u64));
        bytes.fold(0, u64::wrapping_add)
    }
}

impl Pool {
    /// Forgets what building the allocator counted; nothing is live then.
    pub(crate) fn reset_counters(&self) {
        for shard in self.shards.lock().iter() {
            shard.reset();
        }
        self.classes.reset();
        self.live_water.reset();
        self.misses.store(0, Ordering::Relaxed);
        self.shortages.store(0, Ordering::Relaxed);
        self.reopen_at.store(0, Ordering::Relaxed);
    }

    /// What threads counted. A walk over their counters.
    pub(super) fn counted(&self) -> Counted {
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        let all = || shards.iter().map(|shard| &**shard).chain([&self.shared]);
        let mut counted = Counted {
            lists: thread_cache::list_sums(all(), self.classes.list_count()),
            unlisted: UnlistedSum::default(),
        };
        for shard in all() {
            shard.add_to(&mut counted.lists, &mut counted.unlisted);
        }
        counted
    }

    /// Bytes of the blocks that users hold.
    pub(super) fn block_bytes(&self, counted: &Counted) -> u64 {
        let UnlistedSum {
            allocated, freed, ..
        } = counted.unlisted;
        let bytes = counted.listed_bytes(self.classes.classes(), |list| list.live);
        bytes.wrapping_add(allocated.wrapping_sub(freed))
    }

    /// Buffers that users hold.
    pub(super) fn live_buffers(&self) -> u64 {
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        let live = shards.iter().map(|shard| shard.live_blocks());
        live.fold(self.shared.live_blocks(), u64::wrapping_add)
    }

    /// Bytes requested by users and not yet freed; O(threads).
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes_in(&self.shards.lock())
    }

    /// The same, for whoever has the lock of the list of shards.
    pub(super) fn live_bytes_in(&self, shards: &[Arc<Shard>]) -> u64 {
        let headrooms = shards.iter().map(|shard| shard.headroom());
        let all = headrooms.fold(0, u64::wrapping_add);
        self.live_water.sum(all)
    }

    pub(super) fn state(&self) -> PoolState {
        PoolState {
            live_bytes: self.live_bytes(),
            cached_bytes: self.idle_bytes(),
            reserved_bytes: self.device.reserved().value,
            limit_bytes: self.reserve.limit(),
            largest_free_bytes: self.largest_free() as u64,
        }
    }

    /// The limit on what is reserved, if one is set.
    pub(crate) fn reserved_bytes_max(&self) -> Option<u64> {
        self.reserve.limit()
    }

    /// An error with the request that it belongs to, and how the pool stands where that explains it.
    pub(crate) fn explain(&self, error: Error, bytes: usize, name: Name) -> Error {
        let error = error.for_request(bytes, name);
        match error.kind() {
            ErrorKind::OutOfMemory | ErrorKind::LimitExceeded => error.with_pool(self.state()),
            _ => error,
        }
    }

    pub(super) fn largest_free(&self) -> usize {
        let arenas = self.arenas.iter();
        let free = arenas.flat_map(|(arena, small)| [arena.free(), small.free()]);
        free.map(|free| free.largest).max().unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> Stats {
        let deferred_bytes = self.awaited_bytes();
        let counted = self.counted();
        let live = self.live_bytes();
        // No more was ever requested than was held.
        let peak = self.live_water.peak().min(self.device.reserved().peak);
        let allocations = counted.sum(|list| list.allocations);
        let blocks = |list: &TallySum| list.allocations;
        let allocated = counted.listed_bytes(self.classes.classes(), blocks);
        let block_bytes = self.block_bytes(&counted);
        let (driver_calls, driver_failures) = self.device.calls();
        let (driver_real_ns, driver_charged_ns) = self.device.times_ns();
        let reserved = self.device.reserved();
        let misses = self.misses.load(Ordering::Relaxed);
        let free: usize = self
            .arenas
            .iter()
            .map(|(arena, small)| arena.free().bytes + small.free().bytes)
            .sum();
        let mut stats = Stats {
            live: Counter {
                value: live,
                peak: peak.max(live),
                total: allocated.wrapping_add(counted.unlisted.allocated),
            },
            reserved,
            staging: self.device.staging(),
            registered: self.device.registered(),
            parked: self.device.parked(),
            limit: self.reserve.limit(),
            block_bytes,
            cached_bytes: reserved.value.saturating_sub(block_bytes + deferred_bytes),
            deferred_bytes,
            allocations,
            frees: counted.sum(TallySum::frees),
            hits: allocations.saturating_sub(misses),
            misses,
            growths: self.reserve.growths(),
            remaps: self.reserve.remaps(),
            failures: self.failures.load(Ordering::Relaxed),
            memory_failures: self.observer.memory_failures.load(Ordering::Relaxed),
            memory_failure_age: self.observer.memory_failed.age(),
            driver_calls,
            driver_failures,
            driver_ns: driver_real_ns + driver_charged_ns,
            driver_charged_ns,
            segments: self.segments(),
            free_bytes: free as u64,
            largest_free: self.largest_free(),
            classes: self.classes.stats(&counted.lists),
            nodes: self.arenas.stats(&self.device),
            out_of_memory: self.out_of_memory.read(),
            out_of_memory_age: self.out_of_memory.age(),
            pressure: self.usage().map_or(0.0, |usage| usage.ratio()),
            ..Stats::default()
        };
        if let Some(supervisor) = self.supervisor() {
            supervisor.add_to(&mut stats);
        }
        stats
    }

    /// Segments held, and pieces of physical memory mapped.
    fn segments(&self) -> usize {
        let pieces = self.arenas.iter().map(|(arena, _)| arena.pieces());
        pieces.sum::<usize>() + self.exposed.len()
    }

    pub(crate) fn live_report(&self) -> LeakReport {
        let mut report = LeakReport::new(&self.name);
        block::for_each_live(self.key, |sight| report.add(sight.name, sight.requested));
        report.sorted(&self.observer.sampler.live())
    }
}
