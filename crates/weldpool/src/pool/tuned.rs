//! What a strategy is told about the pool, and what it changed about it.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Pool;
use crate::block::{ArenaKind, Block, ListId};
use crate::grouped::Grouped;
use crate::strategy::{Demand, Driven, Shape, Strategy};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Requests without a driver call between two questions.
const QUIET_REQUESTS: u64 = 1024;

/// Longest wait for memory of other queues rather than exceed the slack, unless a strategy says otherwise.
const WAIT_US: u64 = 2_000;

/// What was counted for the strategy, per class and in all.
#[derive(Debug)]
pub(super) struct Tuned {
    classes: Grouped<ClassDemand>,
    requests: AtomicU64,
    driver_calls: AtomicU64,
    wait_us: AtomicU64,
    slack_per_1024: u32,
    divisible: bool,
}

#[derive(Debug, Default)]
struct ClassDemand {
    requests: AtomicU64,
    returned: AtomicU64,
    /// What the strategy said last.
    kept: AtomicUsize,
    thread_max: AtomicUsize,
}

impl Tuned {
    pub(super) fn new(classes: usize, slack_per_1024: u32, divisible: bool) -> Self {
        Self {
            classes: Grouped::new(classes),
            requests: AtomicU64::new(0),
            driver_calls: AtomicU64::new(0),
            wait_us: AtomicU64::new(WAIT_US),
            slack_per_1024,
            divisible,
        }
    }

    /// Idle blocks of a class that stay when caches are emptied, if that was said.
    pub(super) fn kept(&self, class: usize) -> usize {
        let demand = self.classes.get(class);
        demand.map_or(0, |demand| demand.kept.load(Ordering::Relaxed))
    }
}

impl Pool {
    /// Most blocks of a list that a thread keeps, as was said last.
    pub(super) fn thread_max(&self, list: ListId) -> u8 {
        let configured = self.classes.thread_max(list);
        let class = list.index() % self.classes.classes().as_slice().len().max(1);
        match self.tuned.classes.get(class).filter(|_| list.is_some()) {
            Some(said) => {
                let said = said.thread_max.load(Ordering::Relaxed);
                configured.min(u8::try_from(said).unwrap_or(u8::MAX))
            }
            None => configured,
        }
    }

    /// What the strategy says to a question; nothing if it panics, so that no request is lost to it.
    pub(super) fn unless_it_panics<T>(
        &self,
        question: &'static str,
        ask: impl FnOnce() -> T,
    ) -> Option<T> {
        let said = catch_unwind(AssertUnwindSafe(ask));
        if said.is_err() {
            tracing::error!(pool = %self.name, question, "a strategy panicked");
        }
        said.ok()
    }

    /// How a class serves a request that came past the caches.
    pub(super) fn shape(&self, class: usize) -> Shape {
        let size = &self.classes.classes().as_slice()[class];
        let Some(strategy) = &self.strategy else {
            return Shape::of(size);
        };
        let Some(counted) = self.tuned.classes.make(class) else {
            return Shape::of(size);
        };
        let demand = Demand {
            class: *size,
            requests: counted.requests.fetch_add(1, Ordering::Relaxed) + 1,
            returned: counted.returned.load(Ordering::Relaxed),
            divisible: self.tuned.divisible,
        };
        let shape = self.unless_it_panics("shape", || strategy.shape(&demand));
        let shape = shape.unwrap_or_else(|| Shape::of(size));
        counted.kept.store(shape.kept, Ordering::Relaxed);
        let thread_max = usize::from(shape.thread_max);
        counted.thread_max.store(thread_max, Ordering::Relaxed);
        shape
    }

    /// How long a request waits at most for memory that work on other queues still uses rather than that more
    /// is obtained than the slack allows.
    pub(super) fn wait_for_others_max(&self) -> Duration {
        Duration::from_micros(self.tuned.wait_us.load(Ordering::Relaxed))
    }

    /// Counts a block that comes back past the caches.
    pub(super) fn note_returned(&self, block: &Block) {
        if self.strategy.is_none() || block.arena() == ArenaKind::Small {
            return;
        }
        if block.list() == ListId::DIRECT {
            return;
        }
        let class = self.classes.classes().index_of(block.bytes());
        if let Some(counted) = class.and_then(|class| self.tuned.classes.get(class)) {
            counted.returned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks the strategy, if it is time to, after a request past the threads' caches.
    pub(super) fn tune(&self, strategy: &dyn Strategy) {
        let tuned = &self.tuned;
        let requests = tuned.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (driver_calls, ..) = self.device.calls();
        let before = tuned.driver_calls.swap(driver_calls, Ordering::Relaxed);
        if before == driver_calls && !requests.is_multiple_of(QUIET_REQUESTS) {
            return;
        }
        let driven = Driven {
            requests,
            driver_calls,
            growths: self.reserve.growths(),
            remaps: self.reserve.remaps(),
            returned_bytes: self.reserve.returned_bytes(),
            reserved_bytes: self.reserved_bytes(),
            live_bytes: self.live_bytes(),
            live_bytes_peak: self.reserve.peak_live(),
            contended: self.is_contended(),
            divisible: tuned.divisible,
        };
        let tuning = self.unless_it_panics("tune", || strategy.tune(&driven));
        if let Some(tuning) = tuning.flatten() {
            let wait_us = tuning.wait_max.map_or(WAIT_US, |longest| {
                u64::try_from(longest.as_micros()).unwrap_or(u64::MAX)
            });
            tuned.wait_us.store(wait_us, Ordering::Relaxed);
            self.reserve.tune(&tuning, tuned.slack_per_1024);
            if self.cache_limit.keep(tuning.cached_bytes) {
                self.share_out(&self.shards.lock());
            }
        }
    }
}
