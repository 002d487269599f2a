//! Placement sparse buffers of the device's code, whose calls can fail.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::costs::AppleCosts;
use crate::binding::Resource;
use crate::device::fake::call::Call;
use crate::device::fake::control::Ledger;
use crate::device::{AddressRange, Physical, StorageMode, VirtualMemory, VirtualMemoryProperties};
use crate::error::Result;
use crate::sync::Arc;

/// The virtual memory of an Apple fake.
#[derive(Debug)]
pub(super) struct AppleMemory {
    inner: Arc<dyn VirtualMemory>,
    ledger: Arc<Ledger>,
    properties: VirtualMemoryProperties,
}

impl AppleMemory {
    pub(super) fn new(
        inner: Arc<dyn VirtualMemory>,
        costs: &AppleCosts,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let properties = inner.properties();
        let least = properties.granularity as u64;
        let narrow = |ns: u64| u32::try_from(ns).unwrap_or(u32::MAX);
        let map = costs.map.ns(least);
        Self {
            properties: VirtualMemoryProperties {
                create_ns: narrow(costs.heap.ns(least) + map),
                remap_ns: narrow(map + costs.unmap.ns(least)),
                ..properties
            },
            inner,
            ledger: Arc::clone(ledger),
        }
    }
}

impl VirtualMemory for AppleMemory {
    fn properties(&self) -> VirtualMemoryProperties {
        self.properties
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        self.ledger.enter(Call::Reserve)?;
        Ok(Box::new(AppleRange {
            inner: self.inner.reserve(bytes)?,
            ledger: Arc::clone(&self.ledger),
        }))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        self.ledger.enter(Call::CreatePhysical)?;
        self.inner.create(bytes, storage)
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        self.ledger.enter(Call::ReleasePhysical)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.release(physical, bytes) }
    }
}

/// Addresses.
#[derive(Debug)]
struct AppleRange {
    inner: Box<dyn AddressRange>,
    ledger: Arc<Ledger>,
}

// SAFETY: the range below does what is not refused.
unsafe impl AddressRange for AppleRange {
    fn bytes(&self) -> usize {
        self.inner.bytes()
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        self.inner.host_address()
    }

    fn device_address(&self) -> Option<u64> {
        self.inner.device_address()
    }

    fn resource(&self) -> Option<(Resource, usize)> {
        self.inner.resource()
    }

    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()> {
        self.ledger.enter(Call::Map)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.map(at, physical, bytes) }
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        self.ledger.enter(Call::Unmap)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.unmap(at, bytes) }
    }
}
