//! What a pool counts, added up.

#![forbid(unsafe_code)]

use super::Pool;
use crate::block;
use crate::error::PoolState;
use crate::report::LeakReport;
use crate::stats::{Counter, Stats};
use crate::sync::Ordering;
use crate::thread_cache::{TallySum, Totals};

impl Pool {
    /// Forgets what building the allocator counted; nothing is live then.
    pub(crate) fn reset_counters(&self) {
        for shard in self.shards.lock().iter() {
            shard.reset();
        }
        self.classes.reset();
        self.misses.store(0, Ordering::Relaxed);
        self.shortages.store(0, Ordering::Relaxed);
        self.reopen_at.store(0, Ordering::Relaxed);
    }

    /// What was counted per list, and last for blocks without one.
    pub(super) fn list_totals(&self) -> Vec<TallySum> {
        let mut lists = vec![TallySum::default(); self.classes.list_count() + 1];
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        for shard in shards.iter() {
            shard.add_lists_to(&mut lists);
        }
        self.shared.add_lists_to(&mut lists);
        lists
    }

    /// Buffers that users hold.
    pub(super) fn live_buffers(&self) -> u64 {
        let lists = self.list_totals();
        let live = lists
            .iter()
            .map(|list| list.allocations.wrapping_sub(list.frees));
        live.fold(0, u64::wrapping_add)
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        for shard in shards.iter().filter(|shard| shard.speaks()) {
            shard.totals.add_to(&mut totals);
        }
        self.shared.totals.add_to(&mut totals);
        totals
    }

    pub(super) fn state(&self) -> PoolState {
        PoolState {
            live: self.totals().live,
            cached: self.idle_bytes(),
            reserved: self.device.reserved().value,
            limit: self.reserve.limit(),
            largest_free: self.largest_free() as u64,
        }
    }

    pub(super) fn largest_free(&self) -> usize {
        let arenas = self.arenas.iter();
        arenas
            .map(|(arena, _)| arena.free().largest)
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> Stats {
        let totals = self.totals();
        let lists = self.list_totals();
        let sum = |value: fn(&TallySum) -> u64| lists.iter().map(value).fold(0, u64::wrapping_add);
        let allocations = sum(|list| list.allocations);
        let (driver_calls, driver_failures) = self.device.calls();
        let (driver_real_ns, driver_charged_ns) = self.device.times_ns();
        let reserved = self.device.reserved();
        let misses = self.misses.load(Ordering::Relaxed);
        let free: usize = self
            .arenas
            .iter()
            .map(|(arena, small)| arena.free().bytes + small.free().bytes)
            .sum();
        let deferred_bytes = self.deferred_bytes();
        Stats {
            live: Counter {
                value: totals.live,
                peak: totals.live_peak.max(totals.live),
                total: sum(|list| list.allocated_bytes),
            },
            reserved,
            limit: self.reserve.limit(),
            block_bytes: totals.block_bytes,
            cached_bytes: reserved
                .value
                .saturating_sub(totals.block_bytes + deferred_bytes),
            deferred_bytes,
            allocations,
            frees: sum(|list| list.frees),
            hits: allocations.saturating_sub(misses),
            misses,
            growths: self.reserve.growths(),
            remaps: self.reserve.remaps(),
            failures: self.failures.load(Ordering::Relaxed),
            memory_failures: self.observer.memory_failures.load(Ordering::Relaxed),
            driver_calls,
            driver_failures,
            driver_ns: driver_real_ns + driver_charged_ns,
            driver_charged_ns,
            segments: self.arenas.iter().map(|(arena, _)| arena.pieces()).sum(),
            free_bytes: free as u64,
            largest_free: self.largest_free(),
            classes: self.classes.stats(&lists),
            nodes: self.arenas.stats(&self.device),
            out_of_memory: self.out_of_memory.read(),
            pressure: self.usage().map_or(0.0, |usage| usage.ratio()),
            ..Stats::default()
        }
    }

    pub(crate) fn live_report(&self) -> LeakReport {
        let mut report = LeakReport::new(&self.name);
        block::for_each_live(self.key, |sight| report.add(sight.name, sight.requested));
        report.sorted(&self.observer.sampler.live())
    }
}
