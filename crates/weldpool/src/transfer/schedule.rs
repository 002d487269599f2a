//! Who copies which chunk, and when a copy has ended.

#![forbid(unsafe_code)]

use std::task::Waker;

use crate::error::{Error, ErrorKind};
use crate::sync::{Condvar, Mutex};

/// The chunks of one copy, which several threads take.
///
/// Chunks are taken in ascending order, and what was taken is finished unless it fails. So the chunks copied are a
/// prefix of all, also when the copy is cancelled.
#[derive(Debug)]
pub(crate) struct Schedule {
    chunks: usize,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    /// Threads that may hold a chunk.
    inside: usize,
    done_bytes: usize,
    stopped: Option<Error>,
    /// Nobody is let in any more.
    closed: bool,
    ended: bool,
    waker: Option<Waker>,
}

impl Schedule {
    pub(crate) fn new(chunks: usize) -> Self {
        Self {
            chunks,
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Lets a thread in, unless the copy has ended. Who was let in has to [`leave`](Self::leave).
    pub(crate) fn enter(&self) -> bool {
        let mut state = self.state.lock();
        if !state.closed {
            state.inside += 1;
        }
        !state.closed
    }

    /// The number of a chunk that nobody else has; none when there are no more or the copy was stopped.
    pub(crate) fn claim(&self) -> Option<usize> {
        let mut state = self.state.lock();
        if state.stopped.is_some() || state.next == self.chunks {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    /// Notes that bytes have arrived; returns how many have so far.
    pub(crate) fn complete(&self, bytes: usize) -> usize {
        let mut state = self.state.lock();
        state.done_bytes += bytes;
        state.done_bytes
    }

    /// No further chunk is taken; the first reason counts, and any other before a cancellation.
    pub(crate) fn stop(&self, reason: Error) {
        let mut state = self.state.lock();
        let failed = |old: &Error| old.kind() != ErrorKind::Cancelled;
        if !state.stopped.as_ref().is_some_and(failed) {
            state.stopped = Some(reason);
        }
    }

    pub(crate) fn cancel(&self) {
        let reason = Error::new(
            ErrorKind::Cancelled,
            "the copy was cancelled; its chunks up to there are complete",
        );
        self.state.lock().stopped.get_or_insert(reason);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped.is_some()
    }

    /// Whether it was stopped by an error, so that what others took may never be finished.
    pub(crate) fn has_failed(&self) -> bool {
        let state = self.state.lock();
        let failed = |reason: &Error| reason.kind() != ErrorKind::Cancelled;
        state.stopped.as_ref().is_some_and(failed)
    }

    /// A thread goes and holds no chunk; true for the last one, after which nobody touches the memory. It has to
    /// call [`end`](Self::end).
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.state.lock();
        state.inside -= 1;
        let over = state.stopped.is_some() || state.next == self.chunks;
        let last = state.inside == 0 && over && !state.closed;
        state.closed |= last;
        last
    }

    /// Closes a copy that nobody is at; true if that was done, after which nobody is let in. Who closed it has to call
    /// [`end`](Self::end). Where somebody is at it, the last of them sees that it was stopped.
    pub(crate) fn close_unattended(&self) -> bool {
        let mut state = self.state.lock();
        let closes = state.inside == 0 && !state.closed;
        state.closed |= closes;
        closes
    }

    /// Lets everybody see that the copy has ended.
    pub(crate) fn end(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.ended = true;
            state.waker.take()
        };
        self.ended.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Blocks until the copy has ended.
    pub(crate) fn wait(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            state = self
                .ended
                .wait(state)
                .unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Whether the copy has ended; if not, `waker` is woken then.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        let mut state = self.state.lock();
        if !state.ended {
            match &mut state.waker {
                Some(old) => old.clone_from(waker),
                None => state.waker = Some(waker.clone()),
            }
        }
        state.ended
    }

    /// Bytes that have arrived.
    pub(crate) fn done_bytes(&self) -> usize {
        self.state.lock().done_bytes
    }

    /// Why it was stopped, if it was.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state.lock().stopped.clone()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_cancels_ends_only_what_nobody_is_at() {
        let schedule = Schedule::new(1);
        assert!(schedule.enter());
        assert_eq!(schedule.claim(), Some(0));
        schedule.cancel();
        assert!(!schedule.close_unattended());
        assert!(schedule.leave(), "whoever was at it ends it");
        assert!(!schedule.close_unattended());

        let schedule = Schedule::new(1);
        schedule.cancel();
        assert!(schedule.close_unattended());
        assert!(!schedule.close_unattended());
        assert!(!schedule.enter());
    }
}
