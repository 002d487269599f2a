//! `libtriton_identity.so`: the smallest complete Triton backend, one input answered as one output.
//!
//! The peer of the serving benchmark: it does what an ONNX `Identity` does and nothing else, so what is
//! measured around it is Triton itself. Any element type, shape and number of input buffers; host memory only.
//!
//! Triton loads the library and resolves the `TRITONBACKEND_*` and `TRITONSERVER_*` symbols in it from its own
//! process, so nothing is linked here. Ownership, as the API states it: a request belongs to the backend from a
//! successful `Execute` until its release; a response belongs to it until it is sent; an error handed to
//! `ResponseSend` stays the backend's.
#![allow(unsafe_code)]
#![cfg(target_os = "linux")]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// The API this file is written against; a server with another major or an older minor is refused.
const API_MAJOR: u32 = 1;
const API_MINOR: u32 = 4;

const ERROR_INTERNAL: u32 = 1;
const ERROR_INVALID_ARG: u32 = 3;
const ERROR_UNSUPPORTED: u32 = 5;

const MEMORY_CPU: u32 = 0;
const MEMORY_CPU_PINNED: u32 = 1;

const RESPONSE_COMPLETE_FINAL: u32 = 1;
const REQUEST_RELEASE_ALL: u32 = 1;

/// Opaque objects of the server, only ever handled by pointer.
macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        struct $name { _private: [u8; 0] }
    )* };
}

opaque! { ServerError Backend Instance Request Response Input Output }

/// What every API call returns: null on success, else an error the caller deletes.
type Status = *mut ServerError;

unsafe extern "C" {
    #[link_name = "TRITONSERVER_ErrorNew"]
    fn error_new(code: u32, message: *const c_char) -> Status;
    #[link_name = "TRITONSERVER_ErrorDelete"]
    fn error_delete(error: Status);

    #[link_name = "TRITONBACKEND_ApiVersion"]
    fn api_version(major: *mut u32, minor: *mut u32) -> Status;

    #[link_name = "TRITONBACKEND_RequestInputByIndex"]
    fn request_input(request: *mut Request, index: u32, input: *mut *mut Input) -> Status;
    #[link_name = "TRITONBACKEND_RequestOutputName"]
    fn request_output_name(request: *mut Request, index: u32, name: *mut *const c_char) -> Status;
    #[link_name = "TRITONBACKEND_RequestRelease"]
    fn request_release(request: *mut Request, flags: u32) -> Status;

    #[link_name = "TRITONBACKEND_InputProperties"]
    fn input_properties(
        input: *mut Input,
        name: *mut *const c_char,
        data_type: *mut u32,
        shape: *mut *const i64,
        rank: *mut u32,
        byte_size: *mut u64,
        buffer_count: *mut u32,
    ) -> Status;
    #[link_name = "TRITONBACKEND_InputBuffer"]
    fn input_buffer(
        input: *mut Input,
        index: u32,
        buffer: *mut *const c_void,
        byte_size: *mut u64,
        memory_type: *mut u32,
        memory_type_id: *mut i64,
    ) -> Status;

    #[link_name = "TRITONBACKEND_ResponseNew"]
    fn response_new(response: *mut *mut Response, request: *mut Request) -> Status;
    #[link_name = "TRITONBACKEND_ResponseOutput"]
    fn response_output(
        response: *mut Response,
        output: *mut *mut Output,
        name: *const c_char,
        data_type: u32,
        shape: *const i64,
        rank: u32,
    ) -> Status;
    #[link_name = "TRITONBACKEND_OutputBuffer"]
    fn output_buffer(
        output: *mut Output,
        buffer: *mut *mut c_void,
        byte_size: u64,
        memory_type: *mut u32,
        memory_type_id: *mut i64,
    ) -> Status;
    #[link_name = "TRITONBACKEND_ResponseSend"]
    fn response_send(response: *mut Response, flags: u32, error: Status) -> Status;

    #[link_name = "TRITONBACKEND_ModelInstanceReportStatistics"]
    fn report_statistics(
        instance: *mut Instance,
        request: *mut Request,
        success: bool,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> Status;
    #[link_name = "TRITONBACKEND_ModelInstanceReportBatchStatistics"]
    fn report_batch_statistics(
        instance: *mut Instance,
        batch_size: u64,
        exec_start_ns: u64,
        compute_start_ns: u64,
        compute_end_ns: u64,
        exec_end_ns: u64,
    ) -> Status;
}

/// An error owned by this library until it is returned to the server or dropped.
struct Failure(Status);

impl Failure {
    fn new(code: u32, message: &CStr) -> Self {
        // SAFETY: the message is a valid C string; the server copies it.
        Self(unsafe { error_new(code, message.as_ptr()) })
    }

    /// Gives the error to a caller that deletes it.
    fn into_raw(self) -> Status {
        let status = self.0;
        std::mem::forget(self);
        status
    }
}

impl Drop for Failure {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the server and nobody else deletes it.
        unsafe { error_delete(self.0) }
    }
}

/// Turns the server's convention (null is success) into a `Result`.
fn check(status: Status) -> Result<(), Failure> {
    if status.is_null() {
        Ok(())
    } else {
        Err(Failure(status))
    }
}

/// Nanoseconds on the clock the server's statistics use (CLOCK_MONOTONIC).
fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

fn is_host(memory_type: u32) -> bool {
    matches!(memory_type, MEMORY_CPU | MEMORY_CPU_PINNED)
}

/// What the server knows of the request's only input.
struct InputTensor {
    handle: *mut Input,
    data_type: u32,
    shape: *const i64,
    rank: u32,
    byte_size: u64,
    buffer_count: u32,
}

impl InputTensor {
    fn of(request: *mut Request) -> Result<Self, Failure> {
        let mut handle = ptr::null_mut();
        // SAFETY: the request is live (not released) and the out pointer valid.
        check(unsafe { request_input(request, 0, &mut handle) })?;
        let mut tensor = Self {
            handle,
            data_type: 0,
            shape: ptr::null(),
            rank: 0,
            byte_size: 0,
            buffer_count: 0,
        };
        // SAFETY: the input lives as long as its request; a null name pointer means "not wanted".
        check(unsafe {
            input_properties(
                handle,
                ptr::null_mut(),
                &mut tensor.data_type,
                &mut tensor.shape,
                &mut tensor.rank,
                &mut tensor.byte_size,
                &mut tensor.buffer_count,
            )
        })?;
        Ok(tensor)
    }

    /// Copies the input's buffers, which may be several, one after the other to `target`.
    ///
    /// # Safety
    /// `target` must be valid for writes of `self.byte_size` bytes and not overlap the input.
    unsafe fn copy_to(&self, target: *mut u8) -> Result<(), Failure> {
        let mut written = 0_u64;
        for index in 0..self.buffer_count {
            let mut source = ptr::null();
            let mut bytes = 0;
            let mut memory_type = MEMORY_CPU;
            let mut memory_type_id = 0;
            // SAFETY: the input is live, the index below its buffer count, the out pointers valid.
            check(unsafe {
                input_buffer(
                    self.handle,
                    index,
                    &mut source,
                    &mut bytes,
                    &mut memory_type,
                    &mut memory_type_id,
                )
            })?;
            if !is_host(memory_type) {
                return Err(Failure::new(
                    ERROR_UNSUPPORTED,
                    c"the input is not in host memory",
                ));
            }
            if bytes > self.byte_size - written {
                return Err(Failure::new(
                    ERROR_INTERNAL,
                    c"the input is longer than it says",
                ));
            }
            // SAFETY: `written` is below `byte_size`, so the sum stays inside the target.
            let place = unsafe { target.add(written as usize) };
            // SAFETY: the source holds `bytes` bytes, the target has that much room left, and the
            // server allocates outputs apart from inputs.
            unsafe { ptr::copy_nonoverlapping(source.cast::<u8>(), place, bytes as usize) };
            written += bytes;
        }
        if written == self.byte_size {
            Ok(())
        } else {
            Err(Failure::new(
                ERROR_INVALID_ARG,
                c"the input is shorter than it says",
            ))
        }
    }
}

/// Fills `response` with the request's input under the first requested output's name.
fn answer(request: *mut Request, response: *mut Response) -> Result<(), Failure> {
    let input = InputTensor::of(request)?;
    let mut name = ptr::null();
    // SAFETY: the request is live; the server lists every output when the client asked for none.
    check(unsafe { request_output_name(request, 0, &mut name) })?;
    let mut output = ptr::null_mut();
    // SAFETY: the response is not sent yet; name and shape live as long as the request.
    check(unsafe {
        response_output(
            response,
            &mut output,
            name,
            input.data_type,
            input.shape,
            input.rank,
        )
    })?;
    let mut buffer = ptr::null_mut();
    let mut memory_type = MEMORY_CPU;
    let mut memory_type_id = 0;
    // SAFETY: the output belongs to the response, which is not sent yet.
    check(unsafe {
        output_buffer(
            output,
            &mut buffer,
            input.byte_size,
            &mut memory_type,
            &mut memory_type_id,
        )
    })?;
    if !is_host(memory_type) {
        return Err(Failure::new(
            ERROR_UNSUPPORTED,
            c"the output is not in host memory",
        ));
    }
    // SAFETY: the server just gave `byte_size` bytes of host memory at `buffer`.
    unsafe { input.copy_to(buffer.cast::<u8>()) }
}

/// Answers one request with exactly one final response and reports whether it succeeded.
fn respond(request: *mut Request) -> bool {
    let mut response = ptr::null_mut();
    // SAFETY: the request is live and the out pointer valid.
    if check(unsafe { response_new(&mut response, request) }).is_err() {
        return false;
    }
    let result = answer(request, response);
    let error = result
        .as_ref()
        .err()
        .map_or(ptr::null_mut(), |failure| failure.0);
    // SAFETY: sending hands the response over; the error, if any, stays ours and is dropped below.
    let sent = check(unsafe { response_send(response, RESPONSE_COMPLETE_FINAL, error) });
    result.is_ok() && sent.is_ok()
}

/// Refuses a server whose API does not fit.
///
/// # Safety
/// Called by the server, once, with its backend object.
#[unsafe(export_name = "TRITONBACKEND_Initialize")]
unsafe extern "C" fn initialize(_backend: *mut Backend) -> Status {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both out pointers are valid.
    if let Err(failure) = check(unsafe { api_version(&mut major, &mut minor) }) {
        return failure.into_raw();
    }
    if major != API_MAJOR || minor < API_MINOR {
        return Failure::new(ERROR_UNSUPPORTED, c"the server's backend API does not fit")
            .into_raw();
    }
    ptr::null_mut()
}

/// Executes a batch: each request is answered, reported and released.
///
/// # Safety
/// Called by the server with `count` live requests, never twice at once for one instance.
#[unsafe(export_name = "TRITONBACKEND_ModelInstanceExecute")]
unsafe extern "C" fn execute(
    instance: *mut Instance,
    requests: *mut *mut Request,
    count: u32,
) -> Status {
    if requests.is_null() || count == 0 {
        return ptr::null_mut();
    }
    // SAFETY: the server passes `count` request pointers that stay readable during the call.
    let requests = unsafe { std::slice::from_raw_parts(requests, count as usize) };
    let batch_start = now_ns();
    for &request in requests {
        let start = now_ns();
        let success = respond(request);
        let end = now_ns();
        // Statistics and release are best effort: there is nobody left to tell.
        // SAFETY: the request is answered but not yet released; the times are in order.
        let _ =
            check(unsafe { report_statistics(instance, request, success, start, start, end, end) });
        // SAFETY: the request is live and not used again.
        let _ = check(unsafe { request_release(request, REQUEST_RELEASE_ALL) });
    }
    let batch_end = now_ns();
    // SAFETY: the instance is live during the call; the times are in order.
    let _ = check(unsafe {
        report_batch_statistics(
            instance,
            u64::from(count),
            batch_start,
            batch_start,
            batch_end,
            batch_end,
        )
    });
    ptr::null_mut()
}
