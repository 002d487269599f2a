//! Work that others submit by themselves, in the order of a queue.

#![allow(unsafe_code)]

use std::ffi::c_void;

use memory::ExternalSubmission;

use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Owned, Place};
use crate::abi::sized::{Filled, Structure};
use crate::failure::ErrorObject;
use crate::fence::FenceHandle;
use crate::queue::{self, QueueHandle};

/// Permission to submit work beside a queue.
#[derive(Debug)]
pub struct SubmissionHandle {
    submission: ExternalSubmission,
}

/// What work that is submitted beside a queue has to keep. All null: it is submitted to the stream that the queue is
/// over, whose order does.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OrderOf {
    /// sizeof(weldpool_order_t), set by the caller.
    pub struct_size: usize,
    /// What to submit to (an MTLCommandQueue).
    pub queue: *mut c_void,
    /// The event that the work waits for before it begins (an MTLSharedEvent),
    pub wait_event: *mut c_void,
    /// and its value.
    pub wait_value: u64,
    /// The event that the work signals behind its end,
    pub signal_event: *mut c_void,
    /// and its value.
    pub signal_value: u64,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for OrderOf {
    const NAME: &'static str = "weldpool_order_t";
}

/// To be called before somebody else submits work that uses memory of the queue's device, such as MPSGraph, which
/// commits command buffers by itself. `order` is what the work has to keep. A submission is given back to
/// weldpool_queue_after_external_submit, or freed by weldpool_submission_free where the work was not submitted.
///
/// Errors: what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_before_external_submit(
    queue: Option<&QueueHandle>,
    order: *mut OrderOf,
    submission: *mut *mut SubmissionHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(submission, "submission")?;
        let filled = Filled::new(order, "order")?;
        let submission = queue::of(queue)?.before_external_submit()?;
        let mut kept = crate::abi::sized::zeroed::<OrderOf>();
        if let Some(order) = submission.order() {
            kept.queue = order.queue.as_ptr().as_ptr();
            kept.wait_event = order.wait.0.as_ptr().as_ptr();
            kept.wait_value = order.wait.1;
            kept.signal_event = order.signal.0.as_ptr().as_ptr();
            kept.signal_value = order.signal.1;
        }
        filled.put(&kept);
        place.give(SubmissionHandle { submission });
        Ok(())
    })
}

/// Takes note that the announced work was submitted: later work of the queue waits for it. `fence`, if not null, is
/// behind it, with which memory that it uses is noted: weldpool_queue_note_read, weldpool_queue_note_write. The
/// submission is freed, also where this fails.
///
/// Work that fails on the GPU signals nothing: the completed handler of its last command buffer sets the event's
/// signaledValue to `signal_value` then, if that is less, since the queue waits until then. It retains the event for that, does so before anything else,
/// and submits nothing that uses memory of the queue's.
///
/// Errors: INVALID_REQUEST for what was announced to another queue or is forgotten, else what the driver says; the
/// queue does not wait then, and whoever submitted the work waits himself. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_queue_after_external_submit(
    queue: Option<&QueueHandle>,
    submission: *mut SubmissionHandle,
    fence: *mut *mut FenceHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::optional(fence);
        let SubmissionHandle { submission } = Owned::new(submission, "submission")?.take();
        let fence = queue::of(queue)?.after_external_submit(submission)?;
        place.give(FenceHandle { fence });
        Ok(())
    })
}

/// Frees a submission whose work was not submitted. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_submission_free(submission: Option<Box<SubmissionHandle>>) {
    infallible((), || drop(submission));
}
