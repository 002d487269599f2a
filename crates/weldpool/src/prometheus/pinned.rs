//! Metrics of pools of pinned memory.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::table::write_named;
use super::{Kind, Metric, Value};
use crate::pinned::PinnedStats;

const PINNED: &[Metric<PinnedStats>] = metrics! { "weldpool_pinned_":
    "allocations", Gauge, "Allocations that are out", |all| all.live.value;
    "peak_allocations", Gauge, "Most allocations that were out", |all| all.live.peak;
    "allocations_total", Counter, "Allocations that were let in", |all| all.live.total;
    "bytes", Gauge, "Bytes that are out", |all| all.live_bytes.value;
    "peak_bytes", Gauge, "Most bytes that were out", |all| all.live_bytes.peak;
    "allocated_bytes_total", Counter, "Bytes ever handed out", |all| all.live_bytes.total;
    "pageable_allocations", Gauge, "Allocations out in pageable memory", |all| all.pageable.value;
    "pageable_allocations_total", Counter, "Allocations ever served by pageable memory", |all| all.pageable.total;
    "pageable_bytes", Gauge, "Bytes out in pageable memory", |all| all.pageable_bytes.value;
    "pageable_bytes_total", Counter, "Bytes ever served by pageable memory", |all| all.pageable_bytes.total;
    "pinned_ratio", Gauge, "Part of all bytes handed out so far that were pinned", |all| all.pinned_share();
    "refused_total", Counter, "Requests that were too large, or one too many", |all| all.refused;
    "waits_total", Counter, "Requests that waited for memory to be pinned", |all| all.waits;
    "wait_seconds_total", Counter, "Seconds that they waited", |all| all.wait_time.as_secs_f64();
    "wait_longest_seconds", Gauge, "Seconds that the longest of them waited", |all| all.wait_longest.as_secs_f64();
    "growths_total", Counter, "Steps in which memory was obtained", |all| all.growths;
    "growth_bytes_total", Counter, "Bytes that they obtained", |all| all.growth_bytes;
    "growth_seconds_total", Counter, "Seconds that they took", |all| all.growth_time.as_secs_f64();
    "growth_longest_seconds", Gauge, "Seconds that the longest of them took",
        |all| all.growth_longest.as_secs_f64();
    "growth_failures_total", Counter, "Steps that failed", |all| all.growth_failures;
    "growing_bytes", Gauge, "Bytes still to be obtained", |all| all.growing_bytes;
};

/// The metrics of pools of pinned memory, `weldpool_pinned_*`, each under the label `pool`. What the allocators below
/// hold is in [`text`](super::text); one text may have both.
#[must_use]
pub fn pinned(pools: &[(&str, &PinnedStats)]) -> String {
    let mut text = String::with_capacity(4 << 10);
    // A string takes everything.
    let _infallible = write_pinned_to(&mut text, pools);
    text
}

/// Writes what [`pinned`] gives.
///
/// # Errors
///
/// What `out` says.
pub fn write_pinned_to(out: &mut impl Write, pools: &[(&str, &PinnedStats)]) -> fmt::Result {
    write_named(out, PINNED, "pool", pools)
}
