//! The calls of libdispatch. The functions with a context do for a handler; blocks would add nothing.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{NonNull, null};

use dispatch2::{
    _dispatch_source_type_memorypressure, DispatchObject, DispatchRetained, DispatchSource,
    dispatch_source_type_t,
};

use super::{Dispatch, Handler};
use crate::device::host::darwin;
use crate::error::{Error, ErrorKind, Result};

/// macOS.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct System;

/// A source of the system's.
#[derive(Debug)]
pub(crate) struct Source(DispatchRetained<DispatchSource>);

/// What the system hands to the handlers; goes with the cancellation handler.
struct Context {
    source: DispatchRetained<DispatchSource>,
    handler: Handler,
}

impl Dispatch for System {
    type Source = Source;

    fn create(&self, mask: usize, handler: Handler) -> Result<Source> {
        let source = create(mask)?;
        let context = Box::new(Context {
            source: source.clone(),
            handler,
        });
        set_context(&source, context);
        source.set_event_handler_f(happened);
        source.set_cancel_handler_f(ended);
        Ok(Source(source))
    }

    fn activate(&self, source: &Source) {
        source.0.activate();
    }

    fn cancel(&self, source: &Source) {
        source.0.cancel();
    }

    /// `kern.memorystatus_vm_pressure_level` has the bits of the events (xnu, bsd/kern/kern_memorystatus_notify.c).
    fn level(&self) -> Option<usize> {
        let level = darwin::sysctl_number(c"kern.memorystatus_vm_pressure_level").ok()?;
        usize::try_from(level).ok()
    }
}

/// A source of events about memory; those of `mask`, on a thread of default priority.
fn create(mask: usize) -> Result<DispatchRetained<DispatchSource>> {
    let kind = (&raw const _dispatch_source_type_memorypressure).cast_mut();
    // SAFETY: the kind is a constant of the library, whose sources have no handle; no queue is the default one.
    let source = unsafe { dispatch_source_create(kind, 0, mask, null()) };
    let source = NonNull::new(source).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "dispatch_source_create gave no source of memory pressure",
        )
    })?;
    // SAFETY: the call returns a reference that is ours (dispatch_source_create(3)).
    Ok(unsafe { DispatchRetained::from_raw(source) })
}

fn set_context(source: &DispatchSource, context: Box<Context>) {
    // SAFETY: the source is not active, so no handler reads its context yet; `ended` takes it back.
    unsafe { source.set_context(Box::into_raw(context).cast()) };
}

/// The event handler.
extern "C" fn happened(context: *mut c_void) {
    // SAFETY: the context is that of `set_context`, and stays until `ended`, which the system calls after the last call
    // of this function.
    let context = unsafe { &*context.cast::<Context>() };
    (context.handler)(context.source.data());
}

/// The cancellation handler.
extern "C" fn ended(context: *mut c_void) {
    // SAFETY: the context is that of `set_context`; the system calls this once, and no handler afterwards.
    drop(unsafe { Box::from_raw(context.cast::<Context>()) });
}

unsafe extern "C" {
    // dispatch2's own function panics where the system refuses.
    fn dispatch_source_create(
        kind: dispatch_source_type_t,
        handle: usize,
        mask: usize,
        queue: *const c_void,
    ) -> *mut DispatchSource;
}
