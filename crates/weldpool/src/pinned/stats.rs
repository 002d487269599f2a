//! Statistics of a pool of pinned memory.

use std::fmt;
use std::time::Duration;

use crate::counter::Counter;

/// What a [`PinnedPool`](super::PinnedPool) did so far. Sizes in bytes, as requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PinnedStats {
    /// Allocations that are out; the total is of all that were let in, also if they failed then.
    pub live: Counter,
    /// Their bytes.
    pub live_bytes: Counter,
    /// Those of them in pageable memory, because none was pinned in time.
    pub pageable: Counter,
    /// Their bytes.
    pub pageable_bytes: Counter,
    /// Requests refused because too many were out, or because they were too large.
    pub refused: u64,
    /// Requests that waited for memory to be pinned.
    pub waits: u64,
    /// How long they waited in all.
    pub wait_time: Duration,
    /// How long the longest of them waited.
    pub wait_longest: Duration,
    /// Steps in which memory was obtained.
    pub growths: u64,
    /// What they obtained.
    pub growth_bytes: u64,
    /// How long they took in all.
    pub growth_time: Duration,
    /// How long the longest took.
    pub growth_longest: Duration,
    /// Steps that failed.
    pub growth_failures: u64,
    /// What is still to be obtained for those who wait, or have pageable memory.
    pub growing_bytes: u64,
}

impl PinnedStats {
    /// Allocations out in pinned memory.
    #[must_use]
    pub fn pinned(&self) -> u64 {
        self.live.value.saturating_sub(self.pageable.value)
    }

    /// Bytes out in pinned memory.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.live_bytes
            .value
            .saturating_sub(self.pageable_bytes.value)
    }

    /// Part of all bytes handed out so far that were pinned; 1 before the first.
    #[must_use]
    pub fn pinned_share(&self) -> f64 {
        match self.live_bytes.total {
            0 => 1.0,
            total => 1.0 - self.pageable_bytes.total as f64 / total as f64,
        }
    }
}

impl fmt::Display for PinnedStats {
    /// One line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{} out (peak {}) with {} bytes (peak {}), pageable {} of {} so far ({} bytes), refused {}, \
             waits {} ({:.3} ms, longest {:.3} ms), grown {} bytes in {} steps ({:.3} ms, longest {:.3} ms, \
             {} failed), {} bytes to come",
            self.live.value,
            self.live.peak,
            self.live_bytes.value,
            self.live_bytes.peak,
            self.pageable.total,
            self.live.total,
            self.pageable_bytes.total,
            self.refused,
            self.waits,
            ms(self.wait_time),
            ms(self.wait_longest),
            self.growth_bytes,
            self.growths,
            ms(self.growth_time),
            ms(self.growth_longest),
            self.growth_failures,
            self.growing_bytes,
        )
    }
}

/// Waits that are over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waits {
    pub(super) count: u64,
    pub(super) time: Duration,
    pub(super) longest: Duration,
}

impl Waits {
    pub(super) fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.saturating_add(time);
        self.longest = self.longest.max(time);
    }
}

/// Steps in which memory was obtained.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Growths {
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) time: Duration,
    pub(super) longest: Duration,
    pub(super) failures: u64,
}

impl Growths {
    pub(super) fn add(&mut self, bytes: usize, time: Duration) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.time = self.time.saturating_add(time);
        self.longest = self.longest.max(time);
    }
}
