//! Counts and times every driver call, outside the allocator, so that `reserved` is what the
//! device gave and not what the allocator believes.

#![allow(unsafe_code)]

use std::time::Instant;

use super::{
    AddressRange, Budget, Device, DeviceProperties, DeviceQueue, Physical, ReleaseError, Segment,
    StorageMode, VirtualMemory, VirtualMemoryProperties,
};
use crate::counter::{AtomicCounter, Counter};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Ordering};

/// A device whose calls are counted.
#[derive(Debug)]
pub(crate) struct Metered {
    device: Arc<dyn Device>,
    reserved: AtomicCounter,
    calls: AtomicU64,
    failures: AtomicU64,
    /// Real time, and time that a simulated device charged.
    nanoseconds: AtomicU64,
    charged: AtomicU64,
}

impl Metered {
    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        Self {
            device,
            reserved: AtomicCounter::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            charged: AtomicU64::new(0),
        }
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes held from the driver.
    pub(crate) fn reserved(&self) -> Counter {
        self.reserved.read()
    }

    /// Calls that obtain or return memory, and how many of them failed.
    pub(crate) fn calls(&self) -> (u64, u64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.failures.load(Ordering::Relaxed),
        )
    }

    /// What the calls cost so far: of a simulated device what it charged, not what it took.
    pub(crate) fn spent_ns(&self) -> u64 {
        let (real, charged) = self.times_ns();
        if self.device.properties().kind.is_fake() {
            charged
        } else {
            real
        }
    }

    /// Nanoseconds in those calls, and nanoseconds charged for them by a simulated device.
    pub(crate) fn times_ns(&self) -> (u64, u64) {
        (
            self.nanoseconds.load(Ordering::Relaxed),
            self.charged.load(Ordering::Relaxed),
        )
    }

    fn timed<T, E>(
        &self,
        call: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let charged = self.device.charged_to_thread_ns();
        let start = Instant::now();
        let result = call();
        let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let charged = self.device.charged_to_thread_ns() - charged;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(elapsed, Ordering::Relaxed);
        if charged > 0 {
            self.charged.fetch_add(charged, Ordering::Relaxed);
        }
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Device for Metered {
    fn properties(&self) -> &DeviceProperties {
        self.device.properties()
    }

    fn budget(&self) -> Result<Budget> {
        self.device.budget()
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        let segment = self.timed(|| self.device.create_segment(bytes, storage))?;
        self.reserved.add(segment.bytes() as u64);
        Ok(segment)
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        let bytes = segment.bytes() as u64;
        self.timed(|| self.device.release_segment(segment))?;
        self.reserved.subtract(bytes);
        Ok(())
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        self.device.create_queue()
    }
}

/// Virtual memory whose calls are counted.
impl Metered {
    /// Properties of the virtual memory for this storage mode, if there is any.
    pub(crate) fn virtual_memory(&self, storage: StorageMode) -> Option<VirtualMemoryProperties> {
        Some(self.device.virtual_memory(storage)?.properties())
    }

    pub(crate) fn reserve_addresses(
        &self,
        bytes: usize,
        storage: StorageMode,
    ) -> Result<Box<dyn AddressRange>> {
        let memory = self.memory(storage)?;
        self.timed(|| memory.reserve(bytes))
    }

    pub(crate) fn create_physical(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        let memory = self.memory(storage)?;
        let physical = self.timed(|| memory.create(bytes, storage))?;
        self.reserved.add(bytes as u64);
        Ok(physical)
    }

    /// # Safety
    ///
    /// As for [`VirtualMemory::release`].
    pub(crate) unsafe fn release_physical(
        &self,
        physical: Physical,
        bytes: usize,
        storage: StorageMode,
    ) -> Result<()> {
        let memory = self.memory(storage)?;
        // SAFETY: the caller's promise.
        self.timed(|| unsafe { memory.release(physical, bytes) })?;
        self.reserved.subtract(bytes as u64);
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`AddressRange::map`].
    pub(crate) unsafe fn map(
        &self,
        range: &dyn AddressRange,
        at: usize,
        physical: Physical,
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        self.timed(|| unsafe { range.map(at, physical, bytes) })
    }

    pub(crate) fn allow_access(
        &self,
        range: &dyn AddressRange,
        at: usize,
        bytes: usize,
    ) -> Result<()> {
        self.timed(|| range.allow_access(at, bytes))
    }

    /// # Safety
    ///
    /// As for [`AddressRange::unmap`].
    pub(crate) unsafe fn unmap(
        &self,
        range: &dyn AddressRange,
        at: usize,
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        self.timed(|| unsafe { range.unmap(at, bytes) })
    }

    fn memory(&self, storage: StorageMode) -> Result<&dyn VirtualMemory> {
        self.device.virtual_memory(storage).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the device has no virtual memory for this storage mode",
            )
        })
    }
}
