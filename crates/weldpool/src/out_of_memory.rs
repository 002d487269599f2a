//! What an allocator tries before it says that memory is out, and whom it asks.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::device::StorageMode;
use crate::error::{Error, ErrorKind, Result};
use crate::moment::LastMoment;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Callbacks that one allocator takes.
const CALLBACKS_MAX: usize = 64;

/// One thing an allocator does when neither the device nor its limit allows more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RecoveryStep {
    /// Blocks that threads and size classes keep return to their arenas, where neighbours join.
    FlushCaches,
    /// Memory whose work is over becomes free.
    CollectFences,
    /// Everything idle goes back to the device, so that it can be had in another form.
    ReturnIdle,
    /// Memory pressure is assessed, whose callbacks may free something, and the collecting thread woken.
    AssessPressure,
    /// Work in flight may end within [`Config::wait_max`](crate::Config::wait_max).
    AwaitWork,
    /// Whoever registered for it is asked to free something; see
    /// [`Allocator::on_out_of_memory`](crate::Allocator::on_out_of_memory).
    AskCallbacks,
}

impl RecoveryStep {
    /// All steps, in the order in which they are taken.
    pub const ALL: [Self; 6] = [
        Self::FlushCaches,
        Self::CollectFences,
        Self::ReturnIdle,
        Self::AssessPressure,
        Self::AwaitWork,
        Self::AskCallbacks,
    ];

    /// Lower-case name with hyphens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FlushCaches => "flush-caches",
            Self::CollectFences => "collect-fences",
            Self::ReturnIdle => "return-idle",
            Self::AssessPressure => "assess-pressure",
            Self::AwaitWork => "await-work",
            Self::AskCallbacks => "ask-callbacks",
        }
    }
}

/// How often memory was out, and what helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OutOfMemoryStats {
    /// Requests for which neither the device nor the limit allowed more memory.
    pub events: u64,
    /// Times each step was taken, in the order of [`RecoveryStep::ALL`].
    pub taken: [u64; RecoveryStep::ALL.len()],
    /// Requests that each step let succeed.
    pub resolved: [u64; RecoveryStep::ALL.len()],
    /// Requests that failed after all.
    pub failed: u64,
    /// Panics of callbacks that were caught.
    pub callback_panics: u64,
}

impl OutOfMemoryStats {
    /// Requests that a step let succeed.
    #[must_use]
    pub fn resolved_by(&self, step: RecoveryStep) -> u64 {
        self.resolved[step as usize]
    }
}

/// What was asked for, and how things stand, when everything else has been tried. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct OutOfMemory<'a> {
    /// What was asked for.
    pub requested_bytes: usize,
    /// At which alignment.
    pub alignment: usize,
    /// In which storage mode.
    pub storage: StorageMode,
    /// For what.
    pub name: &'static str,
    /// How often callbacks have been asked for this request, from 1.
    pub round: u32,
    /// What the device, or the limit, said first.
    pub error: &'a Error,
    /// Requested by users and not yet freed.
    pub live_bytes: u64,
    /// Held from the driver and idle.
    pub cached_bytes: u64,
    /// Held from the driver.
    pub reserved_bytes: u64,
    /// The most that may be held, where there is a limit.
    pub limit_bytes: Option<u64>,
    /// The largest free range.
    pub largest_free_bytes: u64,
}

/// What a callback has to say about memory being out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recourse {
    /// Something was freed, or a limit raised: try again.
    Retry,
    /// Nothing can be done.
    GiveUp,
}

/// Asked when memory is out.
#[derive(Clone)]
pub struct OutOfMemoryHandler(Arc<dyn Fn(&OutOfMemory<'_>) -> Recourse + Send + Sync>);

impl OutOfMemoryHandler {
    /// Wraps a function. It runs on the thread whose request found no memory, with no lock held, and
    /// may free and allocate; for a request of its own that finds no memory nobody is asked. A panic in
    /// it is caught, logged and counts as giving up.
    pub fn new(handler: impl Fn(&OutOfMemory<'_>) -> Recourse + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }

    pub(crate) fn call(&self, event: &OutOfMemory<'_>) -> Recourse {
        (self.0)(event)
    }
}

impl fmt::Debug for OutOfMemoryHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutOfMemoryHandler(..)")
    }
}

/// Keeps a callback registered until it is dropped.
#[derive(Debug)]
#[must_use = "the callback is forgotten when this is dropped"]
pub struct OutOfMemoryCallback {
    callbacks: Arc<Callbacks>,
    number: u64,
}

impl Drop for OutOfMemoryCallback {
    fn drop(&mut self) {
        let mut list = self.callbacks.list.lock();
        let removed = list.iter().position(|(number, _)| *number == self.number);
        let removed = removed.map(|index| list.remove(index));
        // What the callback owns is dropped outside the lock.
        drop(list);
        drop(removed);
    }
}

/// The callbacks of one allocator, in the order of their registration.
#[derive(Debug, Default)]
pub(crate) struct Callbacks {
    list: Mutex<Vec<(u64, OutOfMemoryHandler)>>,
    next: AtomicU64,
}

impl Callbacks {
    pub(crate) fn add(
        self: &Arc<Self>,
        handler: OutOfMemoryHandler,
    ) -> Result<OutOfMemoryCallback> {
        let mut list = self.list.lock();
        if list.len() >= CALLBACKS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "an allocator takes at most 64 callbacks for when memory is out",
            ));
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        list.push((number, handler));
        Ok(OutOfMemoryCallback {
            callbacks: Arc::clone(self),
            number,
        })
    }

    /// The callbacks, so that they run with no lock held.
    pub(crate) fn all(&self) -> Vec<OutOfMemoryHandler> {
        let list = self.list.lock();
        list.iter().map(|(_, handler)| handler.clone()).collect()
    }
}

/// Counts for [`OutOfMemoryStats`].
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    events: AtomicU64,
    last: LastMoment,
    taken: [AtomicU64; RecoveryStep::ALL.len()],
    resolved: [AtomicU64; RecoveryStep::ALL.len()],
    failed: AtomicU64,
    panics: AtomicU64,
}

impl Ledger {
    pub(crate) fn begun(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.last.note();
    }

    /// How long ago memory was out last.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.last.age()
    }

    pub(crate) fn taken(&self, step: RecoveryStep) {
        self.taken[step as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn resolved(&self, step: RecoveryStep) {
        self.resolved[step as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> OutOfMemoryStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutOfMemoryStats {
            events: load(&self.events),
            taken: std::array::from_fn(|step| load(&self.taken[step])),
            resolved: std::array::from_fn(|step| load(&self.resolved[step])),
            failed: load(&self.failed),
            callback_panics: load(&self.panics),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_in_their_order() {
        for (index, step) in RecoveryStep::ALL.into_iter().enumerate() {
            assert_eq!(step as usize, index);
        }
    }

    #[test]
    fn callbacks_are_bounded_and_forgotten() {
        let callbacks = Arc::<Callbacks>::default();
        let handler = OutOfMemoryHandler::new(|_| Recourse::GiveUp);
        let mut kept: Vec<_> = (0..CALLBACKS_MAX)
            .map(|_| callbacks.add(handler.clone()).unwrap())
            .collect();
        let error = callbacks.add(handler.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        drop(kept.swap_remove(3));
        assert_eq!(callbacks.all().len(), CALLBACKS_MAX - 1);
        let _again = callbacks.add(handler).unwrap();
        drop(kept);
        assert_eq!(callbacks.all().len(), 1);
    }
}
