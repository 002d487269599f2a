//! The statistics that are always on.

use std::fmt;
use std::time::Duration;

pub use crate::counter::Counter;
use crate::gc::GcStats;
use crate::out_of_memory::OutOfMemoryStats;
use crate::pressure::Level;
use crate::text;

/// Statistics of one size class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClassStats {
    /// Size of its blocks in bytes.
    pub bytes: usize,
    /// Requests of the class that were served.
    pub allocations: u64,
    /// Requests of the class served from memory already held from the driver.
    pub hits: u64,
    /// Requests of the class that needed memory from the driver.
    pub misses: u64,
    /// Buffers of the class given back.
    pub frees: u64,
    /// Bytes requested by users and not yet freed.
    pub live_bytes: u64,
    /// Greatest sum of those that was seen: whenever a request or a free goes past the threads' caches, and
    /// when statistics are read. What the caches serve in between it may be too low by.
    pub live_bytes_peak: u64,
    /// Bytes of the blocks cut for the class, in use or idle.
    pub held_bytes: u64,
    /// Greatest sum of those.
    pub held_bytes_peak: u64,
}

impl ClassStats {
    /// hits / (hits + misses); 1 before the first request.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        ratio(self.hits, self.hits + self.misses)
    }

    /// 0 to 100: 100 x hit rate x (peak requested bytes / peak bytes held for the class).
    #[must_use]
    pub fn efficiency(&self) -> f64 {
        let used = ratio(self.live_bytes_peak, self.held_bytes_peak).min(1.0);
        100.0 * self.hit_rate() * used
    }

    /// Buffers of the class that users hold.
    #[must_use]
    pub fn live_buffers(&self) -> u64 {
        self.allocations.saturating_sub(self.frees)
    }

    /// Bytes of the blocks that users hold beyond what they requested.
    #[must_use]
    pub fn internal_waste(&self) -> u64 {
        self.block_bytes().saturating_sub(self.live_bytes)
    }

    /// Bytes of the blocks cut for the class that no user holds.
    #[must_use]
    pub fn external_waste(&self) -> u64 {
        self.held_bytes.saturating_sub(self.block_bytes())
    }

    fn block_bytes(&self) -> u64 {
        self.live_buffers().saturating_mul(self.bytes as u64)
    }
}

/// Statistics of one node's memory (NUMA). Requests that threads' caches serve look at no node and are not
/// counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NodeStats {
    /// The system's number of the node.
    pub number: u32,
    /// Bytes held of its memory.
    pub reserved: Counter,
    /// Bytes of its memory in blocks, handed out or in caches.
    pub block_bytes: u64,
    /// Bytes of its memory that are free in arenas.
    pub free_bytes: u64,
    /// Requests of threads on the node that its own memory served.
    pub local_allocations: u64,
    /// Requests of threads on the node that another node's memory served, because its own was out.
    pub remote_allocations: u64,
    /// Blocks of its memory that caches of threads on other nodes gave up.
    pub returned_blocks: u64,
}

impl NodeStats {
    /// local / (local + remote); 1 before the first request.
    #[must_use]
    pub fn locality(&self) -> f64 {
        ratio(
            self.local_allocations,
            self.local_allocations + self.remote_allocations,
        )
    }
}

/// Statistics of an allocator: exact when no call is under way. To read them takes O(threads * classes), and
/// O(n) for freed memory in n places that waits for work; no driver call obtains, maps or returns memory for it.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes requested by users and not yet freed. The peak is exact for one thread without queues, and
    /// never above the peak of what was held; otherwise it may be too high by a 64th, at least 64 KiB and at most
    /// 1 MiB, for each further thread, and each queue that it uses. The total counts blocks, rounding
    /// included.
    pub live: Counter,
    /// Bytes held from the driver, metered in the device layer.
    pub reserved: Counter,
    /// Bytes held from the driver besides, for [copies](crate::transfer::Copier) of memory that the device does not
    /// know. No limit counts them; what is idle goes back with [`Allocator::clear`](crate::Allocator::clear), and in
    /// answer to critical pressure.
    pub staging: Counter,
    /// Bytes of others' memory that the device was made to know; in no other figure.
    pub registered: Counter,
    /// Bytes of empty segments that the system may take when memory is short (Metal: volatile heaps), and that are taken
    /// back before more is obtained. The limit on what is reserved counts them, and no other figure.
    pub parked: Counter,
    /// The limit on what is reserved, if one is set.
    pub limit: Option<u64>,
    /// Bytes of the blocks that users hold, rounding included.
    pub block_bytes: u64,
    /// Bytes held from the driver and idle.
    pub cached_bytes: u64,
    /// Bytes of freed blocks that wait for a fence which has not passed.
    pub deferred_bytes: u64,
    /// Successful allocations.
    pub allocations: u64,
    /// Buffers given back.
    pub frees: u64,
    /// Allocations served from memory already held from the driver.
    pub hits: u64,
    /// Allocations that needed memory from the driver.
    pub misses: u64,
    /// Times that memory was obtained from the driver.
    pub growths: u64,
    /// Times that holes were mapped together instead.
    pub remaps: u64,
    /// Allocations that failed.
    pub failures: u64,
    /// Those of them that failed because there was no memory, or because of a limit.
    pub memory_failures: u64,
    /// Time since the last of those.
    pub memory_failure_age: Option<Duration>,
    /// Driver calls that obtain, return, register or unregister memory.
    pub driver_calls: u64,
    /// Driver calls that failed. That there are not as many addresses as were asked for first is none.
    pub driver_failures: u64,
    /// Nanoseconds spent in driver calls, those included that a simulated device charged.
    pub driver_ns: u64,
    /// Nanoseconds that a simulated device charged for driver calls; zero for real devices.
    pub driver_charged_ns: u64,
    /// Segments held now, or pieces of physical memory where there is virtual memory.
    pub segments: usize,
    /// Bytes free in arenas.
    pub free_bytes: u64,
    /// Largest free range of any arena in bytes.
    pub largest_free: usize,
    /// The size classes, smallest first.
    pub classes: Vec<ClassStats>,
    /// The nodes that memory is kept apart by (NUMA); none where it is all alike.
    pub nodes: Vec<NodeStats>,
    /// Times that memory was out, and what helped.
    pub out_of_memory: OutOfMemoryStats,
    /// Time since memory was out last.
    pub out_of_memory_age: Option<Duration>,
    /// Memory pressure from 0 to 1: the greatest of reserved / limit and what the monitor last read.
    pub pressure: f64,
    /// The level at the monitor's last assessment.
    pub pressure_level: Level,
    /// Changes of that level.
    pub pressure_events: u64,
    /// Bytes that went back to the device in answer to pressure.
    pub pressure_returned_bytes: u64,
    /// What the collecting thread did.
    pub gc: GcStats,
}

impl Stats {
    /// hits / (hits + misses); 1 before the first allocation.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        ratio(self.hits, self.hits + self.misses)
    }

    /// live / reserved, so rounding counts as waste; 1 when nothing is reserved.
    #[must_use]
    pub fn utilisation(&self) -> f64 {
        ratio(self.live.value, self.reserved.value)
    }

    /// 1 - requested / block bytes handed out.
    #[must_use]
    pub fn internal_fragmentation(&self) -> f64 {
        1.0 - ratio(self.live.value, self.block_bytes)
    }

    /// Bytes of blocks beyond what was requested.
    #[must_use]
    pub fn internal_waste(&self) -> u64 {
        self.block_bytes.saturating_sub(self.live.value)
    }

    /// Bytes held from the driver that are in no user's block: idle, free in holes, or waiting for a
    /// fence.
    #[must_use]
    pub fn external_waste(&self) -> u64 {
        self.reserved.value.saturating_sub(self.block_bytes)
    }

    /// 1 - largest free range / all free bytes; 0 when nothing is free.
    #[must_use]
    pub fn external_fragmentation(&self) -> f64 {
        if self.free_bytes == 0 {
            return 0.0;
        }
        1.0 - ratio(self.largest_free as u64, self.free_bytes)
    }

    /// 1 - driver calls for segments / allocations; negative when pooling costs more than it saves.
    #[must_use]
    pub fn allocation_reduction(&self) -> f64 {
        if self.allocations == 0 {
            return 0.0;
        }
        1.0 - self.growths as f64 / self.allocations as f64
    }
}

impl Stats {
    /// What is held or known besides what is reserved, as far as there ever was any: what it is, and how much.
    pub(crate) fn besides(&self) -> impl Iterator<Item = (&'static str, String)> {
        let kinds = [
            ("staging", self.staging),
            ("registered", self.registered),
            ("parked", self.parked),
        ];
        kinds
            .into_iter()
            .filter(|(_, bytes)| bytes.peak > 0)
            .map(|(name, bytes)| {
                let (now, most) = (text::bytes(bytes.value), text::bytes(bytes.peak));
                (name, format!("{now} (peak {most})"))
            })
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

impl fmt::Display for Stats {
    /// One line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "live {} (peak {}), reserved {} (peak {}), cached {}, deferred {}, utilisation {:.1} %, \
             hits {:.2} % of {}, driver calls {}, pressure {:.2} {} ({} changes, {} returned), \
             {} collections ({} returned)",
            self.live.value,
            self.live.peak,
            self.reserved.value,
            self.reserved.peak,
            self.cached_bytes,
            self.deferred_bytes,
            100.0 * self.utilisation(),
            100.0 * self.hit_rate(),
            self.allocations,
            self.driver_calls,
            self.pressure,
            self.pressure_level,
            self.pressure_events,
            self.pressure_returned_bytes,
            self.gc.collections,
            self.gc.given_back_bytes,
        )?;
        for (name, bytes) in [
            ("staging", &self.staging),
            ("registered", &self.registered),
            ("parked", &self.parked),
        ] {
            if bytes.peak > 0 {
                write!(f, ", {name} {} (peak {})", bytes.value, bytes.peak)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_have_their_defined_values() {
        let stats = Stats {
            live: Counter {
                value: 750,
                peak: 750,
                total: 750,
            },
            reserved: Counter {
                value: 1000,
                peak: 1000,
                total: 1000,
            },
            block_bytes: 1000,
            hits: 905,
            misses: 95,
            growths: 95,
            allocations: 1000,
            free_bytes: 100,
            largest_free: 25,
            ..Stats::default()
        };
        assert!((stats.hit_rate() - 0.905).abs() < 1e-12);
        assert!((stats.allocation_reduction() - 0.905).abs() < 1e-12);
        assert!((stats.utilisation() - 0.75).abs() < 1e-12);
        assert!((stats.internal_fragmentation() - 0.25).abs() < 1e-12);
        assert!((stats.external_fragmentation() - 0.75).abs() < 1e-12);
        assert_eq!((stats.internal_waste(), stats.external_waste()), (250, 0));
        assert!((Stats::default().utilisation() - 1.0).abs() < 1e-12);
        assert!(Stats::default().external_fragmentation().abs() < 1e-12);
    }
}
