//! The device's side of a fence.

use std::any::Any;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};

/// Between attempts at a wait that the driver refused.
const RETRY: Duration = Duration::from_millis(1);

/// An ascending count of the signals a queue has passed (Metal: a shared event's value; CUDA: the
/// number of the last event that completed).
pub trait Timeline: Any + Debug + Send + Sync {
    /// The greatest value passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost) when the queue died before reaching its end.
    fn completed(&self) -> Result<u64>;

    /// Blocks until `value` has passed or `timeout` is over; says whether it passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost) when the queue died before reaching it.
    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool>;
}

/// The timeline of a queue whose work is done by threads of this process.
#[derive(Debug, Default)]
pub(crate) struct SoftwareTimeline {
    completed: AtomicU64,
    lost: AtomicBool,
    gate: Mutex<()>,
    passed: Condvar,
}

impl SoftwareTimeline {
    /// Lets everybody see that the work before `value` is done.
    pub(crate) fn reach(&self, value: u64) {
        // Under the lock, so that a waiter cannot miss it between its check and its sleep.
        let _gate = self.gate.lock();
        self.completed.store(value, Ordering::Release);
        self.passed.notify_all();
    }

    /// Ends every wait with an error. No work of the queue may be running or run later.
    pub(super) fn lose(&self) {
        let _gate = self.gate.lock();
        self.lost.store(true, Ordering::Release);
        self.passed.notify_all();
    }

    /// The greatest value passed, whatever became of the queue.
    pub(super) fn reached(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }
}

impl Timeline for SoftwareTimeline {
    fn completed(&self) -> Result<u64> {
        if self.lost.load(Ordering::Acquire) {
            return Err(lost());
        }
        Ok(self.reached())
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        let deadline = deadline_in(timeout);
        let mut gate = self.gate.lock();
        while self.reached() < value {
            if self.lost.load(Ordering::Acquire) {
                return Err(lost());
            }
            match sleep(&self.passed, gate, deadline) {
                Some(woken) => gate = woken,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// When a timeout that begins now is over; never for none.
pub(super) fn deadline_in(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// Sleeps until woken; none once the deadline is over.
pub(super) fn sleep<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> Option<MutexGuard<'a, T>> {
    let Some(deadline) = deadline else {
        let woken = changed.wait(guard);
        return Some(woken.unwrap_or_else(|poison| poison.into_inner()));
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return None;
    }
    let woken = changed.wait_timeout(guard, left);
    Some(woken.unwrap_or_else(|poison| poison.into_inner()).0)
}

/// Waits, as a queue does for another, until a value has passed or never will. Where the driver does not tell, it is
/// asked again: work must not go on before what it waits for.
pub(super) fn wait_for_other(other: &Arc<dyn Timeline>, value: u64) {
    while let Err(error) = other.wait(value, None) {
        if error.kind() == ErrorKind::DeviceLost {
            // A lost queue has stopped, so its work cannot race with ours any more.
            tracing::warn!(%error, "a queue went on without the queue it waited for");
            return;
        }
        tracing::debug!(%error, "a queue asks again for the queue it waits for");
        std::thread::sleep(RETRY);
    }
}

fn lost() -> Error {
    Error::new(
        ErrorKind::DeviceLost,
        "the queue died before it came to this point",
    )
}
