//! How far a queue has been signalled.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// Stands for the last value while the device makes the next signal.
const SIGNALLING: u64 = u64::MAX;

/// The greatest value signalled on a queue.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Held from the submission of work until its signal, so that a fence covers exactly what was
    /// submitted before it.
    last: Mutex<u64>,
    /// The same for those who only look, or [`SIGNALLING`]: work that somebody else submits after the
    /// device made a signal, and before its value is known here, must not be taken for covered by it.
    now: AtomicU64,
}

impl Signals {
    /// The least value that covers everything submitted so far.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.last() + 1
    }

    /// The greatest value signalled; waits while a signal is being made.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        match self.now.load(Ordering::Acquire) {
            SIGNALLING => *self.lock(),
            value => value,
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, u64> {
        self.last.lock()
    }

    /// Signals under the lock. Returns what `signal` says.
    pub(crate) fn mark<E>(
        &self,
        last: &mut u64,
        signal: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, E> {
        self.now.store(SIGNALLING, Ordering::Relaxed);
        let signalled = signal();
        if let Ok(value) = signalled {
            *last = value;
        }
        self.now.store(*last, Ordering::Release);
        signalled
    }
}
