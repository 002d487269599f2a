//! Counts and times every driver call, outside the allocator, so that `reserved` is what the
//! device gave and not what the allocator believes.

use std::time::Instant;

use super::{Budget, Device, DeviceProperties, DeviceQueue, ReleaseError, Segment, StorageMode};
use crate::error::Result;
use crate::stats::{AtomicCounter, Counter};
use crate::sync::{Arc, AtomicU64, Ordering};

/// A device whose calls are counted.
#[derive(Debug)]
pub(crate) struct Metered {
    device: Arc<dyn Device>,
    reserved: AtomicCounter,
    calls: AtomicU64,
    failures: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Metered {
    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        Self {
            device,
            reserved: AtomicCounter::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        }
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes held from the driver.
    pub(crate) fn reserved(&self) -> Counter {
        self.reserved.read()
    }

    /// Calls that obtain or return memory, how many of them failed, and the time in all of them.
    pub(crate) fn calls(&self) -> (u64, u64, u64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.failures.load(Ordering::Relaxed),
            self.nanoseconds.load(Ordering::Relaxed),
        )
    }

    fn timed<T, E>(
        &self,
        call: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let start = Instant::now();
        let result = call();
        let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(elapsed, Ordering::Relaxed);
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
