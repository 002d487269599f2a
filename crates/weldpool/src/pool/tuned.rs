//! What a strategy changed about the pool while it runs.

#![forbid(unsafe_code)]

use super::Pool;
use crate::size_class::SizeClass;
use crate::strategy::{Driven, Strategy};
use crate::sync::{AtomicU64, AtomicUsize, Ordering};

/// Requests without a driver call between two questions.
const QUIET_REQUESTS: u64 = 1024;

/// The present tuning, and what was counted by when it was last asked for.
#[derive(Debug)]
pub(super) struct Tuned {
    cached_block_bytes_max: AtomicUsize,
    requests: AtomicU64,
    driver_calls: AtomicU64,
}

impl Default for Tuned {
    fn default() -> Self {
        Self {
            cached_block_bytes_max: AtomicUsize::new(usize::MAX),
            requests: AtomicU64::new(0),
            driver_calls: AtomicU64::new(0),
        }
    }
}

impl Tuned {
    /// Blocks of a class that each thread keeps.
    pub(super) fn thread_max(&self, class: &SizeClass) -> u8 {
        self.limit(class.bytes, class.thread_max)
    }

    /// What is left of the blocks of a length that a thread may keep.
    pub(super) fn limit(&self, bytes: usize, thread_max: u8) -> u8 {
        let cached = bytes <= self.cached_block_bytes_max.load(Ordering::Relaxed);
        if cached { thread_max } else { 0 }
    }
}

impl Pool {
    /// Asks the strategy, if it is time to, after a request past the threads' caches.
    pub(super) fn tune(&self, strategy: &dyn Strategy) {
        let tuned = &self.tuned;
        let requests = tuned.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (driver_calls, ..) = self.device.calls();
        let before = tuned.driver_calls.swap(driver_calls, Ordering::Relaxed);
        if before == driver_calls && !requests.is_multiple_of(QUIET_REQUESTS) {
            return;
        }
        let tuning = strategy.tune(&Driven {
            requests,
            driver_calls,
            reserved_bytes: self.reserved_bytes(),
            contended: self.is_contended(),
        });
        if let Some(tuning) = tuning {
            let most = tuning.cached_block_bytes_max.unwrap_or(usize::MAX);
            tuned.cached_block_bytes_max.store(most, Ordering::Relaxed);
        }
    }
}
