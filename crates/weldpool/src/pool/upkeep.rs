//! What is done about idle memory besides serving requests: answers to pressure, and collection.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::Pool;
use crate::gc::{Ages, GcPlan, Observation};
use crate::pressure::{Actions, Level, Step, Usage};
use crate::profiling::SlowPath;
use crate::sync::Ordering;

impl Pool {
    /// Returns up to about `bytes` bytes of free memory to the device, without touching it; says how many
    /// it were.
    pub(super) fn trim(&self, bytes: usize) -> usize {
        let passed = |point| self.orders.passed(point);
        let mut returned = self.exposed.return_refused();
        for (arena, _) in self.arenas.iter() {
            if returned < bytes {
                // All is all to a profiler too.
                let more = match bytes {
                    usize::MAX => bytes,
                    _ => bytes - returned,
                };
                returned += arena.trim(more, &passed);
            }
        }
        returned
    }

    /// As [`trim`](Self::trim), but where the system can take memory by itself it may, and the memory is kept until it
    /// does; that has the limit that idle memory has.
    fn park_idle(&self, bytes: usize) -> usize {
        let most = self.cache_limit.bytes();
        let mut gone = self.exposed.return_refused();
        for (arena, _) in self.arenas.iter() {
            if gone < bytes {
                gone += match arena.exchanges() {
                    true => arena.park_empty(bytes - gone, most),
                    false => arena.trim(bytes - gone, &|point| self.orders.passed(point)),
                };
            }
        }
        gone
    }

    /// Gives back what was put away, until `bytes` bytes are; says how many.
    pub(super) fn release_parked(&self, bytes: u64) -> u64 {
        let mut left = bytes;
        for (arena, _) in self.arenas.iter() {
            if left > 0 {
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                left = left.saturating_sub(arena.release_parked(most) as u64);
            }
        }
        bytes - left
    }

    /// Gives back what is idle beyond the limit on it.
    pub(super) fn shed_idle(&self) -> usize {
        let (idle, most) = (self.idle_bytes(), self.cache_limit.bytes());
        self.release_parked(self.device.parked().value.saturating_sub(most));
        if idle <= most {
            return 0;
        }
        self.drain_caches(true);
        self.trim(usize::try_from(idle - most).unwrap_or(usize::MAX))
    }

    /// Takes the steps that answer pressure; returns the bytes that went back to the device.
    pub(crate) fn respond(&self, level: Level, actions: Actions) -> u64 {
        self.pressed.store(level > Level::Normal, Ordering::Relaxed);
        if self.closing.load(Ordering::SeqCst) {
            return 0;
        }
        let mut span = self.device.span(SlowPath::Pressure, 0);
        self.cache_limit.hold(
            actions.contains(Step::HalveCacheLimit),
            actions.contains(Step::RefuseCacheGrowth),
            self.idle_bytes(),
        );
        self.share_out(&self.shards.lock());
        // Told by what was reserved: what is put away and returned after that is one thing.
        let before = self.given_up();
        for step in actions.iter() {
            let _bytes = match step {
                Step::HalveCacheLimit => self.shed_idle(),
                Step::TrimEmptySegments => self.park_idle(usize::MAX),
                Step::ReturnIdle => self.clear(),
                Step::RefuseCacheGrowth => 0,
                Step::AwaitWork => {
                    self.wait(self.wait_max);
                    0
                }
                Step::DrainThreadCaches => {
                    self.drain_caches(false);
                    0
                }
                Step::DrainLargeBlocks => {
                    self.drain_large();
                    0
                }
            };
        }
        let returned = self.given_up().saturating_sub(before);
        span.set_bytes(usize::try_from(returned).unwrap_or(usize::MAX));
        returned
    }

    /// Bytes that were reserved and are not any more.
    fn given_up(&self) -> u64 {
        let reserved = self.device.reserved();
        reserved.total.saturating_sub(reserved.value)
    }

    /// Lets pressure be over that nobody else looks at. With no lock held.
    pub(super) fn relax(&self) {
        if self.pressed.load(Ordering::Relaxed)
            && let Some(supervisor) = self.supervisor()
        {
            supervisor.relax();
        }
    }

    /// What is reserved against the limit, if there is one.
    pub(crate) fn usage(&self) -> Option<Usage> {
        Some(Usage {
            used: self.device.reserved().value,
            limit: self.reserve.limit()?,
        })
    }

    /// How things stand, for the collecting thread.
    pub(crate) fn observe(&self, ages: &mut Ages, now: Instant) -> Observation {
        let mut allocations = vec![0; self.classes.list_count()];
        for (list, sum) in self.counted().lists.iter() {
            allocations[list] = sum.allocations;
        }
        ages.look(
            now,
            self.collectable_bytes(),
            self.reserve.growths(),
            allocations.into_iter(),
        );
        Observation {
            live_bytes: self.live_bytes(),
            reserved_bytes: self.device.reserved().value,
            limit_bytes: self.reserve.limit(),
            external_fragmentation: self.external_fragmentation(),
            oldest_idle: ages.oldest(now),
        }
    }

    /// What is idle besides what classes keep, however long it is idle.
    fn collectable_bytes(&self) -> u64 {
        let kept = self.classes.kept_bytes(|class| self.tuned.kept(class));
        self.idle_bytes().saturating_sub(kept)
    }

    /// 1 - largest free range / all free bytes, over all arenas.
    fn external_fragmentation(&self) -> f64 {
        let free: usize = self
            .arenas
            .iter()
            .map(|(arena, small)| arena.free().bytes + small.free().bytes)
            .sum();
        if free == 0 {
            return 0.0;
        }
        1.0 - self.largest_free() as f64 / free as f64
    }

    /// Carries out a plan of the collecting thread; returns the bytes that went back to the device.
    pub(crate) fn collect_garbage(&self, plan: &GcPlan, ages: &mut Ages, now: Instant) -> u64 {
        if self.closing.load(Ordering::SeqCst) {
            return 0;
        }
        let mut span = self.device.span(SlowPath::Collection, 0);
        self.collect(true);
        let before = self.given_up();
        if plan.drain_caches {
            self.drain_caches(false);
        }
        if let Some(age) = plan.older_than {
            self.drain_unused(ages, now, age);
            // Of what threads cached, classes keep some now.
            let surplus = ages.surplus(now, age).min(self.collectable_bytes());
            if surplus > 0 {
                self.park_idle(usize::try_from(surplus).unwrap_or(usize::MAX));
            }
        }
        if let Some(most) = plan.trim_to_bytes {
            let excess = self.device.reserved().value.saturating_sub(most);
            if excess > 0 {
                self.trim(usize::try_from(excess).unwrap_or(usize::MAX));
            }
        }
        let returned = self.given_up().saturating_sub(before);
        ages.returned(returned);
        span.set_bytes(usize::try_from(returned).unwrap_or(usize::MAX));
        returned
    }

    /// Empties the lists that served nothing for `age` into the arenas, where they can be taken from
    /// threads; what a thread keeps for itself alone stays.
    fn drain_unused(&self, ages: &Ages, now: Instant, age: Duration) {
        let drained = self.drain_lists(|list| ages.is_unused(list, now, age));
        let _bytes = self.put_in_arenas(self.keep_least(drained));
    }

    /// Empties the lists of blocks that fill a segment or more into the arenas, likewise, and what a class is to
    /// keep too.
    fn drain_large(&self) {
        let least = self.reserve.segment_bytes_min();
        let drained = self.drain_lists(|list| self.classes.block_bytes(list) >= least);
        let _bytes = self.put_in_arenas(drained);
    }
}
