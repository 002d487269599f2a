//! References to what Metal counts, and the blocks that it is given.

#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use objc2::Message;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLSharedEventListener;

/// A counted reference to an object of Metal's, given back in an autorelease pool wherever that is.
pub(super) struct Counted<T: Message>(ManuallyDrop<Retained<T>>);

impl<T: Message> Counted<T> {
    pub(super) fn new(object: Retained<T>) -> Self {
        Self(ManuallyDrop::new(object))
    }
}

impl<T: Message> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Message> Drop for Counted<T> {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after the drop.
        autoreleasepool(|_| unsafe { ManuallyDrop::drop(&mut self.0) });
    }
}

impl<T: Message> fmt::Debug for Counted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}", Retained::as_ptr(&self.0))
    }
}

/// What any thread may use, and several at once.
///
/// # Safety
///
/// The documentation of the object's protocol or class says so, or Metal's programs rely on it.
pub(super) unsafe trait Shareable: Message {}

macro_rules! shareable {
    ($($protocol:ident)*) => {
        $(
            // SAFETY: devices, heaps, buffers, command queues, pipelines, events, fences and residency sets may be used from
            // any thread (documentation of each protocol).
            unsafe impl Shareable for ProtocolObject<dyn objc2_metal::$protocol> {}
        )*
    };
}

shareable! { MTLDevice MTLHeap MTLBuffer MTLCommandQueue MTLComputePipelineState MTLFence MTLResidencySet MTL4CommandQueue MTLSharedEvent }

// SAFETY: a listener is given to events from any thread, and is not changed (documentation of `MTLSharedEventListener`).
unsafe impl Shareable for MTLSharedEventListener {}

/// A reference to such an object.
pub(super) struct Shared<T: Message>(Counted<T>);

// SAFETY: what the trait says.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: what the trait says.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Message> Shared<T> {
    pub(super) fn new(object: Retained<T>) -> Self {
        Self(Counted::new(object))
    }
}

impl<T: Message> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self::new(Retained::clone(&self.0.0))
    }
}

impl<T: Message> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Message> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Calls what a block of Metal's is for, once, and lets no panic out of it: above it is no code of ours.
pub(super) struct Once<F>(Mutex<Option<F>>);

impl<F> Once<F> {
    pub(super) fn new(call: F) -> Self {
        Self(Mutex::new(Some(call)))
    }

    pub(super) fn with(&self, call: impl FnOnce(F)) {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(taken) = taken {
            // What panicked has been said by the panic hook.
            let _panicked = catch_unwind(AssertUnwindSafe(|| call(taken)));
        }
    }
}
