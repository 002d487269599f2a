//! How far a queue has come: a shared event, and what became of its command buffers.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::raw::{Metal, Outcome, SharedEvent};
use crate::device::Timeline;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// Longest single wait for an event, after which it is looked whether the queue has failed.
const SLICE: Duration = Duration::from_millis(20);

/// The timeline of a queue.
#[derive(Debug)]
pub(super) struct EventTimeline<M: Metal> {
    event: M::Event,
    /// What the queue's functions are called by.
    gate: M::Event,
    work: Mutex<Work>,
    changed: Condvar,
}

/// The command buffers of a queue.
#[derive(Debug, Default)]
struct Work {
    /// Committed and not at their end.
    in_flight: usize,
    /// Why the first that failed did.
    failed: Option<Error>,
}

impl Work {
    /// Lost once nothing runs any more: what was committed behind the failed one may still do.
    fn lost(&self) -> Option<&Error> {
        self.failed.as_ref().filter(|_| self.in_flight == 0)
    }
}

fn lost(why: &Error) -> Error {
    Error::with_message(
        ErrorKind::DeviceLost,
        format!("a command buffer of the queue failed: {why}"),
    )
}

impl<M: Metal> EventTimeline<M> {
    pub(super) fn new(event: M::Event, gate: M::Event) -> Self {
        Self {
            event,
            gate,
            work: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn event(&self) -> &M::Event {
        &self.event
    }

    /// Raised before and after each function of the queue, and beyond all values when the queue is lost.
    pub(super) fn gate(&self) -> &M::Event {
        &self.gate
    }

    /// Whether the queue does nothing any more.
    pub(super) fn is_lost(&self) -> bool {
        self.work.lock().lost().is_some()
    }

    /// A command buffer is about to be committed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](ErrorKind::DeviceLost) after one has failed.
    pub(super) fn enter(&self) -> Result<()> {
        let mut work = self.work.lock();
        if let Some(why) = &work.failed {
            return Err(lost(why));
        }
        work.in_flight += 1;
        Ok(())
    }

    /// A command buffer has come to its end, or was never committed.
    pub(super) fn leave(&self, outcome: Outcome) {
        let mut work = self.work.lock();
        work.in_flight -= 1;
        if let Err(error) = outcome {
            tracing::error!(%error, "a command buffer failed; its queue is lost");
            work.failed.get_or_insert(error);
        }
        let is_lost = work.lost().is_some();
        drop(work);
        if is_lost {
            // Whoever waits for it on the GPU waits no longer: it has stopped. And functions that it will not call any
            // more are let go.
            self.event.set_signaled_value(u64::MAX);
            self.gate.set_signaled_value(u64::MAX);
        }
        self.changed.notify_all();
    }

    /// Blocks until fewer than `most` command buffers are in flight; says whether they are.
    pub(super) fn wait_for_room(&self, most: usize, timeout: Option<Duration>) -> bool {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut work = self.work.lock();
        while work.in_flight >= most && work.failed.is_none() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            work = sleep(&self.changed, work, left.unwrap_or(SLICE));
        }
        true
    }
}

fn sleep<'a>(
    changed: &Condvar,
    work: MutexGuard<'a, Work>,
    timeout: Duration,
) -> MutexGuard<'a, Work> {
    let woken = changed.wait_timeout(work, timeout);
    woken.unwrap_or_else(|poison| poison.into_inner()).0
}

impl<M: Metal> Timeline for EventTimeline<M> {
    fn completed(&self) -> Result<u64> {
        if let Some(why) = self.work.lock().lost() {
            return Err(lost(why));
        }
        Ok(M::pooled(|| self.event.signaled_value()))
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(why) = self.work.lock().lost() {
                return Err(lost(why));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            // Milliseconds, rounded up, so that a short wait is one.
            let milliseconds = slice.as_micros().div_ceil(1000) as u64;
            if M::pooled(|| self.event.wait(value, milliseconds)) {
                // A lost queue lets everybody go.
                let lost_now = self.work.lock().lost().map(lost);
                return lost_now.map_or(Ok(true), Err);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }
}
