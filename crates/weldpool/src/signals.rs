//! How far a queue has been signalled.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// The greatest value signalled on a queue. A signal's value is at most one more than the last.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Held from the submission of work until its signal, so that a fence covers exactly what was
    /// submitted before it. Nobody waits under it for the queue to go on: the queue's own work may want it.
    last: Mutex<u64>,
    /// The same for those who only look.
    now: AtomicU64,
    /// What it becomes if a signal is being made: work that somebody else submits after the device made
    /// it, and before its value is known here, must not be taken for covered by it.
    begun: AtomicU64,
}

impl Signals {
    /// The least value that is known to cover everything submitted so far. Never waits.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.begun.load(Ordering::Acquire) + 1
    }

    /// The greatest value known to be signalled. Never waits.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, u64> {
        self.last.lock()
    }

    /// The lock while there is room. `room` says whether there is, and waits for it when told to, which it is with the
    /// lock free.
    pub(crate) fn lock_with<E>(
        &self,
        mut room: impl FnMut(bool) -> Result<bool, E>,
    ) -> Result<MutexGuard<'_, u64>, E> {
        loop {
            room(true)?;
            let last = self.lock();
            if room(false)? {
                return Ok(last);
            }
        }
    }

    /// Signals under the lock until a value is covered: more than once, where a signal that was begun when the value was
    /// taken was refused. Returns what `signal` says when it refuses.
    pub(crate) fn cover<E>(
        &self,
        last: &mut u64,
        value: u64,
        mut signal: impl FnMut() -> Result<u64, E>,
    ) -> Result<(), E> {
        while *last < value {
            let before = *last;
            self.mark(last, &mut signal)?;
            if *last == before {
                // Whoever answers so has no further points.
                break;
            }
        }
        Ok(())
    }

    /// Signals under the lock. Returns what `signal` says.
    pub(crate) fn mark<E>(
        &self,
        last: &mut u64,
        signal: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, E> {
        // Whoever submits after the signal sees this, by the device's own order of the two.
        self.begun.store(*last + 1, Ordering::Relaxed);
        let signalled = signal();
        if let Ok(value) = signalled {
            *last = value;
        }
        self.begun.store(*last, Ordering::Release);
        self.now.store(*last, Ordering::Release);
        signalled
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// As where somebody frees in the order of a queue while a signal is made that fails.
    #[test]
    fn a_value_taken_while_a_signal_fails_is_covered_by_the_next_two() {
        let signals = Signals::default();
        let mut last = signals.lock();
        let mut taken = 0;
        let refused = signals.mark(&mut last, || {
            taken = signals.next();
            Err(())
        });
        assert_eq!((refused, taken, *last), (Err(()), 2, 0));
        let mut made = 0;
        let signal = || {
            made += 1;
            Ok::<_, ()>(made)
        };
        signals.cover(&mut last, taken, signal).unwrap();
        assert_eq!((*last, signals.last()), (2, 2));
        // A queue that has come to its end for good.
        signals.cover(&mut last, 5, || Ok::<_, ()>(2)).unwrap();
        assert_eq!(*last, 2);
    }
}
