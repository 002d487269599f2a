//! The order of mapping updates before the work that uses them.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::raw::{CommandBuffer, Metal, SharedEvent};
use crate::sync::{AtomicU64, Ordering};

/// The event that is signalled behind each mapping update of a device.
#[derive(Debug)]
pub(super) struct Mapped<M: Metal> {
    event: M::Event,
    /// Value behind the last update that was given to the queue.
    issued: AtomicU64,
}

impl<M: Metal> Mapped<M> {
    pub(super) fn new(event: M::Event) -> Self {
        Self {
            event,
            issued: AtomicU64::new(0),
        }
    }

    pub(super) fn event(&self) -> &M::Event {
        &self.event
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Acquire)
    }

    /// Takes note of an update, before whoever asked for it is answered.
    pub(super) fn note(&self, value: u64) {
        self.issued.store(value, Ordering::Release);
    }

    /// Value behind the last update that is done.
    pub(super) fn reached(&self) -> u64 {
        self.event.signaled_value()
    }

    /// Blocks until an update is done, or for so long.
    pub(super) fn wait(&self, value: u64, timeout: Duration) -> bool {
        let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.reached() >= value || self.event.wait(value, milliseconds)
    }

    /// Has a command buffer wait for all updates so far, unless its queue did already for those up to `seen`; what its
    /// queue has seen when the command buffer is committed.
    pub(super) fn precede(&self, commands: &M::Commands, seen: u64) -> u64 {
        let issued = self.issued();
        if issued > seen {
            commands.wait_for(&self.event, issued);
        }
        issued
    }
}
