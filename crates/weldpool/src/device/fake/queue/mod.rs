//! Queues of a fake device.

#![allow(unsafe_code)]

mod core;
mod work;

use std::any::Any;
use std::time::Duration;

use self::work::Work;
use super::call::Call;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::Result;
use crate::sync::Arc;

pub(super) use self::core::{Behaviour, ChargedTimeline, Core};
pub(super) use self::work::{Command, Memory, Move, Side, Source};

/// A queue; dropped, it still does what was submitted.
#[derive(Debug)]
pub(super) struct FakeQueue {
    core: Arc<Core>,
    timeline: Arc<dyn Timeline>,
}

impl FakeQueue {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let timeline = core.timeline();
        Self { core, timeline }
    }

    /// Checks a location, so that a wrong one is the error of the call that gave it.
    fn side(&self, location: &Location, bytes: usize) -> Result<Side> {
        let side = self.core.memory().identify(location, bytes);
        side.map_err(|violation| self.core.ledger().record(violation))
    }

    fn submit(&self, work: Move) -> Result<()> {
        work.check(self.core.memory())
            .map_err(|violation| self.core.ledger().record(violation))?;
        self.core.submit(Work::Move(work))
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        self.core.close();
    }
}

// SAFETY: items run one after the other in the order of submission, by one thread or by steps that
// exclude each other; a signal's value is stored with release ordering after everything before it has
// run, and a queue is lost only while none of its work touches memory.
unsafe impl DeviceQueue for FakeQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        self.core.ledger().enter(Call::Copy)?;
        let source = Source::Memory(self.side(&source, bytes)?);
        let destination = self.side(&destination, bytes)?;
        self.submit(Move {
            source,
            destination,
            bytes,
        })
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.core.ledger().enter(Call::Fill)?;
        let destination = self.side(&destination, bytes)?;
        self.submit(Move {
            source: Source::Value(value),
            destination,
            bytes,
        })
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.core.ledger().enter(Call::HostCall)?;
        self.core.submit(Work::Call(function))
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.core.ledger().enter(Call::WaitFor)?;
        let known: &dyn Any = timeline.as_ref();
        // The devices wait among themselves, without a call of the host's.
        let other = match known.downcast_ref::<ChargedTimeline>() {
            Some(fake) => fake.progress(),
            None => Arc::clone(timeline),
        };
        self.core.submit(Work::Wait(other, value))
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        self.core.wait_for_room(timeout)
    }

    fn signal(&self) -> Result<u64> {
        let ledger = self.core.ledger();
        ledger.enter(Call::Signal)?;
        ledger.charge(ledger.event_record_ns);
        self.core.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}
