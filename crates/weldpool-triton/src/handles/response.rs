//! `TRITONBACKEND_Response` and its outputs.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::mem::ManuallyDrop;
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
    #[allow(clippy::mut_from_ref, reason = "each call gives memory of its own")]
    pub(crate) fn add_output(
        &self,
        name: &CStr,
        data_type: sys::DataType,
        shape: &[i64],
        bytes: usize,
    ) -> Result<&mut [u8]> {
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
            return Ok(&mut []);
        }
        let what = || format!("the memory for output '{}'", name.to_string_lossy());
        check_host(memory, memory_id, what)?;
        if base.is_null() {
            return Err(Error::internal(format!("Triton did not give {}", what())));
        }
        // SAFETY: Triton gives so many bytes of the host's memory for this output alone, until the
        // response is sent or deleted, for neither of which it may be borrowed. It comes from
        // foreign code, for which any contents are as good as written.
        Ok(unsafe { std::slice::from_raw_parts_mut(base.cast::<u8>(), bytes) })
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
