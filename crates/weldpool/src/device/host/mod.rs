//! The host as a device.
//!
//! On Linux all segments are ranges of one `memfd`, mapped shared, so that pages can later be mapped
//! at further addresses or shared with another process. Elsewhere each is an anonymous mapping.
//! Either way a segment is page-aligned, its pages are committed when first touched, and a released
//! segment's memory goes back to the system at once.

#[cfg(target_os = "linux")]
pub(crate) mod control_group;
mod queue;
#[cfg(target_os = "linux")]
pub(crate) mod stall;
mod system;
#[cfg(target_os = "linux")]
mod virtual_memory;
pub(crate) mod wait;

use std::ptr::NonNull;

#[cfg(target_os = "linux")]
use super::VirtualMemory;
use super::mapping::{Mapper, Mapping};
use super::{
    Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, ReleaseError, Segment, StorageMode,
};
use crate::error::Result;
use crate::sync::Arc;

/// Address space that one segment may take. Linux gives a process 47 bits of it; the bound keeps
/// arithmetic on sizes far from overflow.
const SEGMENT_BYTES_MAX: usize = if usize::BITS == 64 { 1 << 46 } else { 1 << 30 };

/// The CPU and its memory. All storage modes exist: `Managed` is the same as `Shared`, and for
/// `Private` the allocator refuses host guards, so that a program meant for a discrete GPU shows
/// its mistakes here.
#[derive(Debug)]
pub struct HostDevice {
    properties: DeviceProperties,
    mapper: Arc<Mapper>,
    #[cfg(target_os = "linux")]
    memory: virtual_memory::HostMemory,
}

impl HostDevice {
    /// Opens the host.
    ///
    /// # Errors
    ///
    /// [`System`](crate::ErrorKind::System) when the memory file cannot be made (Linux:
    /// `memfd_create`).
    pub fn new() -> Result<Self> {
        let page_bytes = rustix::param::page_size();
        let mapper = Arc::new(Mapper::new()?);
        Ok(Self {
            properties: DeviceProperties {
                kind: DeviceKind::Host,
                ordinal: 0,
                name: system::processor_name(),
                unified: true,
                page_bytes,
                granularity: page_bytes,
                alignment_min: 1,
                segment_bytes_max: SEGMENT_BYTES_MAX,
                storage_modes: StorageMode::ALL.to_vec(),
                numa_nodes: system::numa_nodes(),
                parallelism: std::thread::available_parallelism().map_or(1, usize::from),
            },
            #[cfg(target_os = "linux")]
            memory: virtual_memory::HostMemory::new(Arc::clone(&mapper)),
            mapper,
        })
    }
}

impl Device for HostDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn budget(&self) -> Result<Budget> {
        system::budget()
    }

    fn create_segment(&self, bytes: usize, _storage: StorageMode) -> Result<Box<dyn Segment>> {
        let mapping = Mapper::map(&self.mapper, bytes)?;
        Ok(Box::new(HostSegment { mapping }))
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        // Dropping unmaps; `munmap` of a whole mapping can only fail on a wrong argument.
        drop(segment);
        Ok(())
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        Ok(Arc::new(queue::HostQueue::start()?))
    }

    #[cfg(target_os = "linux")]
    fn virtual_memory(&self, _storage: StorageMode) -> Option<&dyn VirtualMemory> {
        Some(&self.memory)
    }
}

/// A mapping as a segment.
#[derive(Debug)]
struct HostSegment {
    mapping: Mapping,
}

#[allow(unsafe_code)]
// SAFETY: a `Mapping` is readable and writable over its whole length until it is dropped, its pages
// start out zero, the address never changes, and nothing else hands out references into it.
unsafe impl Segment for HostSegment {
    fn bytes(&self) -> usize {
        self.mapping.bytes()
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        Some(self.mapping.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_page_aligned_and_given_back() {
        let device = HostDevice::new().unwrap();
        let page = device.properties().page_bytes;
        let segment = device
            .create_segment(3 * page, StorageMode::Shared)
            .unwrap();
        assert_eq!(segment.bytes(), 3 * page);
        assert_eq!(segment.host_address().unwrap().as_ptr().addr() % page, 0);
        device.release_segment(segment).unwrap();
        #[cfg(target_os = "linux")]
        assert_eq!(device.mapper.mapped_bytes(), 0);
    }

    #[test]
    fn the_budget_is_that_of_the_system() {
        let budget = HostDevice::new().unwrap().budget().unwrap();
        assert!(budget.total >= 1 << 28, "{budget:?}");
        assert!(budget.ceiling() <= budget.total);
    }
}
