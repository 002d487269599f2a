//! Queues whose calls fail on demand, and their timelines.

#![allow(unsafe_code)]

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weldpool::device::fake::Call;
use weldpool::device::{DeviceQueue, ExternalOrder, Location, Timeline};
use weldpool::transfer::Rows;
use weldpool::{Error, ErrorKind, Result};

use crate::faulty::Faults;

#[derive(Debug)]
pub(crate) struct FaultyQueue {
    inner: Arc<dyn DeviceQueue>,
    faults: Arc<Faults>,
    timeline: Arc<dyn Timeline>,
    /// Whether the device waits for other queues by itself.
    waits_by_itself: bool,
}

impl FaultyQueue {
    pub(crate) fn wrap(
        inner: Arc<dyn DeviceQueue>,
        faults: &Arc<Faults>,
        waits_by_itself: bool,
    ) -> Self {
        let timeline = FaultyTimeline {
            inner: Arc::clone(inner.timeline()),
            faults: Arc::clone(faults),
            known: AtomicU64::new(0),
        };
        Self {
            inner,
            faults: Arc::clone(faults),
            timeline: Arc::new(timeline),
            waits_by_itself,
        }
    }
}

// SAFETY: every call is either refused before anything happened or passed on unchanged.
unsafe impl DeviceQueue for FaultyQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        self.faults.check(Call::Copy)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy(source, destination, bytes) }
    }

    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        self.faults.check(Call::Copy)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy_rows(source, destination, rows) }
    }

    unsafe fn copy_now(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        self.faults.check(Call::Copy)?;
        self.faults.check(Call::Wait)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.copy_now(source, destination, rows) }
    }

    fn finish(&self) -> Result<()> {
        self.faults.check(Call::Wait)?;
        self.inner.finish()
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.faults.check(Call::Fill)?;
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.fill(destination, bytes, value) }
    }

    fn note_device_write(&self, start: &Location, bytes: usize) -> Result<()> {
        self.inner.note_device_write(start, bytes)
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.faults.check(Call::HostCall)?;
        self.inner.call(self.faults.function(function))
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.faults.check(Call::WaitFor)?;
        if !self.waits_by_itself {
            return below(timeline).wait(value, None).map(drop);
        }
        self.inner.wait_for(below(timeline), value)
    }

    fn is_recording(&self) -> bool {
        self.inner.is_recording()
    }

    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        self.waits_by_itself && self.inner.waits_by_itself(below(timeline))
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        self.faults.check_outside()?;
        self.inner.wait_for_room(timeout)
    }

    fn before_external_submit(&self, value: u64) -> Result<Option<ExternalOrder>> {
        self.inner.before_external_submit(value)
    }

    fn after_external_submit(&self, order: &ExternalOrder) -> Result<()> {
        self.faults.check(Call::WaitFor)?;
        self.inner.after_external_submit(order)
    }

    fn signal(&self) -> Result<u64> {
        self.faults.check(Call::Signal)?;
        self.inner.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

/// What the host is told of a queue. Devices wait among themselves without it.
#[derive(Debug)]
struct FaultyTimeline {
    inner: Arc<dyn Timeline>,
    faults: Arc<Faults>,
    /// What the device said last.
    known: AtomicU64,
}

/// The timeline that the device knows.
fn below(timeline: &Arc<dyn Timeline>) -> &Arc<dyn Timeline> {
    let known: &dyn Any = timeline.as_ref();
    let faulty = known.downcast_ref::<FaultyTimeline>();
    faulty.map_or(timeline, |faulty| &faulty.inner)
}

impl FaultyTimeline {
    /// That the queue is lost would mean that it does nothing any more, which is not so; it is another error then.
    fn check(&self, call: Call) -> Result<()> {
        self.faults.check(call).map_err(|error| match error.kind() {
            ErrorKind::DeviceLost => Error::new(ErrorKind::System, "a fault was injected"),
            _ => error,
        })
    }
}

impl Timeline for FaultyTimeline {
    fn completed(&self) -> Result<u64> {
        if self.faults.check_outside().is_err() {
            return Ok(self.known.load(Ordering::Acquire));
        }
        self.check(Call::Query)?;
        let completed = self.inner.completed()?;
        self.known.fetch_max(completed, Ordering::AcqRel);
        Ok(completed)
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        if self.faults.check_outside().is_err() && self.known.load(Ordering::Acquire) >= value {
            return Ok(true);
        }
        self.check(Call::Wait)?;
        let passed = self.inner.wait(value, timeout)?;
        if passed {
            self.known.fetch_max(value, Ordering::AcqRel);
        }
        Ok(passed)
    }
}
