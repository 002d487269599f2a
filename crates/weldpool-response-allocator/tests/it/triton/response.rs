//! Responses and their outputs.
#![allow(unsafe_code)]

use std::ptr;

use weldpool_response_allocator::{MemoryType, Place};
use weldpool_triton_sys as sys;

use super::{Server, Told, text};

/// A response, deleted when it is dropped: then its buffers are released.
#[derive(Debug)]
pub(crate) struct Response {
    server: &'static Server,
    response: *mut sys::InferenceResponse,
}

// SAFETY: any thread may read and delete a response.
unsafe impl Send for Response {}

/// An output of a response.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    pub(crate) name: String,
    /// Its contents, where the host reads them.
    pub(crate) bytes: &'a [u8],
    pub(crate) address: *const u8,
    pub(crate) place: Place,
    /// What the allocator attached to the buffer.
    pub(crate) userp: *const u8,
}

impl Response {
    pub(super) fn new(server: &'static Server, response: *mut sys::InferenceResponse) -> Response {
        Response { server, response }
    }

    /// What the response says went wrong.
    pub(crate) fn error(&self) -> Told {
        // SAFETY: the response is live; the error stays its.
        let error = unsafe { (self.server.embedding.response_error)(self.response) };
        self.server.read(error)
    }

    /// Its outputs.
    pub(crate) fn outputs(&self) -> Vec<Output<'_>> {
        self.error().unwrap();
        let mut count = 0;
        let api = &self.server.embedding;
        // SAFETY: the response is live.
        self.server
            .check(unsafe { (api.response_output_count)(self.response, &mut count) })
            .unwrap();
        (0..count).map(|index| self.output(index)).collect()
    }

    /// The only output.
    pub(crate) fn only(&self) -> Output<'_> {
        let mut outputs = self.outputs();
        assert_eq!(outputs.len(), 1);
        outputs.remove(0)
    }

    fn output(&self, index: u32) -> Output<'_> {
        let (mut name, mut shape, mut base) = (ptr::null(), ptr::null(), ptr::null());
        let (mut data_type, mut dimensions, mut bytes) = (0, 0, 0);
        let (mut memory_type, mut id, mut userp) = (0, 0, ptr::null_mut());
        // SAFETY: the response is live, and all places are there.
        let told = unsafe {
            (self.server.embedding.response_output)(
                self.response,
                index,
                &mut name,
                &mut data_type,
                &mut shape,
                &mut dimensions,
                &mut base,
                &mut bytes,
                &mut memory_type,
                &mut id,
                &mut userp,
            )
        };
        self.server.check(told).unwrap();
        let place = Place {
            memory_type: MemoryType::of(memory_type).unwrap(),
            id,
        };
        let is_readable = place.memory_type != MemoryType::Gpu && bytes > 0;
        Output {
            name: text(name),
            bytes: if is_readable {
                // SAFETY: so many bytes of the host's memory, which the backend has written, until the response is
                // deleted.
                unsafe { std::slice::from_raw_parts(base.cast(), bytes) }
            } else {
                &[]
            },
            address: base.cast(),
            place,
            userp: userp.cast(),
        }
    }
}

impl Drop for Response {
    fn drop(&mut self) {
        // SAFETY: deleted once.
        let told = unsafe { (self.server.embedding.response_delete)(self.response) };
        let told = self.server.check(told);
        if !std::thread::panicking() {
            told.unwrap();
        }
    }
}
