//! Configuration of a pool of pinned memory.

use std::time::Duration;

use crate::allocator::Allocator;
use crate::device::Device;
use crate::device::host::HostDevice;
use crate::error::{Error, ErrorKind, Result};

/// Configuration of a [`PinnedPool`](super::PinnedPool), checked when the pool is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedConfig {
    /// Most allocations that may be out at once, pageable ones included, from 1 to 2^20. Default: 64.
    pub allocations_max: usize,
    /// Largest allocation in bytes. Default: 2^28, which is 256 MiB.
    pub allocation_bytes_max: usize,
    /// Bytes that are obtained in one step where memory can be mapped together, from 1 to 2^30, rounded up to what
    /// the device gives; elsewhere a step is at least the request. Default: 8 MiB. To lock pages costs up to
    /// 0.4 ms per MiB, so whoever comes in the middle of a step and needs one more has both within 10 ms.
    pub growth_bytes: usize,
    /// Longest wait for memory to be pinned, up to a minute. Default: 10 ms.
    pub wait_max: Duration,
    /// Idle bytes that are kept ready ahead of requests: whenever fewer are free, more are obtained in the
    /// background. What lies in caches of threads does not count, and what is beyond
    /// [`Config::cached_bytes_max`](crate::Config::cached_bytes_max) goes back with the next free. Default: 0, because
    /// a program that has reached its steady state holds what it needs. At most the allocator's
    /// [`reserved_bytes_max`](crate::Config::reserved_bytes_max), and what memory there is in all.
    pub reserve_bytes: u64,
    /// Whether pageable memory is given out when none was pinned in time. Queues of a device reach such memory
    /// where [copies from foreign memory](crate::Queue::copy) are possible (host, CUDA), and not where every
    /// operand is an object of the driver's (Metal); there switch it off. Default: on.
    pub pageable_fallback: bool,
}

impl Default for PinnedConfig {
    fn default() -> Self {
        Self {
            allocations_max: 64,
            allocation_bytes_max: 1 << 28,
            growth_bytes: 8 << 20,
            wait_max: Duration::from_millis(10),
            reserve_bytes: 0,
            pageable_fallback: true,
        }
    }
}

impl PinnedConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let range = |field, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                return Ok(());
            }
            let message = format!("PinnedConfig::{field} is {value}; it must be from 1 to {most}");
            Err(Error::with_message(ErrorKind::InvalidConfig, message))
        };
        range("allocations_max", self.allocations_max, 1 << 20)?;
        range(
            "allocation_bytes_max",
            self.allocation_bytes_max,
            isize::MAX as usize,
        )?;
        range("growth_bytes", self.growth_bytes, 1 << 30)?;
        if self.wait_max > Duration::from_secs(60) {
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!(
                    "PinnedConfig::wait_max is {:?}; it must be at most a minute",
                    self.wait_max
                ),
            ));
        }
        Ok(())
    }

    /// Refuses to keep more ready than can be held.
    pub(super) fn validate_reserve(&self, allocator: &Allocator) -> Result<()> {
        if self.reserve_bytes == 0 {
            return Ok(());
        }
        let device = allocator.device();
        let budget = match device.properties().unified {
            true => device.budget()?,
            // Pinned memory is the host's.
            false => HostDevice::new()?.budget()?,
        };
        let limit = allocator.pool().reserved_bytes_max();
        for (most, whose) in [
            (limit, "the allocator's reserved_bytes_max"),
            (budget.limit, "the limit of the process's memory"),
            (Some(budget.total), "the memory there is"),
        ] {
            if let Some(most) = most.filter(|&most| self.reserve_bytes > most) {
                return Err(Error::with_message(
                    ErrorKind::InvalidConfig,
                    format!(
                        "PinnedConfig::reserve_bytes is {}; it must be at most {most}, {whose}",
                        self.reserve_bytes
                    ),
                ));
            }
        }
        Ok(())
    }
}
