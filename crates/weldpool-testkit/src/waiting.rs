//! Queues that are held, and tests that may hang.

#![allow(
    clippy::unwrap_used,
    reason = "they report by panicking, as the tests do"
)]

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use weldpool::{Fence, Queue};

/// Much longer than any test takes, however busy the machine is.
const LONGEST: Duration = Duration::from_secs(120);

/// Holds a queue at its present end until the sender is used or dropped; the fence passes then.
///
/// # Panics
///
/// If the queue takes no function.
#[must_use]
pub fn block(queue: &Queue) -> (Sender<()>, Fence) {
    let (open, gate) = channel();
    let fence = queue
        .call(move || {
            let _opened = gate.recv();
        })
        .unwrap();
    (open, fence)
}

/// Runs a test on a thread of its own, so that one that would never end fails.
///
/// # Panics
///
/// If the test does, or is not over after two minutes.
pub fn in_time(test: impl FnOnce() + Send + 'static) {
    let (end, has_ended) = channel::<()>();
    let running = thread::spawn(move || {
        let _at_the_end = end;
        test();
    });
    let ended = has_ended.recv_timeout(LONGEST);
    assert_ne!(ended, Err(RecvTimeoutError::Timeout), "it never ends");
    if let Err(panic) = running.join() {
        resume_unwind(panic);
    }
}
