//! Triton's functions, found once, and its errors in both directions.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;
use std::sync::OnceLock;

use weldpool_triton_sys as sys;

use super::text;
use crate::error::{Error, ErrorCode, Result};

/// Triton's functions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Api {
    pub(crate) core: sys::Core,
    pub(crate) backend: sys::Backend,
}

/// Finds Triton's functions, the first time.
///
/// # Errors
/// `Unsupported`, naming a function that this Triton does not have.
pub(crate) fn api() -> Result<&'static Api> {
    static API: OnceLock<Result<Api>> = OnceLock::new();
    API.get_or_init(|| {
        let library = sys::Library::of_process();
        let missing =
            |missing: sys::Missing| Error::new(ErrorCode::Unsupported, missing.to_string());
        Ok(Api {
            core: sys::Core::find(library).map_err(missing)?,
            backend: sys::Backend::find(library).map_err(missing)?,
        })
    })
    .as_ref()
    .map_err(Clone::clone)
}

/// Turns what a function of Triton's returned into a result. The error is deleted.
pub(crate) fn check(raw: *mut sys::Error) -> Result<()> {
    if raw.is_null() {
        return Ok(());
    }
    let Ok(api) = api() else {
        return Err(Error::internal("Triton returned an error"));
    };
    // SAFETY: the error is Triton's, and ours until it is deleted.
    let code = unsafe { (api.core.error_code)(raw) };
    // SAFETY: as above; the text lives as long as the error.
    let message = text::owned(unsafe { (api.core.error_message)(raw) });
    // SAFETY: the error is deleted once, and not used again.
    unsafe { (api.core.error_delete)(raw) };
    Err(Error::new(
        ErrorCode::of(code).unwrap_or(ErrorCode::Unknown),
        message,
    ))
}

/// Turns an error into one of Triton's, which whoever receives it deletes.
pub(crate) fn into_raw(error: &Error) -> *mut sys::Error {
    let message = text::c_string(error.message());
    match api() {
        // SAFETY: Triton copies the text, which ends with a zero.
        Ok(api) => unsafe { (api.core.error_new)(error.code().number(), message.as_ptr()) },
        Err(_) => raise_without_tables(error, &message),
    }
}

/// For a Triton that lacks some functions: making errors is among those that every one has.
fn raise_without_tables(error: &Error, message: &CString) -> *mut sys::Error {
    match sys::error_new(sys::Library::of_process()) {
        // SAFETY: as in `into_raw`.
        Some(error_new) => unsafe { error_new(error.code().number(), message.as_ptr()) },
        None => {
            // Whoever calls us is not Triton, and there is no other way to tell.
            eprintln!("metal_mps: {error}");
            ptr::null_mut()
        }
    }
}

/// Whether Triton logs lines of a level.
pub(crate) fn log_is_enabled(level: sys::LogLevel) -> bool {
    // SAFETY: takes a number, and touches nothing of ours.
    api().is_ok_and(|api| unsafe { (api.core.log_is_enabled)(level.number()) })
}

/// Writes a line to Triton's log.
pub(crate) fn log(level: sys::LogLevel, file: &str, line: u32, message: &str) {
    let Ok(api) = api() else {
        return;
    };
    let file = text::c_string(file);
    let message = text::c_string(message);
    let line = i32::try_from(line).unwrap_or_default();
    // SAFETY: both texts end with a zero, and Triton copies them.
    let told =
        unsafe { (api.core.log_message)(level.number(), file.as_ptr(), line, message.as_ptr()) };
    // There is no other place to tell of a log that fails.
    drop(check(told));
}
