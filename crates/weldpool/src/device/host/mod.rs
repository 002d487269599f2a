//! The host as a device.
//!
//! On Linux all segments are ranges of one `memfd`, mapped shared, so that pages can later be mapped
//! at further addresses or shared with another process. Elsewhere each is an anonymous mapping.
//! Either way a segment is page-aligned, its pages are committed when first touched, and a released
//! segment's memory goes back to the system at once.

#[cfg(target_os = "linux")]
pub(crate) mod control_group;
#[cfg(target_os = "macos")]
pub(crate) mod darwin;
#[cfg(any(target_os = "macos", test))]
pub(crate) mod dispatch;
#[cfg(target_os = "linux")]
mod exposed;
#[cfg(target_os = "linux")]
mod nodes;
#[cfg(target_os = "linux")]
mod numa;
mod queue;
#[cfg(target_os = "linux")]
pub(crate) mod stall;
pub(in crate::device) mod system;
#[cfg(target_os = "linux")]
mod virtual_memory;
pub(crate) mod wait;

use std::ptr::NonNull;

#[cfg(target_os = "linux")]
use self::nodes::Nodes;
#[cfg(target_os = "linux")]
use self::numa::Numa;
#[cfg(target_os = "linux")]
pub use self::numa::NumaPolicy;
use super::mapping::{Mapper, Mapping};
use super::{
    Addressing, Budget, Device, DeviceKind, DeviceProperties, DeviceQueue, HostRange, Registration,
    ReleaseError, Segment, StorageMode,
};
#[cfg(target_os = "linux")]
use super::{Exposure, Imported, Topology, VirtualMemory};
use crate::error::Result;
#[cfg(target_os = "linux")]
use crate::error::{Error, ErrorKind};
#[cfg(target_os = "linux")]
use crate::export::{Export, Exported};
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
    #[cfg(target_os = "linux")]
    nodes: Arc<Nodes>,
    #[cfg(not(target_os = "linux"))]
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
        #[cfg(target_os = "linux")]
        return Self::with(Numa::default());
        #[cfg(not(target_os = "linux"))]
        Self::with()
    }

    /// Opens the host with a say on which nodes its memory lies. Pages go there when they are first
    /// touched; memory that is reused stays where it is.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a node that
    /// there is not, or that has no memory.
    #[cfg(target_os = "linux")]
    pub fn with_numa(policy: NumaPolicy) -> Result<Self> {
        Self::with_topology(policy, Topology::of_this_machine())
    }

    /// As [`with_numa`](Self::with_numa), on a topology that may be
    /// [made up](Topology::fake): then memory is kept apart by its nodes, each of which has no more than
    /// its [`memory_bytes`](super::NumaNode::memory_bytes), and lies where the system puts it.
    ///
    /// # Errors
    ///
    /// As for [`with_numa`](Self::with_numa).
    #[cfg(target_os = "linux")]
    pub fn with_topology(policy: NumaPolicy, topology: Topology) -> Result<Self> {
        Self::with(Numa::new(policy, topology)?)
    }

    fn with(#[cfg(target_os = "linux")] numa: Numa) -> Result<Self> {
        #[cfg(target_os = "linux")]
        let nodes = Arc::new(Nodes::new(numa)?);
        let page_bytes = rustix::param::page_size();
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
                peers: Vec::new(),
                addressing: Addressing::Own,
                managed_copies: false,
                chip: None,
            },
            #[cfg(target_os = "linux")]
            memory: virtual_memory::HostMemory::new(Arc::clone(&nodes)),
            #[cfg(target_os = "linux")]
            nodes,
            #[cfg(not(target_os = "linux"))]
            mapper: Arc::new(Mapper::new()?),
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

    #[cfg(not(target_os = "linux"))]
    fn create_segment(&self, bytes: usize, _storage: StorageMode) -> Result<Box<dyn Segment>> {
        let mapping = Mapper::map(&self.mapper, bytes)?;
        Ok(Box::new(HostSegment { mapping }))
    }

    #[cfg(target_os = "linux")]
    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.create_segment_on(bytes, storage, self.nodes.current())
    }

    #[cfg(target_os = "linux")]
    fn create_segment_on(
        &self,
        bytes: usize,
        _storage: StorageMode,
        node: usize,
    ) -> Result<Box<dyn Segment>> {
        let mapping = Mapper::map(self.nodes.mapper(node)?, bytes)?;
        let bind = |mode, mask: &[u64]| mapping.bind(mode, mask);
        self.nodes.bind(node, bind);
        Ok(Box::new(HostSegment { mapping }))
    }

    #[cfg(target_os = "linux")]
    fn offers(&self, exposure: Exposure, _storage: StorageMode) -> bool {
        exposure.export == Some(Export::FileDescriptor) && !exposure.peers
    }

    #[cfg(target_os = "linux")]
    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        if !self.offers(exposure, storage) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "memory of the host is exported by file descriptor",
            ));
        }
        Ok(Box::new(exposed::create(&self.nodes, bytes, node)?))
    }

    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        Ok(Imported {
            segment: Box::new(exposed::import(exported)?),
            storage: StorageMode::Shared,
        })
    }

    #[cfg(target_os = "linux")]
    fn topology(&self, _storage: StorageMode) -> Option<&Topology> {
        self.nodes.divided()
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        // Dropping unmaps; `munmap` of a whole mapping can only fail on a wrong argument.
        drop(segment);
        Ok(())
    }

    // The processor reaches all memory of the process.
    #[allow(unsafe_code)]
    unsafe fn register(&self, _memory: HostRange) -> Result<Box<dyn Registration>> {
        Ok(Box::new(HostRegistration))
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        Ok(Arc::new(queue::HostQueue::start()?))
    }

    #[cfg(target_os = "linux")]
    fn virtual_memory(&self, _storage: StorageMode) -> Option<&dyn VirtualMemory> {
        Some(&self.memory)
    }
}

/// Memory of this process, which needs nothing to be reached.
#[derive(Debug)]
struct HostRegistration;

#[allow(unsafe_code)]
// SAFETY: it gives no address.
unsafe impl Registration for HostRegistration {}

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
        assert_eq!(device.nodes.mapper(0).unwrap().mapped_bytes(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn every_policy_serves_this_machine() {
        let first = Topology::of_this_machine().nodes()[0].number;
        for policy in [
            NumaPolicy::System,
            NumaPolicy::Local,
            NumaPolicy::Node(first),
            NumaPolicy::Interleave,
        ] {
            let device = Arc::new(HostDevice::with_numa(policy).unwrap());
            let allocator = crate::Allocator::builder(device).build().unwrap();
            let mut buffer = allocator.allocate(100_000).unwrap();
            buffer.write::<u8>().unwrap().fill(1);
        }
        HostDevice::with_numa(NumaPolicy::Node(1023)).unwrap_err();
    }

    #[test]
    fn the_budget_is_that_of_the_system() {
        let budget = HostDevice::new().unwrap().budget().unwrap();
        assert!(budget.total >= 1 << 28, "{budget:?}");
        assert!(budget.ceiling() <= budget.total);
    }
}
