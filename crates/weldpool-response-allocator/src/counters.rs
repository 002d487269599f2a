//! What an allocator did.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What an allocator did since it was made, exact when no call is under way. `allocations` equals the sum of
/// `releases`, `reclaimed` and `live_buffers` then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Responses that were begun; several for a request to a decoupled model.
    pub responses: u64,
    /// Questions of backends about the memory that an output would get.
    pub queries: u64,
    /// Buffers that were handed out.
    pub allocations: u64,
    /// Outputs of no bytes, which have no buffer and no release.
    pub empty: u64,
    /// Buffers that did not come from the source that was asked first.
    pub fallbacks: u64,
    /// Outputs for which no source had memory.
    pub failures: u64,
    /// Buffers that Triton gave back.
    pub releases: u64,
    /// Buffers freed at once, since Triton took no notice of them: it refused their attributes.
    pub reclaimed: u64,
    /// Buffers that are out.
    pub live_buffers: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// The most of them at once.
    pub live_bytes_peak: u64,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} buffers for {} responses ({} fallbacks, {} empty, {} failed), {} released, {} reclaimed; \
             live: {} of {} bytes, at most {} bytes",
            self.allocations,
            self.responses,
            self.fallbacks,
            self.empty,
            self.failures,
            self.releases,
            self.reclaimed,
            self.live_buffers,
            self.live_bytes,
            self.live_bytes_peak
        )
    }
}

/// The same while it changes. Each counter stands for itself, so no order between them is needed.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) responses: AtomicU64,
    pub(crate) queries: AtomicU64,
    pub(crate) allocations: AtomicU64,
    pub(crate) empty: AtomicU64,
    pub(crate) fallbacks: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) releases: AtomicU64,
    pub(crate) reclaimed: AtomicU64,
    live_buffers: AtomicU64,
    live_bytes: AtomicU64,
    live_bytes_peak: AtomicU64,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    pub(crate) fn begin(&self, bytes: usize) {
        count(&self.allocations);
        count(&self.live_buffers);
        let before = self.live_bytes.fetch_add(bytes as u64, Relaxed);
        self.live_bytes_peak
            .fetch_max(before + bytes as u64, Relaxed);
    }

    pub(crate) fn end(&self, bytes: usize) {
        self.live_buffers.fetch_sub(1, Relaxed);
        self.live_bytes.fetch_sub(bytes as u64, Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            responses: read(&self.responses),
            queries: read(&self.queries),
            allocations: read(&self.allocations),
            empty: read(&self.empty),
            fallbacks: read(&self.fallbacks),
            failures: read(&self.failures),
            releases: read(&self.releases),
            reclaimed: read(&self.reclaimed),
            live_buffers: read(&self.live_buffers),
            live_bytes: read(&self.live_bytes),
            live_bytes_peak: read(&self.live_bytes_peak),
        }
    }
}
