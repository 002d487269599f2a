//! What a strategy is told about the workload, and what it may change while an allocator runs.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::size_class::SizeClass;

/// What a strategy is told when it is asked to tune. Counts are since the allocator was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Driven {
    /// Requests past the threads' caches.
    pub requests: u64,
    /// Driver calls that obtain, map or return memory.
    pub driver_calls: u64,
    /// Times that memory was obtained.
    pub growths: u64,
    /// Times that holes were mapped together instead.
    pub remaps: u64,
    /// Bytes that went back to the device.
    pub returned_bytes: u64,
    /// Bytes held from the driver.
    pub reserved_bytes: u64,
    /// Bytes requested and not yet freed.
    pub live_bytes: u64,
    /// The greatest sum of requested bytes when memory was short.
    pub live_bytes_peak: u64,
    /// Whether several queues, or queues and the host, allocate.
    pub contended: bool,
    /// Whether the device's memory can be divided and mapped page by page, as the host's can.
    pub divisible: bool,
}

/// What a strategy changes from now on. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Instead of [`Config::slack_per_1024`](crate::Config::slack_per_1024); none for that.
    pub slack_per_1024: Option<u32>,
    /// Bytes by which memory that can be divided grows, as far as the slack allows, and at least by what is
    /// needed; 0 for a small part of what is held.
    pub growth_bytes: usize,
    /// Ranges of addresses whose memory was mapped elsewhere that may stay mapped, until so many are
    /// unmapped together: neighbours by one call. 0 unmaps each at once.
    pub moved_ranges_max: usize,
    /// Whether holes that lie in few pieces are mapped together first, a call for each piece, rather than
    /// the largest.
    pub few_pieces: bool,
    /// Idle bytes that are kept at least, unless a limit was set; see
    /// [`Config::cached_bytes_max`](crate::Config::cached_bytes_max).
    pub cached_bytes: u64,
    /// How long a request waits for memory that work on other queues still uses, rather than that more is
    /// obtained than the slack allows, as far as
    /// [`Config::driver_ns_per_operation`](crate::Config::driver_ns_per_operation) pays for that. Zero: not at
    /// all; none: two milliseconds, as without a strategy.
    pub wait_max: Option<Duration>,
}

/// What is known of the requests of one size class, and of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demand {
    /// The class as configured.
    pub class: SizeClass,
    /// Requests that threads' caches did not serve, with this one.
    pub requests: u64,
    /// Blocks that came back past the caches.
    pub returned: u64,
    /// Whether the device's memory can be divided and mapped page by page.
    pub divisible: bool,
}

/// How a size class serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Whether the request is an exact range of an arena, as are those beyond the largest class, and goes
    /// back there at once when it is freed.
    pub exact: bool,
    /// Most idle blocks that each thread keeps in each of its caches; at most 128. Counts for the block
    /// that is cut now.
    pub thread_max: u8,
    /// Idle blocks that stay with the class, at least; see [`SizeClass::kept`].
    pub kept: usize,
}

impl Shape {
    /// As configured.
    #[must_use]
    pub const fn of(class: &SizeClass) -> Self {
        Self {
            exact: false,
            thread_max: class.thread_max,
            kept: class.kept,
        }
    }
}
