//! A device whose driver calls fail on demand.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weldpool::device::fake::Call;
use weldpool::device::{
    AddressRange, Budget, DeviceProperties, DeviceQueue, Exposure, HostRange, Imported, Location,
    Physical, Registration, ReleaseError, Segment, Staging, Topology, UnregisterError,
    VirtualMemory, VirtualMemoryProperties,
};
use weldpool::{Device, Error, ErrorKind, Exported, Resource, Result, StorageMode};

use crate::faulty_queue::FaultyQueue;
use crate::faulty_segment::FaultySegment;
use crate::held::Held;

/// Called before a driver call is made.
type Before = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    /// The thread is in a function that a queue calls, of a device that wants no calls from there.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

#[derive(Default)]
pub(crate) struct Faults {
    state: Mutex<State>,
    before: Mutex<HashMap<Call, Before>>,
    /// Called before the device is told of what the host wrote, which is no call that fails.
    before_host_write: Mutex<Option<Before>>,
    /// Functions that queues call must not call the driver.
    functions_are_apart: AtomicBool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// By kind of call, how many of the next ones fail, and how.
    planned: HashMap<Call, (ErrorKind, usize)>,
    /// Numbers, among all calls, of those that fail, and how.
    numbered: Option<(Range<u64>, ErrorKind)>,
    calls: u64,
    failed: Option<Call>,
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before(&self) -> MutexGuard<'_, HashMap<Call, Before>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn before_host_write(&self) -> MutexGuard<'_, Option<Before>> {
        let before = self.before_host_write.lock();
        before.unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses any call from a function of a queue, if the device is to.
    pub(crate) fn check_outside(&self) -> Result<()> {
        if self.functions_are_apart.load(Ordering::Relaxed) && INSIDE.get() {
            return Err(Error::new(
                ErrorKind::Busy,
                "the driver was called from a function that a queue calls",
            ));
        }
        Ok(())
    }

    /// The function as a queue is to call it.
    pub(crate) fn function(&self, function: Box<dyn FnOnce() + Send>) -> Box<dyn FnOnce() + Send> {
        if !self.functions_are_apart.load(Ordering::Relaxed) {
            return function;
        }
        Box::new(move || {
            /// Ends it also when the function panics.
            struct Inside(bool);
            impl Drop for Inside {
                fn drop(&mut self) {
                    INSIDE.set(self.0);
                }
            }
            let _inside = Inside(INSIDE.replace(true));
            function();
        })
    }

    pub(crate) fn check(&self, call: Call) -> Result<()> {
        self.check_outside()?;
        let before = self.before().get(&call).cloned();
        if let Some(before) = before {
            before();
        }
        let mut state = self.state();
        state.calls += 1;
        let planned = match state.planned.get_mut(&call) {
            Some((kind, left)) if *left > 0 => {
                *left -= 1;
                Some(*kind)
            }
            _ => None,
        };
        let number = state.calls;
        let numbered = state.numbered.as_ref();
        let numbered = numbered.filter(|(numbers, _)| numbers.contains(&number));
        match planned.or(numbered.map(|(_, kind)| *kind)) {
            Some(kind) => {
                state.failed = Some(call);
                Err(Error::new(kind, "a fault was injected"))
            }
            None => Ok(()),
        }
    }
}

/// A device that passes calls on to another one, except those told to fail, and keeps account of the
/// memory that was given out.
#[derive(Debug)]
pub struct FaultyDevice {
    inner: Arc<dyn Device>,
    faults: Arc<Faults>,
    held: Arc<Held>,
    virtual_memory: bool,
    waits_by_itself: bool,
    memories: [FaultyMemory; StorageMode::ALL.len()],
}

impl FaultyDevice {
    /// Wraps a device; nothing fails at first.
    #[must_use]
    pub fn new(inner: Arc<dyn Device>) -> Self {
        let faults = Arc::<Faults>::default();
        let held = Arc::<Held>::default();
        let memories = StorageMode::ALL.map(|storage| FaultyMemory {
            inner: Arc::clone(&inner),
            storage,
            faults: Arc::clone(&faults),
            held: Arc::clone(&held),
            mappings_max: None,
        });
        Self {
            inner,
            faults,
            held,
            virtual_memory: true,
            waits_by_itself: true,
            memories,
        }
    }

    /// Hides the virtual memory of the device below.
    #[must_use]
    pub fn without_virtual_memory(mut self) -> Self {
        self.virtual_memory = false;
        self
    }

    /// Has the host wait where a queue is to wait for another, as for one of another kind of device.
    #[must_use]
    pub fn without_waits(mut self) -> Self {
        self.waits_by_itself = false;
        self
    }

    /// Refuses every call of the driver with [`Busy`](ErrorKind::Busy) on a thread that is in a function of a queue of
    /// such a device, as CUDA does (`cuLaunchHostFunc`): waiting for room too, and waiting for a point of a queue that
    /// was not seen to have passed. How far a queue has come is what it last said elsewhere. A refused call is not
    /// counted, and nothing is called [before](Self::before) it.
    #[must_use]
    pub fn without_calls_from_functions(self) -> Self {
        let apart = &self.faults.functions_are_apart;
        apart.store(true, Ordering::Relaxed);
        self
    }

    /// Says that the process should have no more than so many mappings.
    #[must_use]
    pub fn with_mappings_max(mut self, most: usize) -> Self {
        for memory in &mut self.memories {
            memory.mappings_max = Some(most);
        }
        self
    }

    /// What was given out and not taken back.
    #[must_use]
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Has a function called before each call of this kind, by the thread that makes it.
    pub fn before(&self, call: Call, function: impl Fn() + Send + Sync + 'static) {
        self.faults.before().insert(call, Arc::new(function));
    }

    /// Has a function called before the device is told of what the host wrote, by the thread that tells.
    pub fn before_host_write(&self, function: impl Fn() + Send + Sync + 'static) {
        *self.faults.before_host_write() = Some(Arc::new(function));
    }

    /// Lets every call through again, and has no function called.
    pub fn clear_faults(&self) {
        self.faults.before().clear();
        *self.faults.before_host_write() = None;
        let mut state = self.faults.state();
        state.planned.clear();
        state.numbered = None;
    }

    /// Makes the next `times` calls of this kind fail with `kind`; zero ends it.
    pub fn fail(&self, call: Call, kind: ErrorKind, times: usize) {
        self.faults.state().planned.insert(call, (kind, times));
    }

    /// Makes the calls of these numbers fail, counted from 1 over all kinds of calls from the making of
    /// this device.
    pub fn fail_numbered(&self, numbers: Range<u64>, kind: ErrorKind) {
        self.faults.state().numbered = Some((numbers, kind));
    }

    /// Calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.faults.state().calls
    }

    /// The kind of the last call that was made to fail, if any was.
    #[must_use]
    pub fn failed(&self) -> Option<Call> {
        self.faults.state().failed
    }

    /// Takes note of a segment that is given out.
    fn noted(&self, segment: Box<dyn Segment>) -> Box<dyn Segment> {
        self.held.obtained(segment.bytes());
        if let Some(start) = start_of(segment.as_ref()) {
            self.held.mapped(start, segment.bytes());
        }
        segment
    }
}

impl Device for FaultyDevice {
    fn properties(&self) -> &DeviceProperties {
        self.inner.properties()
    }

    fn budget(&self) -> Result<Budget> {
        self.faults.check(Call::Budget)?;
        self.inner.budget()
    }

    fn create_segment(&self, bytes: usize, storage: StorageMode) -> Result<Box<dyn Segment>> {
        self.faults.check(Call::CreateSegment)?;
        let segment = self.inner.create_segment(bytes, storage)?;
        Ok(self.noted(FaultySegment::wrap(segment, &self.faults)))
    }

    fn create_segment_on(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
    ) -> Result<Box<dyn Segment>> {
        self.faults.check(Call::CreateSegment)?;
        let segment = self.inner.create_segment_on(bytes, storage, node)?;
        Ok(self.noted(FaultySegment::wrap(segment, &self.faults)))
    }

    fn note_host_write(&self, start: &Location, bytes: usize) {
        let before = self.faults.before_host_write().clone();
        if let Some(before) = before {
            before();
        }
        self.inner.note_host_write(start, bytes);
    }

    fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        self.inner.offers(exposure, storage)
    }

    fn create_exposed(
        &self,
        bytes: usize,
        storage: StorageMode,
        node: usize,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        self.faults.check(Call::CreateExposed)?;
        let segment = self.inner.create_exposed(bytes, storage, node, exposure)?;
        Ok(self.noted(FaultySegment::wrap(segment, &self.faults)))
    }

    unsafe fn import(&self, exported: &Exported) -> Result<Imported> {
        self.faults.check(Call::Import)?;
        // SAFETY: the caller's promise is the same.
        let Imported { segment, storage } = unsafe { self.inner.import(exported) }?;
        let segment = self.noted(FaultySegment::wrap(segment, &self.faults));
        Ok(Imported { segment, storage })
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        match self.faults.check(Call::ReleaseSegment) {
            Ok(()) => {
                let (start, bytes) = (start_of(segment.as_ref()), segment.bytes());
                let release = |segment| self.inner.release_segment(segment);
                FaultySegment::unwrapped(segment, release)?;
                self.held.returned(bytes);
                if let Some(start) = start {
                    self.held.unmapped(start, bytes);
                }
                Ok(())
            }
            Err(error) => Err(ReleaseError { segment, error }),
        }
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        self.faults.check(Call::CreateQueue)?;
        let inner = self.inner.create_queue()?;
        Ok(Arc::new(FaultyQueue::wrap(
            inner,
            &self.faults,
            self.waits_by_itself,
        )))
    }

    unsafe fn register(&self, memory: HostRange) -> Result<Box<dyn Registration>> {
        self.faults.check(Call::Register)?;
        // SAFETY: the caller's promise is the same.
        let registration = unsafe { self.inner.register(memory) }?;
        self.held.obtained(memory.bytes);
        Ok(Box::new(FaultyRegistration {
            inner: registration,
            bytes: memory.bytes,
        }))
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
    ) -> std::result::Result<(), UnregisterError> {
        if let Err(error) = self.faults.check(Call::Unregister) {
            return Err(UnregisterError {
                registration,
                error,
            });
        }
        let any: Box<dyn Any> = registration;
        match any.downcast::<FaultyRegistration>() {
            Ok(own) => {
                let FaultyRegistration { inner, bytes } = *own;
                self.inner.unregister(inner)?;
                self.held.returned(bytes);
                Ok(())
            }
            Err(_) => unreachable!("registrations of this device are wrapped"),
        }
    }

    fn virtual_memory(&self, storage: StorageMode) -> Option<&dyn VirtualMemory> {
        self.inner
            .virtual_memory(storage)
            .filter(|_| self.virtual_memory)?;
        let memory = self.memories.iter().find(|one| one.storage == storage)?;
        Some(memory)
    }

    fn topology(&self, storage: StorageMode) -> Option<&Topology> {
        self.inner.topology(storage)
    }

    fn may_be_called(&self) -> bool {
        self.faults.check_outside().is_ok() && self.inner.may_be_called()
    }

    fn staging(&self) -> Staging {
        self.inner.staging()
    }

    fn charged_ns(&self) -> u64 {
        self.inner.charged_ns()
    }
}

/// The address by which a buffer in the segment can be found, if it has one.
fn start_of(segment: &dyn Segment) -> Option<u64> {
    let host = segment
        .host_address()
        .map(|host| host.as_ptr().addr() as u64);
    host.or_else(|| segment.device_address())
}

/// Registered memory, whose end is accounted for.
#[derive(Debug)]
struct FaultyRegistration {
    inner: Box<dyn Registration>,
    bytes: usize,
}

// SAFETY: what it gives is what the registration below does.
unsafe impl Registration for FaultyRegistration {
    fn device_address(&self) -> Option<u64> {
        self.inner.device_address()
    }

    fn resource(&self) -> Option<Resource> {
        self.inner.resource()
    }

    fn resource_offset(&self) -> usize {
        self.inner.resource_offset()
    }
}

/// The virtual memory of a device for one storage mode.
#[derive(Debug)]
struct FaultyMemory {
    inner: Arc<dyn Device>,
    storage: StorageMode,
    faults: Arc<Faults>,
    held: Arc<Held>,
    /// In place of what the device below says.
    mappings_max: Option<usize>,
}

impl FaultyMemory {
    fn inner(&self) -> Result<&dyn VirtualMemory> {
        let inner = self.inner.virtual_memory(self.storage);
        inner.ok_or_else(|| Error::new(ErrorKind::Unsupported, "the device has no virtual memory"))
    }
}

impl VirtualMemory for FaultyMemory {
    fn properties(&self) -> VirtualMemoryProperties {
        match self.inner.virtual_memory(self.storage) {
            Some(inner) => {
                let properties = inner.properties();
                VirtualMemoryProperties {
                    mappings_max: self.mappings_max.or(properties.mappings_max),
                    ..properties
                }
            }
            None => unreachable!("a device's virtual memory is there for its life or never"),
        }
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        self.faults.check(Call::Reserve)?;
        Ok(Box::new(FaultyRange {
            inner: self.inner()?.reserve(bytes)?,
            faults: Arc::clone(&self.faults),
            held: Arc::clone(&self.held),
        }))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        self.faults.check(Call::CreatePhysical)?;
        let physical = self.inner()?.create(bytes, storage)?;
        self.held.obtained(bytes);
        Ok(physical)
    }

    fn create_on(&self, bytes: usize, storage: StorageMode, node: usize) -> Result<Physical> {
        self.faults.check(Call::CreatePhysical)?;
        let physical = self.inner()?.create_on(bytes, storage, node)?;
        self.held.obtained(bytes);
        Ok(physical)
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        self.faults.check(Call::ReleasePhysical)?;
        let inner = self.inner()?;
        // SAFETY: the caller's promise is the same.
        unsafe { inner.release(physical, bytes) }?;
        self.held.returned(bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyRange {
    inner: Box<dyn AddressRange>,
    faults: Arc<Faults>,
    held: Arc<Held>,
}

impl FaultyRange {
    fn start(&self) -> u64 {
        let host = self.inner.host_address();
        host.map(|host| host.as_ptr().addr() as u64)
            .or_else(|| self.inner.device_address())
            .unwrap_or_default()
    }
}

impl Drop for FaultyRange {
    fn drop(&mut self) {
        self.held.unmapped(self.start(), self.inner.bytes());
    }
}

// SAFETY: addresses and lengths are those of the range below, and every call is either refused before
// anything happened or passed on unchanged.
unsafe impl AddressRange for FaultyRange {
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
        self.faults.check(Call::Map)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.map(at, physical, bytes) }?;
        self.held.mapped(self.start() + at as u64, bytes);
        Ok(())
    }

    fn allow_access(&self, at: usize, bytes: usize) -> Result<()> {
        self.faults.check(Call::AllowAccess)?;
        self.inner.allow_access(at, bytes)
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        self.faults.check(Call::Unmap)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.unmap(at, bytes) }?;
        self.held.unmapped(self.start() + at as u64, bytes);
        Ok(())
    }
}
