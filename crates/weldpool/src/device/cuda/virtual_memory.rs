//! Handles and reserved ranges of a CUDA device (`cuMemCreate`, `cuMemMap` and their kin).

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::ptr::NonNull;

use super::context::Context;
use super::raw::{Driver, Place};
use crate::device::{AddressRange, Physical, StorageMode, VirtualMemory, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Address space that an allocator may reserve, in bytes: more than any device has memory. A process has
/// 47 bits of it (x86-64).
const ADDRESS_BYTES_MAX: usize = 1 << 44;

/// Physical memory of one place, through handles: of the device, or host memory that stays where it is
/// (pinned) and has one address for host and device.
#[derive(Debug)]
pub(super) struct CudaMemory {
    context: Arc<Context>,
    place: Place,
    properties: VirtualMemoryProperties,
    /// From where mapped memory may be accessed.
    accessors: Arc<[Place]>,
}

impl CudaMemory {
    /// Memory of the context's device, if it has virtual memory.
    pub(super) fn private(context: &Arc<Context>) -> Result<Self> {
        let place = Place::Device(context.device());
        // Measured on an H200 with driver 580, handles of 2 MiB: create, map and access; map, access and
        // unmap.
        Self::new(context, place, vec![place], 42_000, 50_000)
    }

    /// Memory of a node of the host.
    pub(super) fn pinned(context: &Arc<Context>, node: c_int) -> Result<Self> {
        let place = Place::Host(node);
        let accessors = vec![Place::Device(context.device()), place];
        // As above; pages are obtained and locked when a handle is created, some 0.2 ms per MiB.
        Self::new(context, place, accessors, 980_000, 480_000)
    }

    fn new(
        context: &Arc<Context>,
        place: Place,
        accessors: Vec<Place>,
        create_ns: u32,
        remap_ns: u32,
    ) -> Result<Self> {
        let granularity = context.call("cuMemGetAllocationGranularity", |driver| {
            driver.granularity(place)
        })?;
        Ok(Self {
            context: Arc::clone(context),
            place,
            properties: VirtualMemoryProperties {
                granularity,
                divisible: false,
                needs_access: true,
                mappings_max: None,
                address_bytes_max: ADDRESS_BYTES_MAX,
                create_ns,
                remap_ns,
            },
            accessors: accessors.into(),
        })
    }

    fn storage(&self) -> StorageMode {
        match self.place {
            Place::Device(_) => StorageMode::Private,
            Place::Host(_) => StorageMode::Shared,
        }
    }
}

impl VirtualMemory for CudaMemory {
    fn properties(&self) -> VirtualMemoryProperties {
        self.properties
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        let of_host = matches!(self.place, Place::Host(_));
        let accessors = Arc::clone(&self.accessors);
        let range = CudaAddresses::reserve(&self.context, bytes, accessors, of_host);
        Ok(Box::new(range?))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        if storage != self.storage() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the handle is of another storage mode than was asked for",
            ));
        }
        let create = |driver: &'static Driver| driver.create_physical(self.place, bytes, false);
        self.context.call("cuMemCreate", create).map(Physical::new)
    }

    unsafe fn release(&self, physical: Physical, _bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        let release =
            |driver: &'static Driver| unsafe { driver.release_physical(physical.number()) };
        self.context.give_back("cuMemRelease", release)
    }
}

/// Reserved addresses.
#[derive(Debug)]
pub(super) struct CudaAddresses {
    context: Arc<Context>,
    accessors: Arc<[Place]>,
    /// The host may use them too.
    of_host: bool,
    address: u64,
    bytes: usize,
    /// Lengths of what is mapped, by offset.
    mapped: Mutex<BTreeMap<usize, usize>>,
}

impl CudaAddresses {
    /// Addresses at which memory is accessible from these places.
    pub(super) fn reserve(
        context: &Arc<Context>,
        bytes: usize,
        accessors: Arc<[Place]>,
        of_host: bool,
    ) -> Result<Self> {
        let reserve = |driver: &'static Driver| driver.reserve_addresses(bytes);
        let address = context.call("cuMemAddressReserve", reserve)?;
        Ok(Self {
            context: Arc::clone(context),
            accessors,
            of_host,
            address,
            bytes,
            mapped: Mutex::default(),
        })
    }

    /// The device's address of a part of the range.
    fn part(&self, at: usize, bytes: usize) -> Result<u64> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "a mapping outside the reserved addresses",
            ));
        }
        Ok(self.address + at as u64)
    }
}

// SAFETY: the addresses are reserved until the drop. Those of host memory are the host's too, readable and
// writable where memory is mapped and access allowed (CUDA driver API, `CU_MEM_LOCATION_TYPE_HOST_NUMA`).
unsafe impl AddressRange for CudaAddresses {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        let address = usize::try_from(self.address)
            .ok()
            .filter(|_| self.of_host)?;
        NonNull::new(std::ptr::with_exposed_provenance_mut(address))
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }

    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()> {
        let address = self.part(at, bytes)?;
        let mut mapped = self.mapped.lock();
        // SAFETY: the addresses are reserved here, and the caller promises that nothing uses them; the
        // driver refuses what is mapped already.
        let map =
            |driver: &'static Driver| unsafe { driver.map(address, bytes, physical.number()) };
        self.context.call("cuMemMap", map)?;
        mapped.insert(at, bytes);
        Ok(())
    }

    fn allow_access(&self, at: usize, bytes: usize) -> Result<()> {
        let address = self.part(at, bytes)?;
        // SAFETY: the addresses are reserved here; the driver refuses those to which nothing is mapped.
        let allow = |driver: &'static Driver| unsafe {
            driver.allow_access(address, bytes, &self.accessors)
        };
        self.context.call("cuMemSetAccess", allow)
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        let address = self.part(at, bytes)?;
        let mut mapped = self.mapped.lock();
        // SAFETY: the caller's promise.
        let unmap = |driver: &'static Driver| unsafe { driver.unmap(address, bytes) };
        self.context.give_back("cuMemUnmap", unmap)?;
        mapped.retain(|&start, _| !(at..at + bytes).contains(&start));
        Ok(())
    }
}

impl Drop for CudaAddresses {
    fn drop(&mut self) {
        let mapped = std::mem::take(self.mapped.get_mut());
        let mut result = Ok(());
        for (at, bytes) in mapped {
            let address = self.address + at as u64;
            // SAFETY: nothing uses the addresses of a range that is dropped.
            let unmap = |driver: &'static Driver| unsafe { driver.unmap(address, bytes) };
            result = result.and(self.context.give_back("cuMemUnmap", unmap));
        }
        let (address, bytes) = (self.address, self.bytes);
        // SAFETY: they were reserved as one, and nothing is mapped there any more.
        let free = |driver: &'static Driver| unsafe { driver.free_addresses(address, bytes) };
        result = result.and_then(|()| self.context.give_back("cuMemAddressFree", free));
        if let Err(error) = result {
            tracing::error!(%error, bytes, "reserved addresses stay");
        }
    }
}
