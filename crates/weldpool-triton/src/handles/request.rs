//! `TRITONBACKEND_Request` and its inputs.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};

use weldpool_triton_sys as sys;

use super::api::{Api, api, check};
use super::instance::Instance;
use super::text;
use crate::clock::Ordered;
use crate::error::{Error, ErrorCode, Result};
use crate::few::{Few, Lone};

/// A request that is the backend's to answer. It is given back to Triton once: when told to, or
/// when the value is dropped.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) api: &'static Api,
    pub(super) raw: NonNull<sys::Request>,
}

impl Request {
    /// Takes over the requests of an execution. If this fails they are Triton's still.
    ///
    /// # Safety
    /// The pointers are to `count` requests that Triton hands over with the execution.
    pub(crate) unsafe fn take_all(
        requests: *mut *mut sys::Request,
        count: u32,
    ) -> Result<Lone<Request>> {
        let api = api()?;
        let count = usize::try_from(count).unwrap_or_default();
        if count == 0 {
            return Ok(Lone::new());
        }
        if requests.is_null() {
            return Err(Error::internal("Triton gave no requests"));
        }
        // SAFETY: Triton gives so many pointers, which are valid during the execution.
        let pointers = unsafe { std::slice::from_raw_parts(requests, count) };
        let pointers: Option<Lone<NonNull<sys::Request>>> =
            pointers.iter().map(|raw| NonNull::new(*raw)).collect();
        let pointers =
            pointers.ok_or_else(|| Error::internal("Triton gave a request that is null"))?;
        Ok(pointers
            .into_iter()
            .map(|raw| Request { api, raw })
            .collect())
    }

    /// The identifier that the client gave; empty if it gave none.
    pub(crate) fn id(&self) -> Result<String> {
        let mut id = ptr::null();
        // SAFETY: the request is ours, and `id` can be written.
        check(unsafe { (self.api.backend.request_id)(self.raw.as_ptr(), &raw mut id) })?;
        Ok(text::owned(id))
    }

    /// Whether the client has given the request up.
    pub(crate) fn is_cancelled(&self) -> Result<bool> {
        let mut cancelled = false;
        // SAFETY: the request is ours, and `cancelled` can be written.
        check(unsafe {
            (self.api.backend.request_is_cancelled)(self.raw.as_ptr(), &raw mut cancelled)
        })?;
        Ok(cancelled)
    }

    /// What another thread asks whether the request was given up.
    ///
    /// # Safety
    /// It is not used once the request was given back.
    pub(crate) unsafe fn watched(&self) -> Watched {
        Watched {
            api: self.api,
            raw: self.raw,
        }
    }

    /// How many inputs there are.
    pub(crate) fn input_count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: the request is ours, and `count` can be written.
        check(unsafe {
            (self.api.backend.request_input_count)(self.raw.as_ptr(), &raw mut count)
        })?;
        Ok(count)
    }

    /// One of the inputs, by its position.
    pub(crate) fn input(&self, index: u32) -> Result<Input<'_>> {
        let mut raw = ptr::null_mut();
        // SAFETY: the request is ours, and `raw` can be written.
        check(unsafe {
            (self.api.backend.request_input_by_index)(self.raw.as_ptr(), index, &raw mut raw)
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::internal("Triton gave no input"))?;
        Input::read(self.api, raw)
    }

    /// The names of the outputs that are wanted.
    pub(crate) fn wanted_outputs(&self) -> Result<Few<&[u8]>> {
        let mut count = 0;
        // SAFETY: the request is ours, and `count` can be written.
        check(unsafe {
            (self.api.backend.request_output_count)(self.raw.as_ptr(), &raw mut count)
        })?;
        (0..count)
            .map(|index| {
                let mut name = ptr::null();
                // SAFETY: the request is ours, and `name` can be written.
                check(unsafe {
                    (self.api.backend.request_output_name)(self.raw.as_ptr(), index, &raw mut name)
                })?;
                // SAFETY: Triton keeps the name as long as the request is ours.
                Ok(unsafe { text::borrowed(name) })
            })
            .collect()
    }

    /// Adds the request to the statistics.
    pub(crate) fn report(&self, instance: &Instance, success: bool, times: Ordered) -> Result<()> {
        // SAFETY: the instance is alive and the request ours.
        check(unsafe {
            (self.api.backend.report_statistics)(
                instance.raw.as_ptr(),
                self.raw.as_ptr(),
                success,
                times.exec_start,
                times.compute_start,
                times.compute_end,
                times.exec_end,
            )
        })
    }

    /// Gives the request back.
    pub(crate) fn release(self) -> Result<()> {
        ManuallyDrop::new(self).give_back()
    }

    fn give_back(&mut self) -> Result<()> {
        // SAFETY: the request is ours and not used again.
        check(unsafe {
            (self.api.backend.request_release)(self.raw.as_ptr(), sys::REQUEST_RELEASE_ALL)
        })
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::error!("a request could not be given back: {error}");
        }
    }
}

/// A request as another thread sees it.
#[derive(Debug)]
pub(crate) struct Watched {
    api: &'static Api,
    raw: NonNull<sys::Request>,
}

// SAFETY: whether a request was given up may be asked from any thread (`tritonbackend.h`: it is an atomic flag of the
// request's response factory).
unsafe impl Send for Watched {}

impl Watched {
    /// Whether the client has given the request up.
    pub(crate) fn is_cancelled(&self) -> bool {
        let mut cancelled = false;
        // SAFETY: the request is not given back, as `Request::watched` demands; `cancelled` can be written.
        let asked = check(unsafe {
            (self.api.backend.request_is_cancelled)(self.raw.as_ptr(), &raw mut cancelled)
        });
        asked.is_ok() && cancelled
    }
}

/// One input of a request.
#[derive(Clone, Debug)]
pub(crate) struct Input<'r> {
    api: &'static Api,
    raw: NonNull<sys::Input>,
    request: PhantomData<&'r Request>,
    /// Its name.
    pub(crate) name: &'r [u8],
    /// Triton's number of its element type.
    pub(crate) data_type: sys::Number,
    /// Its shape, with the batch dimension if the model is batched.
    pub(crate) shape: &'r [i64],
    /// The bytes that there are, in all of its buffers.
    pub(crate) byte_size: u64,
    buffers: u32,
}

impl<'r> Input<'r> {
    fn read(api: &'static Api, raw: NonNull<sys::Input>) -> Result<Input<'r>> {
        let mut name = ptr::null();
        let mut data_type = 0;
        let mut shape = ptr::null();
        let mut dims = 0;
        let mut byte_size = 0;
        let mut buffers = 0;
        // SAFETY: the input is the request's, and all places can be written.
        check(unsafe {
            (api.backend.input_properties)(
                raw.as_ptr(),
                &raw mut name,
                &raw mut data_type,
                &raw mut shape,
                &raw mut dims,
                &raw mut byte_size,
                &raw mut buffers,
            )
        })?;
        let shape = if dims == 0 || shape.is_null() {
            &[][..]
        } else {
            // SAFETY: Triton keeps so many dimensions as long as the request is ours.
            unsafe { std::slice::from_raw_parts(shape, usize::try_from(dims).unwrap_or_default()) }
        };
        Ok(Input {
            api,
            raw,
            request: PhantomData,
            // SAFETY: Triton keeps the name as long as the request is ours.
            name: unsafe { text::borrowed(name) },
            data_type,
            shape,
            byte_size,
            buffers,
        })
    }

    /// The memory that the input lies in, one piece after the other.
    ///
    /// # Errors
    /// `Unsupported` for memory of a GPU, which this backend does not read.
    pub(crate) fn pieces(&self) -> Result<Few<&'r [u8]>> {
        (0..self.buffers).map(|index| self.piece(index)).collect()
    }

    fn piece(&self, index: u32) -> Result<&'r [u8]> {
        let mut base = ptr::null();
        let mut len = 0;
        let mut memory = sys::MemoryType::Cpu.number();
        let mut memory_id = 0;
        // SAFETY: the input is the request's, and all places can be written.
        check(unsafe {
            (self.api.backend.input_buffer)(
                self.raw.as_ptr(),
                index,
                &raw mut base,
                &raw mut len,
                &raw mut memory,
                &raw mut memory_id,
            )
        })?;
        check_host(memory, memory_id, || {
            format!("input '{}'", String::from_utf8_lossy(self.name))
        })?;
        let len = usize::try_from(len)
            .map_err(|_| Error::internal("a buffer of an input is larger than memory"))?;
        if base.is_null() || len == 0 {
            return Ok(&[]);
        }
        // SAFETY: the host's memory, which Triton keeps unchanged as long as the request is ours.
        Ok(unsafe { std::slice::from_raw_parts(base.cast::<u8>(), len) })
    }
}

/// Refuses memory that the host does not reach.
pub(super) fn check_host(
    memory: sys::Number,
    memory_id: i64,
    what: impl FnOnce() -> String,
) -> Result<()> {
    match sys::MemoryType::of(memory) {
        Some(sys::MemoryType::Cpu | sys::MemoryType::CpuPinned) => Ok(()),
        Some(sys::MemoryType::Gpu) => Err(Error::new(
            ErrorCode::Unsupported,
            format!(
                "{} lies in memory of GPU {memory_id}, which metal_mps does not use: give it in \
                 the host's memory or in system shared memory",
                what()
            ),
        )),
        None => Err(Error::internal(format!(
            "{} lies in memory of a kind that is not known: {memory}",
            what()
        ))),
    }
}
