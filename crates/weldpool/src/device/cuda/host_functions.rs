//! Functions of ours that streams call.
//!
//! The driver calls those of all streams from one thread of its own, passes a number on to them, and calls none
//! any more once the context is lost. So they are kept here by number: what will never be called can be
//! dropped.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

type Function = Box<dyn FnOnce() + Send>;

/// Functions that were not called yet, with the number of the context they belong to.
static PENDING: Mutex<Option<HashMap<usize, (u64, Function)>>> = Mutex::new(None);
/// Functions that run now.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is the driver's, inside a function of ours: it must not call the driver
/// (`cuLaunchHostFunc`).
pub(super) fn is_inside() -> bool {
    INSIDE.try_with(Cell::get).unwrap_or(false)
}

/// Whether any function runs.
pub(super) fn any_runs() -> bool {
    RUNNING.load(Ordering::Acquire) > 0
}

/// Keeps a function; its number is what [`call_back`] has to be given.
pub(super) fn put(context: u64, function: Function) -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
    let mut pending = PENDING.lock();
    pending
        .get_or_insert_default()
        .insert(number, (context, function));
    number
}

/// Takes a function out, uncalled.
pub(super) fn take(number: usize) -> Option<Function> {
    let taken = PENDING.lock().as_mut()?.remove(&number);
    taken.map(|(_, function)| function)
}

/// Drops the functions of a context that is lost, on a thread of its own: whoever finds it lost may hold locks that
/// what the functions own wants when it is dropped.
pub(super) fn forget(context: u64) {
    let mut pending = PENDING.lock();
    let forgotten: Vec<_> = pending
        .iter_mut()
        .flat_map(|pending| pending.extract_if(|_, (of, _)| *of == context))
        .collect();
    drop(pending);
    if forgotten.is_empty() {
        return;
    }
    // Without a thread they stay.
    let forgotten = ManuallyDrop::new(forgotten);
    let dropping = std::thread::Builder::new()
        .name("weldpool-lost".into())
        .spawn(move || drop(ManuallyDrop::into_inner(forgotten)));
    if let Err(error) = dropping {
        tracing::error!(%error, "what functions of a lost context own is kept for the life of the process");
    }
}

/// What the driver calls, with the number of a function.
pub(super) unsafe extern "C" fn call_back(argument: *mut c_void) {
    // Counted before it is taken: whoever finds the context lost waits for it, or it finds nothing.
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let called = catch_unwind(AssertUnwindSafe(|| {
        if let Some(function) = take(argument.addr()) {
            INSIDE.set(true);
            function();
        }
    }));
    let _ending = INSIDE.try_with(|inside| inside.set(false));
    RUNNING.fetch_sub(1, Ordering::AcqRel);
    if called.is_err() {
        tracing::error!("a host function on a queue panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::sync::Arc;

    /// Takes a lock when it is dropped.
    struct Locks(Arc<Mutex<()>>);

    impl Drop for Locks {
        fn drop(&mut self) {
            drop(self.0.lock());
        }
    }

    #[test]
    fn what_is_forgotten_is_dropped_while_the_caller_holds_locks() {
        let lock = Arc::new(Mutex::new(()));
        let (dropped, seen) = channel::<()>();
        let locks = Locks(Arc::clone(&lock));
        let (context, other) = (u64::MAX, u64::MAX - 1);
        let kept = put(other, Box::new(|| ()));
        put(context, Box::new(move || drop((locks, dropped))));
        let held = lock.lock();
        forget(context);
        drop(held);
        // The sender goes, and says nothing, when the function is dropped uncalled.
        let end = seen.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
        assert!(take(kept).is_some(), "of another context");
    }
}
