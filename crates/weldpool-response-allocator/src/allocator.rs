//! The allocator as its owner sees it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use weldpool_triton_sys::{self as sys, Library};

use crate::callbacks;
use crate::counters::Stats;
use crate::error::{Error, ErrorKind, Result};
use crate::functions::Functions;
use crate::options::Options;
use crate::source::Source;
use crate::state::State;

/// A `TRITONSERVER_ResponseAllocator` that serves outputs from pools.
///
/// One serves any number of requests, models and servers of a process. It has to live until each request that was
/// given it has had its last response; responses may outlive it, and Triton's object is deleted with the last.
#[derive(Debug)]
pub struct ResponseAllocator {
    // In a box, since Triton is given the address.
    state: Box<Arc<State>>,
}

impl ResponseAllocator {
    /// Makes one with the functions of the Triton that this process has loaded.
    ///
    /// # Errors
    /// `Missing` where there is no Triton, `InvalidArgument` for no source or more than 64, `Triton` with what
    /// that says.
    pub fn new(
        sources: impl IntoIterator<Item = Source>,
        options: &Options,
    ) -> Result<ResponseAllocator> {
        let functions = Functions::find(Library::of_process())?;
        ResponseAllocator::with_functions(functions, sources, options)
    }

    /// Makes one with the functions of a certain Triton.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_functions(
        functions: Functions,
        sources: impl IntoIterator<Item = Source>,
        options: &Options,
    ) -> Result<ResponseAllocator> {
        let state = State::new(functions, sources, options)?;
        Ok(ResponseAllocator {
            state: Box::new(Arc::new(state)),
        })
    }

    /// Triton's object: the argument `response_allocator` of
    /// `TRITONSERVER_InferenceRequestSetResponseCallback`. It stays this allocator's.
    #[must_use]
    pub fn as_ptr(&self) -> *mut sys::ResponseAllocator {
        self.state.handle.0.as_ptr()
    }

    /// The argument `response_allocator_userp` of the same function. No other pointer may be passed there.
    #[must_use]
    pub fn user_pointer(&self) -> *mut c_void {
        std::ptr::from_ref::<Arc<State>>(&self.state)
            .cast_mut()
            .cast()
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.counters.stats()
    }

    /// Where its memory comes from, as it was listed.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.state.sources()
    }
}

/// Triton's object, deleted with the allocator and the last buffer of it.
#[derive(Debug)]
pub(crate) struct Handle(NonNull<sys::ResponseAllocator>, Functions);

// SAFETY: Triton's object is a record of functions that never changes once it is made; any thread may pass it on or
// delete it.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(crate) fn new(functions: Functions) -> Result<Handle> {
        let allocator =
            functions.new_allocator(callbacks::alloc, callbacks::release, callbacks::start)?;
        let allocator = NonNull::new(allocator)
            .ok_or_else(|| Error::new(ErrorKind::Triton, "Triton made no response allocator"))?;
        let handle = Handle(allocator, functions);
        // SAFETY: just made.
        unsafe {
            functions.set_functions(
                handle.0.as_ptr(),
                callbacks::buffer_attributes,
                callbacks::query,
            )
        }?;
        Ok(handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `new`. No request uses it, which is the contract of `ResponseAllocator`, and no response,
        // since each buffer keeps it.
        if let Err(error) = unsafe { self.1.delete_allocator(self.0.as_ptr()) } {
            tracing::warn!(%error, "a response allocator was not deleted");
        }
    }
}
