//! Errors as objects: a code to act upon, and texts to read.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char};
use std::fmt;

use memory::trace::TraceError;
use memory::{Error, ErrorKind};

use crate::abi::guard::infallible;
use crate::abi::text::terminated;

/// The call is wrong: a null pointer, a number that no constant has, a wrong struct_size, a text that is no UTF-8.
pub const WELDPOOL_ERROR_INVALID_ARGUMENT: u32 = 1;
/// The request can never be satisfied as it stands: zero bytes, a bad alignment, a wrong range. Change it.
pub const WELDPOOL_ERROR_INVALID_REQUEST: u32 = 2;
/// A value of a configuration or an environment variable is wrong.
pub const WELDPOOL_ERROR_INVALID_CONFIG: u32 = 3;
/// The device has no memory left and everything idle was given back. Free something and try again.
pub const WELDPOOL_ERROR_OUT_OF_MEMORY: u32 = 4;
/// A limit that was set, or the device's largest segment, stands in the way although there may be memory.
pub const WELDPOOL_ERROR_LIMIT_EXCEEDED: u32 = 5;
/// This device, or this build, never offers what was asked.
pub const WELDPOOL_ERROR_UNSUPPORTED: u32 = 6;
/// Not now: work in flight, or another guard, holds the contents. Wait for it and try again.
pub const WELDPOOL_ERROR_BUSY: u32 = 7;
/// A wait ended before the work did.
pub const WELDPOOL_ERROR_TIMEOUT: u32 = 8;
/// The work was cancelled before its end.
pub const WELDPOOL_ERROR_CANCELLED: u32 = 9;
/// The device or queue is gone; every later call on it says the same.
pub const WELDPOOL_ERROR_DEVICE_LOST: u32 = 10;
/// The operating system or a driver refused a call for another reason.
pub const WELDPOOL_ERROR_SYSTEM: u32 = 11;
/// A mistake of the library's own, which it caught. Nothing is known of the objects that the call was given.
pub const WELDPOOL_ERROR_INTERNAL: u32 = 12;

/// An error, which belongs to the caller of the function that returned it and is not changed any more.
pub struct ErrorObject {
    code: u32,
    message: CString,
    advice: Option<CString>,
    os_error: i32,
    requested_bytes: u64,
}

/// What calls return; the error is on the heap because the caller gets it as it is.
pub(crate) type Result<T> = std::result::Result<T, Box<ErrorObject>>;

impl ErrorObject {
    fn new(code: u32, message: impl Into<Vec<u8>>) -> Box<Self> {
        Box::new(Self {
            code,
            message: terminated(message),
            advice: None,
            os_error: 0,
            requested_bytes: 0,
        })
    }

    /// The call is wrong.
    pub(crate) fn argument(message: impl Into<Vec<u8>>) -> Box<Self> {
        Self::new(WELDPOOL_ERROR_INVALID_ARGUMENT, message)
    }

    /// A pointer is null that must not be.
    pub(crate) fn null(name: &str) -> Box<Self> {
        Self::argument(format!("{name} is null"))
    }

    /// A panic was caught.
    pub(crate) fn panicked() -> Box<Self> {
        let text =
            "a panic inside Weldpool, which is a mistake of its own; its text is on standard error";
        Self::new(WELDPOOL_ERROR_INTERNAL, text)
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        self.message.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.code, self.message)
    }
}

fn code_of(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::InvalidRequest => WELDPOOL_ERROR_INVALID_REQUEST,
        ErrorKind::InvalidConfig => WELDPOOL_ERROR_INVALID_CONFIG,
        ErrorKind::OutOfMemory => WELDPOOL_ERROR_OUT_OF_MEMORY,
        ErrorKind::LimitExceeded => WELDPOOL_ERROR_LIMIT_EXCEEDED,
        ErrorKind::Unsupported => WELDPOOL_ERROR_UNSUPPORTED,
        ErrorKind::Busy => WELDPOOL_ERROR_BUSY,
        ErrorKind::Timeout => WELDPOOL_ERROR_TIMEOUT,
        ErrorKind::Cancelled => WELDPOOL_ERROR_CANCELLED,
        ErrorKind::DeviceLost => WELDPOOL_ERROR_DEVICE_LOST,
        // Kinds that come later are told apart by their text until they have a code.
        _ => WELDPOOL_ERROR_SYSTEM,
    }
}

impl From<&Error> for Box<ErrorObject> {
    fn from(error: &Error) -> Self {
        let mut object = ErrorObject::new(code_of(error.kind()), error.to_string());
        object.advice = error.advice().map(terminated);
        object.os_error = error.os_error().unwrap_or(0);
        object.requested_bytes = error.requested_bytes().unwrap_or(0) as u64;
        object
    }
}

impl From<Error> for Box<ErrorObject> {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<TraceError> for Box<ErrorObject> {
    fn from(error: TraceError) -> Self {
        Self::from(Error::from(error))
    }
}

/// The code, one of `WELDPOOL_ERROR_*`; 0 for null, which is success. A later version may have further codes.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_code(error: Option<&ErrorObject>) -> u32 {
    infallible(0, || error.map_or(0, |error| error.code))
}

/// What failed, where, why, and what to do, as UTF-8, for as long as the error lives; empty for null.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_message(error: Option<&ErrorObject>) -> *const c_char {
    infallible(c"".as_ptr(), || {
        error.map_or(c"".as_ptr(), |error| error.message.as_ptr())
    })
}

/// What to do about it, which the message ends with; null where that cannot be said. Lives as long as the error.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_advice(error: Option<&ErrorObject>) -> *const c_char {
    infallible(std::ptr::null(), || {
        let advice = error.and_then(|error| error.advice.as_ref());
        advice.map_or(std::ptr::null(), |advice| advice.as_ptr())
    })
}

/// The error number of the operating system (`errno`), 0 where it reported none.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_os_error(error: Option<&ErrorObject>) -> i32 {
    infallible(0, || error.map_or(0, |error| error.os_error))
}

/// Bytes that were requested, 0 where the error belongs to no request for memory.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_requested_bytes(error: Option<&ErrorObject>) -> u64 {
    infallible(0, || error.map_or(0, |error| error.requested_bytes))
}

/// Frees an error. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_error_free(error: Option<Box<ErrorObject>>) {
    infallible((), || drop(error));
}
