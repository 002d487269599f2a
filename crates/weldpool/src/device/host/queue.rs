//! An in-order queue of the host: one thread that runs what is submitted.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::device::fence::SoftwareTimeline;
use crate::device::raw::Transfer;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Work that may wait in one queue; a submission beyond it blocks until there is room.
const WAITING_MAX: usize = 1024;

enum Work {
    Transfer(Transfer),
    Call(Box<dyn FnOnce() + Send>),
    Wait(Arc<dyn Timeline>, u64),
    Signal(u64),
}

/// A queue of the host.
#[derive(Debug)]
pub(super) struct HostQueue {
    sender: Mutex<Sender>,
    timeline: Arc<dyn Timeline>,
}

struct Sender {
    channel: SyncSender<Work>,
    signalled: u64,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("signalled", &self.signalled)
            .finish_non_exhaustive()
    }
}

impl HostQueue {
    /// Starts the queue's thread. It ends by itself once the queue is dropped and its work is done.
    pub(super) fn start() -> Result<Self> {
        let (channel, receiver) = sync_channel(WAITING_MAX);
        let timeline = Arc::new(SoftwareTimeline::default());
        let reached = Arc::clone(&timeline);
        std::thread::Builder::new()
            .name("weldpool-queue".into())
            .spawn(move || run(&receiver, &reached))
            .map_err(|error| Error::system(ErrorKind::System, "spawn of a queue thread", &error))?;
        Ok(Self {
            sender: Mutex::new(Sender {
                channel,
                signalled: 0,
            }),
            timeline,
        })
    }

    fn submit(&self, work: Work) -> Result<()> {
        self.sender.lock().channel.send(work).map_err(|_| lost())
    }
}

fn run(receiver: &Receiver<Work>, timeline: &SoftwareTimeline) {
    while let Ok(work) = receiver.recv() {
        match work {
            Work::Transfer(transfer) => transfer.run(),
            Work::Call(function) => {
                if catch_unwind(AssertUnwindSafe(function)).is_err() {
                    tracing::error!("a host function on a queue panicked");
                }
            }
            Work::Wait(other, value) => {
                // A lost queue has stopped, so its work cannot race with ours any more.
                if let Err(error) = other.wait(value, None) {
                    tracing::warn!(%error, "a queue went on without the queue it waited for");
                }
            }
            Work::Signal(value) => timeline.reach(value),
        }
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::DeviceLost,
        "the thread of a host queue has ended",
    )
}

fn no_address() -> Error {
    Error::new(
        ErrorKind::InvalidRequest,
        "a location of another device was given to the host",
    )
}

// SAFETY: one thread runs the work in the order of the channel, and a signal's value is stored with
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

    fn signal(&self) -> Result<u64> {
        let mut sender = self.sender.lock();
        let value = sender.signalled + 1;
        sender
            .channel
            .send(Work::Signal(value))
            .map_err(|_| lost())?;
        sender.signalled = value;
        Ok(value)
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
