//! Copies and allocations to wait for, by any executor or by blocking.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::job::{Copied, Job};
use super::options::CopyProgress;
use super::place::Owned;
use super::workers::{Group, Work, Workers};
use crate::allocator::Allocator;
use crate::buffer::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::sync::{Arc, Condvar, Mutex};

/// What became of a copy, and both of its sides. Its `Debug` has their lengths, not their contents.
#[non_exhaustive]
pub struct Outcome<S, D> {
    /// Where it came from, as it was.
    pub source: S,
    /// Where it went to.
    pub destination: D,
    /// What was copied; [`Cancelled`](crate::ErrorKind::Cancelled) where the copy was cancelled before its end.
    pub result: Result<Copied>,
    /// Bytes that arrived: all of them; after a cancellation the first so many, in the order of the source, and the
    /// rest of the destination as it was; after another error any.
    pub copied_bytes: usize,
}

impl<S: Owned, D: Owned> fmt::Debug for Outcome<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("source", &format_args!("{} bytes", self.source.bytes()))
            .field(
                "destination",
                &format_args!("{} bytes", self.destination.bytes()),
            )
            .field("result", &self.result)
            .field("copied_bytes", &self.copied_bytes)
            .finish()
    }
}

/// A copy under way.
///
/// It goes on whether the future is polled or not. Dropping the future cancels it: chunks that were begun are
/// finished by the threads that have them, then both sides are dropped. [`cancel`](Self::cancel) does the same
/// and lets the future end with both sides in a known state.
#[must_use = "dropping the future cancels the copy"]
pub struct CopyFuture<S: Owned, D: Owned> {
    state: State<S, D>,
}

enum State<S: Owned, D: Owned> {
    Working {
        job: Arc<Job>,
        /// The sides, which the threads that work on the copy have to find alive.
        sides: Option<Box<(S, D)>>,
    },
    Failed(Option<(Error, Box<(S, D)>)>),
}

impl<S: Owned, D: Owned> CopyFuture<S, D> {
    pub(super) fn new(job: &Arc<Job>, sides: Box<(S, D)>) -> Self {
        Self {
            state: State::Working {
                job: Arc::clone(job),
                sides: Some(sides),
            },
        }
    }

    pub(super) fn failed(error: Error, sides: Box<(S, D)>) -> Self {
        Self {
            state: State::Failed(Some((error, sides))),
        }
    }

    /// Lets no further chunk be begun. The future is ready as soon as those under way have arrived.
    pub fn cancel(&self) {
        if let State::Working { job, .. } = &self.state {
            job.cancel();
        }
    }

    /// How far the copy has come.
    #[must_use]
    pub fn progress(&self) -> CopyProgress {
        match &self.state {
            State::Working { job, .. } => job.progress(),
            State::Failed(_) => CopyProgress {
                done_bytes: 0,
                total_bytes: 0,
            },
        }
    }

    /// Blocks until the copy has ended, and helps with it: this thread comes on top of
    /// [`CopierConfig::threads_max`](super::CopierConfig::threads_max). It does not help in a function that a queue
    /// calls, where the driver must not be called from there, nor ever end there if the copy waits for what that
    /// function holds up. None if the future was polled to its end before.
    #[must_use]
    pub fn wait(mut self) -> Option<Outcome<S, D>> {
        if let State::Working { job, .. } = &self.state {
            if job.may_help() {
                job.help();
            }
            job.schedule().wait();
        }
        self.take()
    }

    /// The outcome, once the copy has ended.
    fn take(&mut self) -> Option<Outcome<S, D>> {
        match &mut self.state {
            State::Working { job, sides } => {
                let (source, destination) = *sides.take()?;
                Some(Outcome {
                    source,
                    destination,
                    result: job.outcome(),
                    copied_bytes: job.progress().done_bytes,
                })
            }
            State::Failed(failed) => {
                let (error, sides) = failed.take()?;
                let (source, destination) = *sides;
                Some(Outcome {
                    source,
                    destination,
                    result: Err(error),
                    copied_bytes: 0,
                })
            }
        }
    }
}

impl<S: Owned, D: Owned> fmt::Debug for CopyFuture<S, D> {
    /// Without the sides, which may be changing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyFuture")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

/// Ready when the copy has ended. Polled again after that it stays pending.
impl<S: Owned, D: Owned> Future for CopyFuture<S, D> {
    type Output = Outcome<S, D>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let State::Working { job, .. } = &this.state
            && !job.schedule().poll(context.waker())
        {
            return Poll::Pending;
        }
        match this.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<S: Owned, D: Owned> Drop for CopyFuture<S, D> {
    fn drop(&mut self) {
        if let State::Working { job, sides } = &mut self.state
            && let Some(sides) = sides.take()
        {
            // A thread that is at it drops them with the job.
            job.keep(sides);
            job.cancel();
        }
    }
}

/// An allocation under way; see [`Copier::allocate_async`](super::Copier::allocate_async).
#[derive(Debug)]
#[must_use = "dropping the future gives the buffer back"]
pub struct AllocateFuture {
    allocation: Arc<Allocation>,
}

struct Allocation {
    allocator: Allocator,
    request: Request<'static>,
    state: Mutex<Allocated>,
    changed: Condvar,
}

impl fmt::Debug for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allocation")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Allocated {
    ended: bool,
    given_up: bool,
    outcome: Option<Result<Buffer>>,
    waker: Option<Waker>,
}

impl Allocation {
    fn end(&self, outcome: Result<Buffer>) {
        let mut state = self.state.lock();
        state.ended = true;
        if state.given_up {
            drop(state);
            drop(outcome);
            return;
        }
        state.outcome = Some(outcome);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Work for Allocation {
    fn work(self: Arc<Self>, _group: &Arc<Group>) {
        if self.state.lock().given_up {
            return;
        }
        let allocate = || self.allocator.allocate_with(&self.request);
        // Whoever waits must not wait for a thread that is gone.
        let outcome = catch_unwind(AssertUnwindSafe(allocate)).unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::System,
                "a device or a callback panicked while memory was obtained",
            ))
        });
        self.end(outcome);
    }
}

impl AllocateFuture {
    pub(super) fn begin(
        allocator: &Allocator,
        request: Request<'static>,
        workers: &Workers,
    ) -> Self {
        let allocation = Arc::new(Allocation {
            allocator: allocator.clone(),
            request,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        match allocator.pool().allocate_warm(&request) {
            Some(buffer) => allocation.end(Ok(buffer)),
            None => {
                let work: Arc<dyn Work> = allocation.clone();
                if let Err(error) = workers.give(&work, 1) {
                    allocation.end(Err(error));
                }
            }
        }
        Self { allocation }
    }

    /// Blocks until the buffer is there. None if the future was polled to its end before.
    #[must_use]
    pub fn wait(self) -> Option<Result<Buffer>> {
        let mut state = self.allocation.state.lock();
        while !state.ended {
            let woken = self.allocation.changed.wait(state);
            state = woken.unwrap_or_else(|poison| poison.into_inner());
        }
        state.outcome.take()
    }
}

/// Ready when the buffer is there, or cannot be had. Polled again after that it stays pending.
impl Future for AllocateFuture {
    type Output = Result<Buffer>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.allocation.state.lock();
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        match &mut state.waker {
            Some(old) => old.clone_from(context.waker()),
            None => state.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for AllocateFuture {
    fn drop(&mut self) {
        let mut state = self.allocation.state.lock();
        state.given_up = true;
        let outcome = state.outcome.take();
        drop(state);
        drop(outcome);
    }
}
