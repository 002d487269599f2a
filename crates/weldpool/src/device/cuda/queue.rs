//! A queue over a stream, made here or somebody else's.

#![allow(unsafe_code)]

use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::context::Context;
use super::raw::Handle;
use super::timeline::EventTimeline;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// A queue of a CUDA device.
#[derive(Debug)]
pub(super) struct CudaQueue {
    context: Arc<Context>,
    stream: Handle,
    /// Made here, so destroyed here.
    owned: bool,
    points: Arc<EventTimeline>,
    timeline: Arc<dyn Timeline>,
    calls: Arc<Calls>,
}

impl CudaQueue {
    /// A queue over a stream of its own.
    pub(super) fn create(context: &Arc<Context>) -> Result<Self> {
        let stream = context.call("cuStreamCreate", |driver| driver.create_stream())?;
        Ok(Self::over(context, stream, true))
    }

    /// A queue over somebody's stream.
    ///
    /// # Safety
    ///
    /// The stream is one of this context and outlives the queue.
    pub(super) unsafe fn adopt(context: &Arc<Context>, stream: Handle) -> Self {
        Self::over(context, stream, false)
    }

    fn over(context: &Arc<Context>, stream: Handle, owned: bool) -> Self {
        let points = Arc::new(EventTimeline::new(context));
        Self {
            context: Arc::clone(context),
            stream,
            owned,
            timeline: Arc::clone(&points) as Arc<dyn Timeline>,
            points,
            calls: Arc::default(),
        }
    }

    /// Calls a function of ours in the order of the stream.
    fn launch(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        let number = self.calls.put(function);
        let argument = std::ptr::without_provenance_mut(number);
        // SAFETY: the stream is alive, and `call_back` takes any number.
        let launched = self.context.call("cuLaunchHostFunc", |driver| unsafe {
            driver.launch_host(self.stream, call_back, argument)
        });
        launched.inspect_err(|_| drop(self.calls.take(number)))
    }
}

/// The address by which the driver knows a place; host memory has one and the same for host and device.
fn address_of(location: &Location) -> Result<u64> {
    let host = || {
        location
            .host
            .map(|host| host.as_ptr().expose_provenance() as u64)
    };
    location.device.or_else(host).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidRequest,
            "a location of another device was given to a CUDA queue",
        )
    })
}

// SAFETY: a stream runs its work in order, an event recorded in it is complete only when the work before
// it is, and its writes are visible to the host then (CUDA driver API, stream synchronization).
unsafe impl DeviceQueue for CudaQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        // The driver copies between places of the host before it returns, after all work before it (API
        // synchronization behaviour), so such a copy is a function of ours.
        if let (Some(from), Some(to)) = (source.host, destination.host) {
            let (from, to) = (HostPart(from), HostPart(to));
            return self.launch(Box::new(move || {
                let (HostPart(from), HostPart(to)) = { (from, to) };
                // SAFETY: the caller promises that both ranges are valid, apart and nobody else's until
                // this is done.
                unsafe { from.copy_to_nonoverlapping(to, bytes) };
            }));
        }
        let (from, to) = (address_of(&source)?, address_of(&destination)?);
        // SAFETY: the caller's promise is the same.
        self.context.call("cuMemcpyAsync", |driver| unsafe {
            driver.copy(to, from, bytes, self.stream)
        })
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        // The driver refuses to fill host memory that is mapped from more than one handle.
        if let Some(host) = destination.host {
            let host = HostPart(host);
            return self.launch(Box::new(move || {
                let HostPart(host) = { host };
                // SAFETY: the caller promises that the range is valid and nobody else's until this is done.
                unsafe { host.write_bytes(value, bytes) };
            }));
        }
        let to = address_of(&destination)?;
        // SAFETY: the caller's promise is the same.
        self.context.call("cuMemsetD8Async", |driver| unsafe {
            driver.fill(to, value, bytes, self.stream)
        })
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.launch(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        let other: &dyn Any = timeline.as_ref();
        if let Some(points) = other.downcast_ref::<EventTimeline>()
            && (points.is_of(&self.context) || !self.context.is_lost())
        {
            return match points.event_of(value) {
                Some(event) => event.delay(self.stream),
                // It has passed already, or will never be signalled.
                None => Ok(()),
            };
        }
        let timeline = Arc::clone(timeline);
        self.launch(Box::new(move || {
            // A lost queue has stopped, so its work cannot race with ours any more.
            if let Err(error) = timeline.wait(value, None) {
                tracing::warn!(%error, "a queue went on without the queue it waited for");
            }
        }))
    }

    fn signal(&self) -> Result<u64> {
        // SAFETY: the stream is alive.
        let capturing = self.context.call("cuStreamIsCapturing", |driver| unsafe {
            driver.is_capturing(self.stream)
        })?;
        if capturing {
            return Err(Error::new(
                ErrorKind::Busy,
                "the stream records a graph, so it has no point that could pass; end the capture first",
            ));
        }
        self.points.signal(self.stream)
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // SAFETY: the stream is ours; the driver does what was submitted before it frees it.
        let destroy =
            |driver: &'static super::raw::Driver| unsafe { driver.destroy_stream(self.stream) };
        if let Err(error) = self.context.give_back("cuStreamDestroy", destroy) {
            tracing::warn!(%error, "a stream stays");
        }
        if self.context.is_lost() {
            self.calls.forget();
        }
    }
}

/// A part of host memory that work of a queue touches.
#[derive(Clone, Copy)]
struct HostPart(NonNull<u8>);

// SAFETY: `DeviceQueue::copy` and `fill` keep the range valid and unraced on whichever thread the work runs.
unsafe impl Send for HostPart {}

/// Functions that streams are to call, by number: what a lost context will never call can be dropped.
static PENDING: Mutex<Option<HashMap<usize, Pending>>> = Mutex::new(None);

struct Pending {
    function: Box<dyn FnOnce() + Send>,
    /// Which queue's it is.
    owner: u64,
}

/// The functions of one queue.
#[derive(Debug)]
struct Calls {
    owner: u64,
}

impl Default for Calls {
    fn default() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(0);
        Self {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Calls {
    fn put(&self, function: Box<dyn FnOnce() + Send>) -> usize {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
        let owner = self.owner;
        let mut pending = PENDING.lock();
        let pending = pending.get_or_insert_default();
        pending.insert(number, Pending { function, owner });
        number
    }

    fn take(&self, number: usize) -> Option<Box<dyn FnOnce() + Send>> {
        take(number)
    }

    /// Drops what will not be called any more.
    fn forget(&self) {
        let mut pending = PENDING.lock();
        let owner = self.owner;
        let forgotten: Vec<_> = pending
            .iter_mut()
            .flat_map(|pending| pending.extract_if(|_, one| one.owner == owner))
            .collect();
        drop(pending);
        drop(forgotten);
    }
}

fn take(number: usize) -> Option<Box<dyn FnOnce() + Send>> {
    let taken = PENDING
        .lock()
        .as_mut()
        .and_then(|pending| pending.remove(&number));
    taken.map(|pending| pending.function)
}

/// What the driver calls, on a thread of its own, with the number of a function.
unsafe extern "C" fn call_back(argument: *mut c_void) {
    let called = catch_unwind(AssertUnwindSafe(|| {
        if let Some(function) = take(argument.addr()) {
            function();
        }
    }));
    if called.is_err() {
        tracing::error!("a host function on a queue panicked");
    }
}
