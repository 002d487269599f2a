//! Address space and physical memory of the host apart: ranges of the memory file, mapped into
//! reserved addresses (mmap(2) with `MAP_FIXED`).

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::nodes::Nodes;
use super::system;
use crate::device::mapping::{FILE_BYTES_MAX, failed};
use crate::device::mappings;
use crate::device::raw::{self, Address};
use crate::device::{AddressRange, Physical, StorageMode, VirtualMemory, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// Addresses reserved in all, as a multiple of the physical memory. They cost nothing; the process has
/// 47 bits of them.
const ADDRESSES_PER_MEMORY: u64 = 16;
/// Bounds of that.
const ADDRESS_BYTES: (u64, u64) = (64 << 30, 4 << 40);

/// The host's virtual memory.
#[derive(Debug)]
pub(super) struct HostMemory {
    nodes: Arc<Nodes>,
    properties: VirtualMemoryProperties,
}

impl HostMemory {
    pub(super) fn new(nodes: Arc<Nodes>) -> Self {
        let total = system::budget().map_or(ADDRESS_BYTES.0, |budget| budget.total);
        let bytes = total
            .saturating_mul(ADDRESSES_PER_MEMORY)
            .clamp(ADDRESS_BYTES.0, ADDRESS_BYTES.1);
        Self {
            nodes,
            properties: VirtualMemoryProperties {
                granularity: rustix::param::page_size(),
                divisible: true,
                needs_access: false,
                mappings_max: mappings::memory_max(),
                address_bytes_max: usize::try_from(bytes).unwrap_or(1 << 30),
                // Measured on one x86-64 virtual machine; only their relation matters.
                create_ns: 2_000,
                remap_ns: 3_000,
            },
        }
    }
}

impl VirtualMemory for HostMemory {
    fn properties(&self) -> VirtualMemoryProperties {
        self.properties
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        let address = raw::reserve(bytes).map_err(|error| failed("mmap", error))?;
        Ok(Box::new(HostAddresses {
            address,
            bytes,
            nodes: Arc::clone(&self.nodes),
        }))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        self.create_on(bytes, storage, self.nodes.current())
    }

    fn create_on(&self, bytes: usize, _storage: StorageMode, node: usize) -> Result<Physical> {
        let offset = self.nodes.mapper(node)?.create(bytes)?;
        Ok(Physical::new(node as u64 * FILE_BYTES + offset as u64))
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        let (node, offset) = node_and_offset(physical);
        self.nodes.mapper(node)?.release(offset, bytes)
    }
}

/// Numbers of physical memory are offsets in the nodes' memory files, as if one followed the other.
const FILE_BYTES: u64 = FILE_BYTES_MAX as u64;

/// The node that physical memory is of, and its offset in the node's memory file.
fn node_and_offset(physical: Physical) -> (usize, usize) {
    let narrow = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let number = physical.number();
    (narrow(number / FILE_BYTES), narrow(number % FILE_BYTES))
}

/// Reserved addresses.
#[derive(Debug)]
struct HostAddresses {
    address: Address,
    bytes: usize,
    nodes: Arc<Nodes>,
}

impl HostAddresses {
    /// The part of the reservation from `at`, if it lies inside.
    fn part(&self, at: usize, bytes: usize) -> Result<NonNull<u8>> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "a mapping outside the reserved addresses",
            ));
        }
        // SAFETY: `at` lies inside the reservation or at its end.
        Ok(unsafe { self.address.0.add(at) })
    }
}

// SAFETY: the reservation is a mapping of this value's alone until it is dropped; what is mapped into it
// is readable, writable and zero at first.
unsafe impl AddressRange for HostAddresses {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        Some(self.address.0)
    }

    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()> {
        let address = self.part(at, bytes)?;
        let (node, offset) = node_and_offset(physical);
        let file = self.nodes.mapper(node)?.file();
        // SAFETY: the part lies in our reservation, and the caller promises that nothing uses it.
        unsafe { raw::map_file_at(address, file, offset as u64, bytes) }
            .map_err(|error| failed("mmap", error))?;
        // SAFETY: these are the addresses just mapped.
        let bind = |mode, mask: &[u64]| unsafe { raw::bind(address, bytes, mode, mask) };
        self.nodes.bind(node, bind);
        Ok(())
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        let address = self.part(at, bytes)?;
        // SAFETY: as for `map`.
        unsafe { raw::reserve_at(address, bytes) }.map_err(|error| failed("mmap", error))
    }
}

impl Drop for HostAddresses {
    fn drop(&mut self) {
        // SAFETY: this is the end of the reservation's only owner, and nothing uses the addresses then.
        let unmapped = unsafe { raw::unmap(&self.address, self.bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.bytes, "munmap failed");
        }
    }
}
