//! Address space and physical memory of the host apart: ranges of the memory file, mapped into
//! reserved addresses (mmap(2) with `MAP_FIXED`).

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::numa::Numa;
use super::system;
use crate::device::mapping::{Mapper, failed};
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
    mapper: Arc<Mapper>,
    numa: Arc<Numa>,
    properties: VirtualMemoryProperties,
}

impl HostMemory {
    pub(super) fn new(mapper: Arc<Mapper>, numa: Arc<Numa>) -> Self {
        let total = system::budget().map_or(ADDRESS_BYTES.0, |budget| budget.total);
        let bytes = total
            .saturating_mul(ADDRESSES_PER_MEMORY)
            .clamp(ADDRESS_BYTES.0, ADDRESS_BYTES.1);
        Self {
            mapper,
            numa,
            properties: VirtualMemoryProperties {
                granularity: rustix::param::page_size(),
                divisible: true,
                needs_access: false,
                mappings_max: mappings_max().map(|most| most / 2),
                address_bytes_max: usize::try_from(bytes).unwrap_or(1 << 30),
                // Measured on one x86-64 virtual machine; only their relation matters.
                create_ns: 2_000,
                remap_ns: 3_000,
            },
        }
    }
}

/// Mappings a process may have (vm.max_map_count, proc_sys_vm(5)).
fn mappings_max() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    text.trim().parse().ok()
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
            mapper: Arc::clone(&self.mapper),
            numa: Arc::clone(&self.numa),
        }))
    }

    fn create(&self, bytes: usize, _storage: StorageMode) -> Result<Physical> {
        self.mapper
            .create(bytes)
            .map(|offset| Physical::new(offset as u64))
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        self.mapper.release(file_offset(physical), bytes)
    }
}

/// The offset in the memory file that stands for physical memory.
fn file_offset(physical: Physical) -> usize {
    // Offsets were made from `usize`.
    usize::try_from(physical.number()).unwrap_or(usize::MAX)
}

/// Reserved addresses.
#[derive(Debug)]
struct HostAddresses {
    address: Address,
    bytes: usize,
    mapper: Arc<Mapper>,
    numa: Arc<Numa>,
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
        let offset = file_offset(physical) as u64;
        // SAFETY: the part lies in our reservation, and the caller promises that nothing uses it.
        unsafe { raw::map_file_at(address, self.mapper.file(), offset, bytes) }
            .map_err(|error| failed("mmap", error))?;
        if let Some(binding) = self.numa.binding() {
            // SAFETY: these are the addresses just mapped.
            let bound =
                unsafe { raw::bind(address, bytes, binding.mode.number(), &binding.mask()) };
            self.numa.note(bound);
        }
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
