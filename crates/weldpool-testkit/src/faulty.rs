//! A device whose driver calls fail on demand.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weldpool::device::{
    Budget, DeviceProperties, DeviceQueue, Location, ReleaseError, Segment, Timeline,
};
use weldpool::{Device, Error, ErrorKind, Result, StorageMode};

/// A driver call that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Device::budget`].
    Budget,
    /// [`Device::create_segment`].
    CreateSegment,
    /// [`Device::release_segment`].
    ReleaseSegment,
    /// [`Device::create_queue`].
    CreateQueue,
    /// [`DeviceQueue::copy`].
    Copy,
    /// [`DeviceQueue::fill`].
    Fill,
    /// [`DeviceQueue::signal`].
    Signal,
    /// [`DeviceQueue::wait_for`].
    WaitFor,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Budget,
        Self::CreateSegment,
        Self::ReleaseSegment,
        Self::CreateQueue,
        Self::Copy,
        Self::Fill,
        Self::Signal,
        Self::WaitFor,
    ];
}

#[derive(Debug, Default)]
struct Faults(Mutex<HashMap<Call, (ErrorKind, usize)>>);

impl Faults {
    fn plan(&self) -> MutexGuard<'_, HashMap<Call, (ErrorKind, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, call: Call) -> Result<()> {
        match self.plan().get_mut(&call) {
            Some((kind, left)) if *left > 0 => {
                *left -= 1;
                Err(Error::new(*kind, "a fault was injected"))
            }
            _ => Ok(()),
        }
    }
}

/// A device that passes calls on to another one, except those told to fail.
#[derive(Debug)]
pub struct FaultyDevice {
    inner: Arc<dyn Device>,
    faults: Arc<Faults>,
}

impl FaultyDevice {
    /// Wraps a device; nothing fails at first.
    #[must_use]
    pub fn new(inner: Arc<dyn Device>) -> Self {
        Self {
            inner,
            faults: Arc::default(),
        }
    }

    /// Makes the next `times` calls of this kind fail with `kind`; zero ends it.
    pub fn fail(&self, call: Call, kind: ErrorKind, times: usize) {
        self.faults.plan().insert(call, (kind, times));
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
        self.inner.create_segment(bytes, storage)
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> std::result::Result<(), ReleaseError> {
        match self.faults.check(Call::ReleaseSegment) {
            Ok(()) => self.inner.release_segment(segment),
            Err(error) => Err(ReleaseError { segment, error }),
        }
    }

    fn create_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        self.faults.check(Call::CreateQueue)?;
        let inner = self.inner.create_queue()?;
        Ok(Arc::new(FaultyQueue {
            inner,
            faults: Arc::clone(&self.faults),
        }))
    }
}

#[derive(Debug)]
struct FaultyQueue {
    inner: Arc<dyn DeviceQueue>,
    faults: Arc<Faults>,
}

// SAFETY: every call is either refused before anything happened or passed on unchanged.
unsafe impl DeviceQueue for FaultyQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        self.faults.check(Call::Copy)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy(source, destination, bytes) }
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.faults.check(Call::Fill)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.fill(destination, bytes, value) }
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.inner.call(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.faults.check(Call::WaitFor)?;
        self.inner.wait_for(timeline, value)
    }

    fn signal(&self) -> Result<u64> {
        self.faults.check(Call::Signal)?;
        self.inner.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        self.inner.timeline()
    }
}
