//! Functions of ours that streams call.
//!
//! The driver calls those of all streams from one thread of its own, passes a number on to them, and calls none
//! any more once the context is lost. So they are kept here by number: what will never be called can be
//! dropped.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_void;
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

/// Drops the functions of a context that is lost.
pub(super) fn forget(context: u64) {
    let mut pending = PENDING.lock();
    let forgotten: Vec<_> = pending
        .iter_mut()
        .flat_map(|pending| pending.extract_if(|_, (of, _)| *of == context))
        .collect();
    drop(pending);
    drop(forgotten);
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
