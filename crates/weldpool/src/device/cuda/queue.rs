//! A queue over a stream, made here or somebody else's.

#![allow(unsafe_code)]

use std::any::Any;
use std::ptr::NonNull;
use std::time::Duration;

use super::context::Context;
use super::host_functions;
use super::raw::Handle;
use super::timeline::EventTimeline;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::transfer::Rows;

/// Rows may begin no further apart for the driver to copy them in one call (`CU_DEVICE_ATTRIBUTE_MAX_PITCH`).
const PITCH_MAX: usize = (1 << 31) - 1;

/// A queue of a CUDA device.
#[derive(Debug)]
pub(super) struct CudaQueue {
    context: Arc<Context>,
    stream: Handle,
    /// Made here, so destroyed here.
    owned: bool,
    points: Arc<EventTimeline>,
    timeline: Arc<dyn Timeline>,
    /// The stream is not to be used any more.
    retired: AtomicBool,
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
            retired: AtomicBool::new(false),
        }
    }

    /// Says that the stream is about to be destroyed: everything submitted is covered by the last signal, and
    /// nothing is submitted any more.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Whether work may be submitted. What a stream that records a graph is given is not done, and has no point
    /// that could pass.
    fn check(&self) -> Result<()> {
        if self.is_retired() {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the stream of a queue was given up and may be gone",
            ));
        }
        if self.is_captured()? {
            return Err(Error::new(
                ErrorKind::Busy,
                "the stream records a graph, so nothing given to it is done; end the capture first",
            ));
        }
        Ok(())
    }

    fn is_captured(&self) -> Result<bool> {
        // A stream of ours is known to nobody who could begin a capture on it.
        if self.owned {
            return Ok(false);
        }
        self.context.call("cuStreamIsCapturing", |driver| {
            // SAFETY: the stream is alive.
            unsafe { driver.is_capturing(self.stream) }
        })
    }

    /// Calls a function of ours in the order of the stream.
    fn launch(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        let number = host_functions::put(self.context.number(), function);
        let argument = std::ptr::without_provenance_mut(number);
        // SAFETY: the stream is alive, and `call_back` takes any number.
        let launched = self.context.call("cuLaunchHostFunc", |driver| unsafe {
            driver.launch_host(self.stream, host_functions::call_back, argument)
        });
        launched.inspect_err(|_| drop(host_functions::take(number)))
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
        self.check()?;
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

    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        let wide = rows.source_pitch.max(rows.destination_pitch) > PITCH_MAX;
        if rows.count == 1 || wide || source.host.is_some() && destination.host.is_some() {
            for row in 0..rows.count {
                let from = source.at(row * rows.source_pitch);
                let to = destination.at(row * rows.destination_pitch);
                // SAFETY: the caller's promise.
                unsafe { self.copy(from, to, rows.bytes) }?;
            }
            return Ok(());
        }
        self.check()?;
        let (from, to) = (address_of(&source)?, address_of(&destination)?);
        // SAFETY: the caller's promise.
        self.context.call("cuMemcpy2DAsync", |driver| unsafe {
            driver.copy_rows(to, from, rows, self.stream)
        })
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.check()?;
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
        self.check()?;
        self.launch(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.check()?;
        let other: &dyn Any = timeline.as_ref();
        if let Some(points) = other.downcast_ref::<EventTimeline>()
            && !points.is_lost()
        {
            return match points.event_of(value)? {
                Some(event) => event.delay(&self.context, self.stream),
                None => Ok(()),
            };
        }
        // Of another kind of device: waited for here, since a host function that waits would hold up those of
        // all streams. What was signalled does not depend on what is yet to be submitted.
        match timeline.wait(value, None) {
            Ok(_) => Ok(()),
            // A lost queue has stopped, so its work cannot race with ours any more.
            Err(error) if error.kind() == ErrorKind::DeviceLost => {
                tracing::warn!(%error, "a queue went on without the queue it waited for");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn is_recording(&self) -> bool {
        // One that cannot be asked runs nothing.
        !self.is_retired() && self.is_captured().unwrap_or(false)
    }

    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        let other: &dyn Any = timeline.as_ref();
        let points = other.downcast_ref::<EventTimeline>();
        points.is_some_and(|points| !points.is_lost())
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        self.context.check()?;
        self.points.wait_for_room(timeout)
    }

    fn signal(&self) -> Result<u64> {
        if self.is_retired() {
            return Ok(self.points.signal_again());
        }
        self.check()?;
        self.points.signal(self.stream)
    }

    fn finish(&self) -> Result<()> {
        self.check()?;
        // SAFETY: the stream is alive.
        self.context.call("cuStreamSynchronize", |driver| unsafe {
            driver.synchronize_stream(self.stream)
        })
    }

    unsafe fn copy_now(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        if rows.count > 1 || source.host.is_some() && destination.host.is_some() {
            // SAFETY: the caller's promise.
            unsafe { self.copy_rows(source, destination, rows) }?;
            return self.finish();
        }
        self.check()?;
        let (from, to) = (address_of(&source)?, address_of(&destination)?);
        // Entering the context once costs less than twice.
        self.context.call("cuMemcpyAsync", |driver| {
            // SAFETY: the caller's promise.
            unsafe { driver.copy(to, from, rows.bytes, self.stream) }?;
            // SAFETY: the stream is alive.
            unsafe { driver.synchronize_stream(self.stream) }
        })
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
    }
}

/// A part of host memory that work of a queue touches.
#[derive(Clone, Copy)]
struct HostPart(NonNull<u8>);

// SAFETY: `DeviceQueue::copy` and `fill` keep the range valid and unraced on whichever thread the work runs.
unsafe impl Send for HostPart {}
