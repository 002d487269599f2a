//! Counts and times every driver call, outside the allocator, so that `reserved` is what the
//! device gave and not what the allocator believes. Whatever calls the driver finds its spans here too.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::time::Instant;

use super::{
    AddressRange, Budget, Device, DeviceProperties, Exposure, HostRange, Imported, Physical,
    Registration, ReleaseError, Segment, StorageMode, Topology, UnregisterError, VirtualMemory,
    VirtualMemoryProperties, Vouched,
};
use crate::block::Node;
use crate::counter::{AtomicCounter, Counter};
use crate::error::{Error, ErrorKind, Result};
use crate::export::ExportedHandle;
use crate::profiling::{Profiling, SlowPath, Span, Spans};
use crate::sync::{Arc, AtomicU64, OnceLock, Ordering};

/// A device whose calls are counted.
#[derive(Debug)]
pub(crate) struct Metered {
    device: Arc<dyn Device>,
    reserved: AtomicCounter,
    /// Besides, for copies.
    staging: AtomicCounter,
    registered: AtomicCounter,
    /// What the system may take, which `reserved` does not count.
    parked: AtomicCounter,
    /// What of `reserved` is on which node, where memory is kept apart by nodes.
    nodes: Box<[AtomicCounter]>,
    /// Bytes of memory that the device has in all, once it has told.
    total: OnceLock<u64>,
    calls: AtomicU64,
    failures: AtomicU64,
    /// Real time, and time that a simulated device charged.
    nanoseconds: AtomicU64,
    charged: AtomicU64,
    spans: Spans,
}

impl Metered {
    pub(crate) fn new(device: Arc<dyn Device>, profiling: &Profiling) -> Self {
        let topologies = StorageMode::ALL.map(|storage| device.topology(storage));
        let topology = topologies.into_iter().flatten().next();
        let nodes = topology.map_or(0, |topology| topology.nodes().len());
        Self {
            nodes: (0..nodes).map(|_| AtomicCounter::default()).collect(),
            device,
            reserved: AtomicCounter::default(),
            staging: AtomicCounter::default(),
            registered: AtomicCounter::default(),
            parked: AtomicCounter::default(),
            total: OnceLock::new(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            charged: AtomicU64::new(0),
            spans: Spans::new(profiling),
        }
    }

    /// Begins a span, for profilers.
    #[inline]
    pub(crate) fn span(&self, path: SlowPath, bytes: usize) -> Span<'_> {
        self.spans.begin(path, bytes)
    }

    pub(crate) fn spans(&self) -> &Spans {
        &self.spans
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes held from the driver.
    pub(crate) fn reserved(&self) -> Counter {
        self.reserved.read()
    }

    /// Bytes held for copies, which `reserved` does not count.
    pub(crate) fn staging(&self) -> Counter {
        self.staging.read()
    }

    /// Bytes of others that the device knows.
    pub(crate) fn registered(&self) -> Counter {
        self.registered.read()
    }

    /// Bytes that the system may take.
    pub(crate) fn parked(&self) -> Counter {
        self.parked.read()
    }

    /// Bytes held of a node's memory, where memory is kept apart by nodes.
    pub(crate) fn reserved_on(&self, node: usize) -> Counter {
        let node = self.nodes.get(node);
        node.map(AtomicCounter::read).unwrap_or_default()
    }

    /// The nodes that memory of a storage mode is kept apart by, if it is.
    pub(crate) fn topology(&self, storage: StorageMode) -> Option<&Topology> {
        self.device.topology(storage)
    }

    fn count_obtained(&self, bytes: usize, storage: StorageMode, node: usize) {
        self.reserved.add(bytes as u64);
        if let Some(counter) = self.counter_of(storage, node) {
            counter.add(bytes as u64);
        }
    }

    fn count_returned(&self, bytes: usize, storage: StorageMode, node: usize) {
        self.reserved.subtract(bytes as u64);
        if let Some(counter) = self.counter_of(storage, node) {
            counter.subtract(bytes as u64);
        }
    }

    fn counter_of(&self, storage: StorageMode, node: usize) -> Option<&AtomicCounter> {
        self.topology(storage)?;
        self.nodes.get(node)
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

/// The device's calls, those for memory counted.
impl Metered {
    pub(crate) fn properties(&self) -> &DeviceProperties {
        self.device.properties()
    }

    pub(crate) fn budget(&self) -> Result<Budget> {
        self.device.budget()
    }

    /// Whether the device has so many bytes for a storage mode in all, in use or not; true where it does not
    /// tell. It is asked until it has told once.
    pub(crate) fn may_have(&self, bytes: usize, storage: StorageMode) -> bool {
        // Where memory is not unified the rest is the host's.
        if !self.properties().unified && storage != StorageMode::Private {
            return true;
        }
        let total = self.total.get().copied().or_else(|| {
            let total = self.budget().ok()?.total;
            Some(*self.total.get_or_init(|| total))
        });
        total.is_none_or(|total| bytes as u64 <= total)
    }

    /// A segment, on a node where memory is kept apart by nodes.
    pub(crate) fn create_segment(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
    ) -> Result<Box<dyn Segment>> {
        let segment = self.timed(|| match self.topology(storage) {
            Some(_) => self.device.create_segment_on(bytes, storage, node),
            None => self.device.create_segment(bytes, storage),
        })?;
        self.count_obtained(segment.bytes(), storage, node);
        Ok(segment)
    }

    pub(crate) fn release_segment(
        &self,
        segment: Box<dyn Segment>,
        storage: StorageMode,
        node: usize,
    ) -> std::result::Result<(), ReleaseError> {
        let bytes = segment.bytes();
        self.timed(|| self.device.release_segment(segment))?;
        self.count_returned(bytes, storage, node);
        Ok(())
    }
}

/// Segments that the system may take the memory of.
impl Metered {
    /// Lets it; whether the device can.
    pub(crate) fn park(&self, segment: &dyn Segment, storage: StorageMode, node: usize) -> bool {
        if !segment.parks() {
            return false;
        }
        let Ok(()) = self.timed(|| {
            segment.park();
            Ok::<_, Infallible>(())
        });
        self.parked.add(segment.bytes() as u64);
        self.count_returned(segment.bytes(), storage, node);
        true
    }

    /// Takes the memory back; false if the system took it, so that the segment can only be released.
    pub(crate) fn reclaim(&self, segment: &dyn Segment, storage: StorageMode, node: usize) -> bool {
        let Ok(reclaimed) = self.timed(|| Ok::<_, Infallible>(segment.reclaim()));
        if reclaimed {
            self.parked.subtract(segment.bytes() as u64);
            self.count_obtained(segment.bytes(), storage, node);
        }
        reclaimed
    }

    pub(crate) fn release_parked(
        &self,
        segment: Box<dyn Segment>,
    ) -> std::result::Result<(), ReleaseError> {
        let bytes = segment.bytes();
        self.timed(|| self.device.release_segment(segment))?;
        self.parked.subtract(bytes as u64);
        Ok(())
    }
}

/// Memory that copies go through.
impl Metered {
    pub(crate) fn create_staging(&self, bytes: usize) -> Result<Box<dyn Segment>> {
        let segment = self.timed(|| self.device.create_segment(bytes, StorageMode::Shared))?;
        self.staging.add(segment.bytes() as u64);
        Ok(segment)
    }

    pub(crate) fn release_staging(
        &self,
        segment: Box<dyn Segment>,
    ) -> std::result::Result<(), ReleaseError> {
        let bytes = segment.bytes();
        self.timed(|| self.device.release_segment(segment))?;
        self.staging.subtract(bytes as u64);
        Ok(())
    }
}

/// Calls about memory of others, counted.
impl Metered {
    /// # Safety
    ///
    /// As for [`Device::register`].
    pub(crate) unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        // SAFETY: the caller's promise.
        let registration = self.timed(|| unsafe { self.device.register(memory) })?;
        self.registered.add(memory.bytes as u64);
        Ok(registration)
    }

    pub(crate) fn unregister(
        &self,
        registration: Box<dyn Registration>,
        bytes: usize,
    ) -> std::result::Result<(), UnregisterError> {
        self.timed(|| self.device.unregister(registration))?;
        self.forget_registered(bytes);
        Ok(())
    }

    /// Takes note of bytes that the device does not know any more.
    pub(crate) fn forget_registered(&self, bytes: usize) {
        self.registered.subtract(bytes as u64);
    }
}

/// Memory that others reach too, its calls counted.
impl Metered {
    /// A segment for others to reach, on a node where memory is kept apart by nodes.
    pub(crate) fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        let create = || self.device.create_exposed(bytes, storage, node, exposure);
        let segment = self.timed(create)?;
        self.count_obtained(segment.bytes(), storage, node);
        Ok(segment)
    }

    /// A segment that somebody else made.
    /// `node` says where memory of a storage mode is counted.
    pub(crate) fn import(
        &self,
        vouched: Vouched<'_>,
        node: impl FnOnce(StorageMode) -> Node,
    ) -> Result<(Imported, Node)> {
        // SAFETY: the importer vouches for it.
        let imported = self.timed(|| unsafe { self.device.import(vouched.exported()) })?;
        let node = node(imported.storage);
        self.count_obtained(imported.segment.bytes(), imported.storage, node.index());
        Ok((imported, node))
    }

    pub(crate) fn export(&self, segment: &dyn Segment) -> Result<ExportedHandle> {
        self.timed(|| segment.export())
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
        let range = self.timed(|| memory.reserve(bytes));
        // That takes no memory, and fewer addresses do as well, which whoever was refused asks for next.
        if matches!(&range, Err(error) if error.kind() == ErrorKind::OutOfMemory) {
            self.failures.fetch_sub(1, Ordering::Relaxed);
        }
        range
    }

    /// Physical memory, of a node where memory is kept apart by nodes.
    pub(crate) fn create_physical(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
    ) -> Result<Physical> {
        let memory = self.memory(storage)?;
        let physical = self.timed(|| match self.topology(storage) {
            Some(_) => memory.create_on(bytes, storage, node),
            None => memory.create(bytes, storage),
        })?;
        self.count_obtained(bytes, storage, node);
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
        node: usize,
    ) -> Result<()> {
        let memory = self.memory(storage)?;
        // SAFETY: the caller's promise.
        self.timed(|| unsafe { memory.release(physical, bytes) })?;
        self.count_returned(bytes, storage, node);
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
