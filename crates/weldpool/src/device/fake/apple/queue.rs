//! A queue of the device's code, whose calls can fail and are charged.

#![allow(unsafe_code)]

use std::any::Any;
use std::time::Duration;

use super::metal::Metal;
use crate::device::fake::call::Call;
use crate::device::fake::control::Ledger;
use crate::device::fake::queue::{ChargedTimeline, Memory, Side};
use crate::device::metal::peers::is_shown_to;
use crate::device::{DeviceQueue, ExternalOrder, Location, Timeline};
use crate::error::Result;
use crate::sync::Arc;
use crate::transfer::Rows;

/// A queue of an Apple fake.
#[derive(Debug)]
pub(super) struct AppleQueue {
    inner: Arc<dyn DeviceQueue>,
    metal: Metal,
    ledger: Arc<Ledger>,
    timeline: Arc<dyn Timeline>,
}

impl AppleQueue {
    pub(super) fn new(inner: Arc<dyn DeviceQueue>, metal: &Metal, ledger: &Arc<Ledger>) -> Self {
        let timeline = ChargedTimeline::new(Arc::clone(inner.timeline()), ledger);
        Self {
            inner,
            metal: metal.clone(),
            ledger: Arc::clone(ledger),
            timeline: Arc::new(timeline),
        }
    }

    /// Has the model say which rule a location breaks, before the device's code refuses it.
    fn check(&self, location: &Location, bytes: usize) -> Result<()> {
        let kept = match self.metal.identify(location, bytes) {
            // What is mapped there is known on the GPU's timeline alone.
            Ok(Side::Device(address)) if self.metal.sparse_at(address).is_some() => Ok(()),
            Ok(Side::Device(address)) => self.metal.reach(address, bytes).map(drop),
            identified => identified.map(drop),
        };
        kept.map_err(|violation| self.ledger.record(violation))
    }
}

/// The timeline that the device's code knows.
fn below(timeline: &Arc<dyn Timeline>) -> Arc<dyn Timeline> {
    let known: &dyn Any = timeline.as_ref();
    let charged = known.downcast_ref::<ChargedTimeline>();
    charged.map_or_else(|| Arc::clone(timeline), ChargedTimeline::progress)
}

// SAFETY: the queue below does what is not refused.
unsafe impl DeviceQueue for AppleQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        self.ledger.enter(Call::Copy)?;
        if !is_shown_to(&self.metal, &source) {
            self.check(&source, bytes)?;
        }
        self.check(&destination, bytes)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(source, destination, bytes) }
    }

    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        self.ledger.enter(Call::Copy)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy_rows(source, destination, rows) }
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.ledger.enter(Call::Fill)?;
        self.check(&destination, bytes)?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.fill(destination, bytes, value) }
    }

    fn note_device_write(&self, start: &Location, bytes: usize) -> Result<()> {
        self.inner.note_device_write(start, bytes)
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.ledger.enter(Call::HostCall)?;
        self.inner.call(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.ledger.enter(Call::WaitFor)?;
        self.inner.wait_for(&below(timeline), value)
    }

    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        self.inner.waits_by_itself(&below(timeline))
    }

    fn before_external_submit(&self, value: u64) -> Result<Option<ExternalOrder>> {
        self.inner.before_external_submit(value)
    }

    fn after_external_submit(&self, order: &ExternalOrder) -> Result<()> {
        self.ledger.enter(Call::WaitFor)?;
        self.inner.after_external_submit(order)
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        self.inner.wait_for_room(timeout)
    }

    fn signal(&self) -> Result<u64> {
        self.ledger.enter(Call::Signal)?;
        self.ledger.charge(self.ledger.event_record_ns);
        self.inner.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}
