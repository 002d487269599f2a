//! Work that others submit by themselves, in the order of a queue.

#![forbid(unsafe_code)]

use super::{Fence, Operand, Queue};
use crate::device::{ExternalOrder, Location, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::Access;

/// Permission to submit work beside a [`Queue`], from [`Queue::before_external_submit`]. To be given back to
/// [`Queue::after_external_submit`] once the work was submitted, in whatever order; dropped instead, the queue waits for
/// nothing. A queue remembers 64 that were not given back: beyond that the oldest is forgotten.
#[derive(Debug)]
#[must_use = "the queue does not wait for the work before `after_external_submit`"]
pub struct ExternalSubmission {
    queue: u64,
    order: Option<ExternalOrder>,
}

impl ExternalSubmission {
    /// How the work fits between the work of the queue. None: it is submitted to the stream that the queue is over, whose
    /// order does.
    #[must_use]
    pub fn order(&self) -> Option<ExternalOrder> {
        self.order
    }
}

impl Queue {
    /// To be called before somebody else submits work that uses memory of the queue's device: MPSGraph, for one, commits
    /// command buffers by itself. Everything submitted to the queue so far is signalled, and what the work may use is made
    /// resident (Metal, macOS 15). The work has to keep [`ExternalSubmission::order`].
    ///
    /// When the system has ended a wait of the queue's that took too long (Metal), the queue fails, and the work begins even
    /// so: perhaps beside what the queue waited for, which may be a function, earlier work of others or work of another queue.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn before_external_submit(&self) -> Result<ExternalSubmission> {
        let value = self.core.signal()?;
        Ok(ExternalSubmission {
            queue: self.core.key.id,
            order: self.core.device.before_external_submit(value)?,
        })
    }

    /// Has the host see what work of others that was submitted so far writes to managed memory.
    pub(crate) fn show_to_host(&self, start: &Location, bytes: usize) -> Result<()> {
        let _submitting = self.core.lock_with_room()?;
        self.core.device.note_device_write(start, bytes)
    }

    /// Takes note that the announced work was submitted: later work of this queue waits for it, and the fence is behind it.
    /// Memory that the work uses is to be noted with that fence: [`note_read`](Self::note_read),
    /// [`note_write`](Self::note_write).
    ///
    /// A submission that was refused, and will never signal its event, is not to be given back: the queue and whoever waits for
    /// it would wait for ever. Nor does work that fails later signal: whoever submitted it raises the event himself then (Metal:
    /// `signaledValue` of [`signal`](ExternalOrder::signal), in the completed handler of the last of his command buffers: the event
    /// says that all of the work has ended), whatever has become of the queue, which may be gone: he retains the event for that. The fence passes or, on Metal, tells of a lost
    /// queue if the system had ended its wait by then. The handler does so before anything else, and submits nothing that uses
    /// memory of the queue's: a submission may wait for the queue, which waits for the event and for other such handlers.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for what was announced to another queue or is forgotten, otherwise what
    /// the driver says: then the queue does not wait, and whoever submitted the work waits for its end himself before its
    /// memory is used again.
    pub fn after_external_submit(&self, submission: ExternalSubmission) -> Result<Fence> {
        if submission.queue != self.core.key.id {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the submission was announced to another queue",
            ));
        }
        self.submit(&[], |device| match &submission.order {
            Some(order) => device.after_external_submit(order),
            None => Ok(()),
        })
    }

    /// Takes note that work of others, which has ended when `fence` has passed, reads the memory: until then it is not
    /// written nor reused. Readers do not wait for each other.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) while a guard writes to it, which races with the work; the use is noted.
    pub fn note_read(&self, memory: &impl Operand, fence: &Fence) -> Result<()> {
        memory.part().note(fence.clone(), Access::Read);
        memory.borrow_shared().map(drop)
    }

    /// Takes note that work of others, submitted before `fence` to this queue, writes the memory: until the fence that comes
    /// back has passed nobody else uses it. That is the given one, or for managed storage, whose contents are first
    /// made visible to the host, a later one.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) while a guard is held on it, which races with the work,
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for memory that is read-only, or for managed storage what the driver
    /// says. The use is noted in any case; what could not be made visible is not.
    pub fn note_write(&self, memory: &mut impl Operand, fence: &Fence) -> Result<Fence> {
        let raced = memory.borrow_exclusive().map(drop);
        let part = memory.part();
        part.note(fence.clone(), Access::Write);
        if part.storage != StorageMode::Managed {
            return raced.map(|()| fence.clone());
        }
        let shown = self.show_to_host(&part.location, part.bytes);
        let behind = shown.and_then(|()| self.fence());
        // Work that shows it may be submitted even so.
        let last = behind
            .as_ref()
            .map_or_else(|_| self.fence_or_next(), Fence::clone);
        part.note(last, Access::Write);
        raced.and(behind)
    }
}
