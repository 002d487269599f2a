//! Hands onnxruntime's log lines to `tracing`, under the target `onnxruntime`.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use std::panic::catch_unwind;

use ort_sys::{OrtLoggingFunction, OrtLoggingLevel};
use tracing::level_filters::LevelFilter;

use super::{one_line, text};

/// The least severe level worth asking the library for: what nobody listens to is not formatted.
pub(super) fn level() -> OrtLoggingLevel {
    match LevelFilter::current() {
        LevelFilter::TRACE => OrtLoggingLevel::ORT_LOGGING_LEVEL_VERBOSE,
        LevelFilter::DEBUG => OrtLoggingLevel::ORT_LOGGING_LEVEL_INFO,
        LevelFilter::INFO | LevelFilter::WARN => OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING,
        LevelFilter::ERROR => OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR,
        _ => OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL,
    }
}

/// The library's logging callback.
pub(super) fn callback() -> OrtLoggingFunction {
    // SAFETY: the enumeration is a C `int` on both sides; taken as one, a level that is newer than
    // the bindings is not undefined behaviour.
    unsafe { std::mem::transmute::<Log, OrtLoggingFunction>(log) }
}

type Log = unsafe extern "system" fn(
    *mut c_void,
    i32,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
);

/// # Safety
/// The strings are null or end with a zero byte, and live during the call.
unsafe extern "system" fn log(
    _param: *mut c_void,
    severity: i32,
    _category: *const c_char,
    session: *const c_char,
    _location: *const c_char,
    message: *const c_char,
) {
    // SAFETY: the caller promises it.
    let message = one_line(&unsafe { text(message) });
    // SAFETY: as above.
    let session = unsafe { text(session) };
    let is = |level: OrtLoggingLevel| severity == level as i32;
    // A subscriber that panics must not unwind into the library.
    let logged = catch_unwind(|| {
        if is(OrtLoggingLevel::ORT_LOGGING_LEVEL_VERBOSE) {
            tracing::trace!(target: "onnxruntime", session, "{message}");
        } else if is(OrtLoggingLevel::ORT_LOGGING_LEVEL_INFO) {
            tracing::debug!(target: "onnxruntime", session, "{message}");
        } else if is(OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING) {
            tracing::warn!(target: "onnxruntime", session, "{message}");
        } else {
            tracing::error!(target: "onnxruntime", session, "{message}");
        }
    });
    drop(logged);
}
