//! Statistics as a structure.

#![allow(unsafe_code)]

use memory::Stats;

use crate::abi::guard::fallible;
use crate::abi::sized::{Filled, Structure};
use crate::allocator::{self, AllocatorHandle};
use crate::failure::ErrorObject;
use crate::pressure;

/// Statistics of an allocator. Sizes are in bytes, counts since it was created.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StatsOf {
    /// sizeof(weldpool_stats_t), set by the caller.
    pub struct_size: usize,
    /// Requested and not yet freed,
    pub live_bytes: u64,
    /// most of it at once,
    pub live_bytes_peak: u64,
    /// and the sum of all, rounding included.
    pub live_bytes_total: u64,
    /// Held from the driver,
    pub reserved_bytes: u64,
    /// most of it at once,
    pub reserved_bytes_peak: u64,
    /// and the sum of all that was obtained.
    pub reserved_bytes_total: u64,
    /// Held besides, for copies.
    pub staging_bytes: u64,
    /// Others' memory that the device was made to know.
    pub registered_bytes: u64,
    /// Empty segments that the system may take (Metal).
    pub parked_bytes: u64,
    /// The limit on what is reserved; 0 for none.
    pub limit_bytes: u64,
    /// Blocks that users hold, rounding included.
    pub block_bytes: u64,
    /// Held from the driver and idle.
    pub cached_bytes: u64,
    /// Freed, and waiting for work.
    pub deferred_bytes: u64,
    /// Free in arenas.
    pub free_bytes: u64,
    /// Largest free range.
    pub largest_free_bytes: u64,
    /// Successful allocations.
    pub allocations: u64,
    /// Memory given back.
    pub frees: u64,
    /// Allocations that memory held already served.
    pub hits: u64,
    /// Allocations that needed memory from the driver.
    pub misses: u64,
    /// Times that memory was obtained.
    pub growths: u64,
    /// Times that holes were mapped together instead.
    pub remaps: u64,
    /// Allocations that failed.
    pub failures: u64,
    /// Those of them for want of memory, or because of a limit.
    pub memory_failures: u64,
    /// Driver calls that obtain, return, register or unregister memory.
    pub driver_calls: u64,
    /// Those that failed.
    pub driver_failures: u64,
    /// Nanoseconds in them.
    pub driver_ns: u64,
    /// Segments held.
    pub segments: u64,
    /// Requests for which neither the device nor the limit allowed more memory.
    pub out_of_memory_events: u64,
    /// Those that failed after all.
    pub out_of_memory_failures: u64,
    /// Changes of the level of pressure.
    pub pressure_events: u64,
    /// Given back in answer to pressure.
    pub pressure_returned_bytes: u64,
    /// Collections that gave something back.
    pub collections: u64,
    /// What they gave back.
    pub collected_bytes: u64,
    /// Pressure from 0 to 1.
    pub pressure: f64,
    /// hits / (hits + misses); 1 before the first allocation.
    pub hit_rate: f64,
    /// live / reserved; 1 when nothing is reserved.
    pub utilisation: f64,
    /// One of WELDPOOL_PRESSURE_*.
    pub pressure_level: u32,
    /// Zero.
    pub unused: u32,
}

// SAFETY: repr(C) of words and numbers, begun by its size.
unsafe impl Structure for StatsOf {
    const NAME: &'static str = "weldpool_stats_t";
}

impl From<&Stats> for StatsOf {
    fn from(stats: &Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            live_bytes: stats.live.value,
            live_bytes_peak: stats.live.peak,
            live_bytes_total: stats.live.total,
            reserved_bytes: stats.reserved.value,
            reserved_bytes_peak: stats.reserved.peak,
            reserved_bytes_total: stats.reserved.total,
            staging_bytes: stats.staging.value,
            registered_bytes: stats.registered.value,
            parked_bytes: stats.parked.value,
            limit_bytes: stats.limit.unwrap_or(0),
            block_bytes: stats.block_bytes,
            cached_bytes: stats.cached_bytes,
            deferred_bytes: stats.deferred_bytes,
            free_bytes: stats.free_bytes,
            largest_free_bytes: stats.largest_free as u64,
            allocations: stats.allocations,
            frees: stats.frees,
            hits: stats.hits,
            misses: stats.misses,
            growths: stats.growths,
            remaps: stats.remaps,
            failures: stats.failures,
            memory_failures: stats.memory_failures,
            driver_calls: stats.driver_calls,
            driver_failures: stats.driver_failures,
            driver_ns: stats.driver_ns,
            segments: stats.segments as u64,
            out_of_memory_events: stats.out_of_memory.events,
            out_of_memory_failures: stats.out_of_memory.failed,
            pressure_events: stats.pressure_events,
            pressure_returned_bytes: stats.pressure_returned_bytes,
            collections: stats.gc.collections,
            collected_bytes: stats.gc.given_back_bytes,
            pressure: stats.pressure,
            hit_rate: stats.hit_rate(),
            utilisation: stats.utilisation(),
            pressure_level: pressure::number(stats.pressure_level),
            unused: 0,
        }
    }
}

/// Fills in statistics, in some 20 us; exact when no call is under way.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_stats(
    allocator: Option<&AllocatorHandle>,
    stats: *mut StatsOf,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let filled = Filled::new(stats, "stats")?;
        let stats = allocator::of(allocator)?.stats();
        filled.put(&StatsOf::from(&stats));
        Ok(())
    })
}
