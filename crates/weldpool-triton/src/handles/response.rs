//! `TRITONBACKEND_Response` and its outputs.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::{self, NonNull};

use weldpool_triton_sys as sys;

use super::api::{Api, check, into_raw};
use super::request::{Request, check_host};
use crate::error::{Error, Result};

/// An answer under construction. It is sent once, or deleted when it is dropped.
#[derive(Debug)]
pub(crate) struct Response {
    api: &'static Api,
    raw: NonNull<sys::Response>,
}

impl Response {
    /// An answer to a request, without outputs.
    pub(crate) fn new(request: &Request) -> Result<Response> {
        let api = request.api;
        let mut raw = ptr::null_mut();
        // SAFETY: the request is ours, and `raw` can be written.
        check(unsafe { (api.backend.response_new)(&raw mut raw, request.raw.as_ptr()) })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no response"))?;
        Ok(Response { api, raw })
    }

    /// Adds an output and returns the memory that it is to be written to, which stays the output's
    /// until the response is sent.
    ///
    /// # Errors
    /// What the allocator of the response says; `Unsupported` if it gives memory of a GPU.
    pub(crate) fn add_output(
        &self,
        name: &CStr,
        data_type: sys::DataType,
        shape: &[i64],
        bytes: usize,
    ) -> Result<OutputMemory<'_>> {
        let dims = u32::try_from(shape.len())
            .map_err(|_| Error::internal("an output has too many dimensions"))?;
        let mut output = ptr::null_mut();
        // SAFETY: the response is ours; Triton copies the name, which ends with a zero, and the
        // shape, which has the length given; `output` can be written.
        check(unsafe {
            (self.api.backend.response_output)(
                self.raw.as_ptr(),
                &raw mut output,
                name.as_ptr(),
                data_type.number(),
                shape.as_ptr(),
                dims,
            )
        })?;
        let mut base = ptr::null_mut();
        let mut memory = sys::MemoryType::Cpu.number();
        let mut memory_id = 0;
        let len = u64::try_from(bytes).unwrap_or(u64::MAX);
        // SAFETY: the output was just made; all places can be written.
        check(unsafe {
            (self.api.backend.output_buffer)(
                output,
                &raw mut base,
                len,
                &raw mut memory,
                &raw mut memory_id,
            )
        })?;
        if bytes == 0 {
            return Ok(OutputMemory::EMPTY);
        }
        let what = || format!("the memory for output '{}'", name.to_string_lossy());
        check_host(memory, memory_id, what)?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| Error::internal(format!("Triton did not give {}", what())))?;
        Ok(OutputMemory {
            base,
            len: bytes,
            response: PhantomData,
        })
    }

    /// Sends the answer, which is the last one to its request.
    pub(crate) fn send(self, failure: Option<&Error>) -> Result<()> {
        let this = ManuallyDrop::new(self);
        let raw = failure.map_or(ptr::null_mut(), into_raw);
        // SAFETY: the response is ours and not used again, whatever comes of it.
        let sent = check(unsafe {
            (this.api.backend.response_send)(this.raw.as_ptr(), sys::RESPONSE_COMPLETE_FINAL, raw)
        });
        if !raw.is_null() {
            // SAFETY: Triton copies the error; it is ours still, and not used again.
            unsafe { (this.api.core.error_delete)(raw) };
        }
        sent
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        // SAFETY: the response is ours and not used again.
        if let Err(error) = check(unsafe { (self.api.backend.response_delete)(self.raw.as_ptr()) })
        {
            tracing::error!("a response could not be deleted: {error}");
        }
    }
}

/// The host's memory for one output of an answer.
///
/// A client that takes part in system shared memory says itself where its outputs lie: over its
/// inputs or over each other too, if it likes.
#[derive(Debug)]
pub(crate) struct OutputMemory<'r> {
    base: NonNull<u8>,
    len: usize,
    response: PhantomData<&'r Response>,
}

impl<'r> OutputMemory<'r> {
    const EMPTY: OutputMemory<'static> = OutputMemory {
        base: NonNull::dangling(),
        len: 0,
        response: PhantomData,
    };

    /// The addresses of its bytes.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr().addr();
        start..start.saturating_add(self.len)
    }

    /// Copies the output there. Bytes that the memory has no room for are left out, which is not to
    /// happen.
    pub(crate) fn write(self, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), self.len, "an output fills its memory");
        // SAFETY: Triton gives so many bytes of the host's memory until the response is sent, which
        // needs the response whose borrow this value holds; the ranges may overlap.
        unsafe {
            ptr::copy(
                bytes.as_ptr(),
                self.base.as_ptr(),
                self.len.min(bytes.len()),
            )
        };
    }

    /// The memory as a slice.
    ///
    /// # Safety
    /// No other slice over any byte of it is used as long as this one is.
    pub(crate) unsafe fn into_slice(self) -> &'r mut [u8] {
        // SAFETY: as for `write`; nobody else uses it, as the caller promises. It comes from foreign
        // code, for which any contents are as good as written.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}
