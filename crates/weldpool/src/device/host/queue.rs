//! An in-order queue of the host: one thread that runs what is submitted.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::device::backlog::{Backlog, Item, ROOM, Refused};
use crate::device::fence::{SoftwareTimeline, deadline_in, sleep, wait_for_other};
use crate::device::raw::Transfer;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex};

enum Work {
    Transfer(Transfer),
    Call(Box<dyn FnOnce() + Send>),
    Wait(Arc<dyn Timeline>, u64),
}

/// A queue of the host.
#[derive(Debug)]
pub(super) struct HostQueue {
    shared: Arc<Shared>,
    timeline: Arc<dyn Timeline>,
}

/// What the queue and its thread share.
struct Shared {
    state: Mutex<State>,
    /// The thread waits for the first item.
    submitted: Condvar,
    /// Whoever submits waits for room.
    room: Condvar,
}

struct State {
    backlog: Backlog<Work>,
    /// Nobody will submit any more.
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl HostQueue {
    /// Starts the queue's thread. It ends by itself once the queue is dropped and its work is done.
    pub(super) fn start() -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                backlog: Backlog::default(),
                closed: false,
            }),
            submitted: Condvar::new(),
            room: Condvar::new(),
        });
        let timeline = Arc::new(SoftwareTimeline::default());
        let (work, reached) = (Arc::clone(&shared), Arc::clone(&timeline));
        std::thread::Builder::new()
            .name("weldpool-queue".into())
            .spawn(move || run(&work, &reached))
            .map_err(|error| Error::system(ErrorKind::System, "spawn of a queue thread", &error))?;
        Ok(Self { shared, timeline })
    }

    fn submit(&self, work: Work) -> Result<()> {
        let pushed = self.shared.change(|state| state.backlog.push(work));
        pushed.map_err(Refused::into_error)
    }
}

impl Drop for HostQueue {
    fn drop(&mut self) {
        self.shared.change(|state| state.closed = true);
    }
}

impl Shared {
    /// Changes the state, and wakes the thread.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        // With anything to do it is awake, or has been woken.
        let asleep = state.backlog.is_empty();
        let changed = change(&mut state);
        drop(state);
        if asleep {
            self.submitted.notify_one();
        }
        changed
    }

    /// The next item; none at the end.
    fn next(&self) -> Option<Item<Work>> {
        let mut state = self.state.lock();
        loop {
            if let Some(item) = state.backlog.pop() {
                if state.backlog.len() == ROOM - 1 {
                    self.room.notify_all();
                }
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = sleep(&self.submitted, state, None)?;
        }
    }
}

fn run(shared: &Shared, timeline: &SoftwareTimeline) {
    while let Some(item) = shared.next() {
        match item {
            Item::Work(Work::Transfer(transfer)) => transfer.run(),
            Item::Work(Work::Call(function)) => {
                if catch_unwind(AssertUnwindSafe(function)).is_err() {
                    tracing::error!("a host function on a queue panicked");
                }
            }
            Item::Work(Work::Wait(other, value)) => wait_for_other(&other, value),
            Item::Signal(value) => timeline.reach(value),
        }
    }
}

fn no_address() -> Error {
    Error::new(
        ErrorKind::InvalidRequest,
        "a location of another device was given to the host",
    )
}

// SAFETY: one thread runs the work in the order of its submission, and a signal's value is stored with
// release ordering after everything before it has run.
unsafe impl DeviceQueue for HostQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        let transfer = unsafe { Transfer::copy(source, destination, bytes) };
        self.submit(Work::Transfer(transfer.ok_or_else(no_address)?))
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        let transfer = unsafe { Transfer::fill(destination, bytes, value) };
        self.submit(Work::Transfer(transfer.ok_or_else(no_address)?))
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.submit(Work::Call(function))
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.submit(Work::Wait(Arc::clone(timeline), value))
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = deadline_in(timeout);
        let mut state = self.shared.state.lock();
        while !state.backlog.has_room() {
            match sleep(&self.shared.room, state, deadline) {
                Some(woken) => state = woken,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn signal(&self) -> Result<u64> {
        Ok(self.shared.change(|state| state.backlog.signal()))
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_pass_in_order_and_waits_time_out() {
        let queue = HostQueue::start().unwrap();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        queue.call(Box::new(move || gate.recv().unwrap())).unwrap();
        let first = queue.signal().unwrap();
        let timeline = Arc::clone(queue.timeline());
        assert_eq!(timeline.completed().unwrap(), 0);
        assert!(
            !timeline
                .wait(first, Some(Duration::from_millis(5)))
                .unwrap()
        );
        open.send(()).unwrap();
        assert!(timeline.wait(first, None).unwrap());
        drop(queue);
        assert_eq!(timeline.completed().unwrap(), first);
    }

    #[test]
    fn a_panicking_function_does_not_stop_the_queue() {
        let queue = HostQueue::start().unwrap();
        queue.call(Box::new(|| panic!("on purpose"))).unwrap();
        let value = queue.signal().unwrap();
        assert!(
            queue
                .timeline()
                .wait(value, Some(Duration::from_secs(10)))
                .unwrap()
        );
    }
}
