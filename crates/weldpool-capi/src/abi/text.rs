//! Texts: in, out, and for the time of a call.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};

use super::guard::infallible;
use super::pointer::Place;
use crate::failure::{ErrorObject, Result};

/// Longest text that is read, in bytes.
const BYTES_MAX: usize = 1 << 16;

/// A text of the caller's that has to be there.
pub(crate) fn given<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    optional(text, name)?.ok_or_else(|| ErrorObject::null(name))
}

/// A text of the caller's, or null for none.
pub(crate) fn optional<'a>(text: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise: it ends with zero, and stays for the call.
    let text = unsafe { CStr::from_ptr(text) };
    if text.count_bytes() > BYTES_MAX {
        return Err(ErrorObject::argument(format!(
            "{name} is longer than {BYTES_MAX} bytes"
        )));
    }
    let text = text.to_str();
    text.map(Some)
        .map_err(|_| ErrorObject::argument(format!("{name} is no UTF-8")))
}

/// A text that ends with zero; a zero inside becomes a space.
pub(crate) fn terminated(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    for byte in &mut bytes {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    CString::new(bytes).unwrap_or_default()
}

/// Gives the caller a text to own.
pub(crate) fn give(place: &Place<*mut c_char>, text: String) {
    place.put_with(|| terminated(text).into_raw());
}

/// Frees a text that a function of this library returned through a `char **`. Null is ignored. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_string_free(text: *mut c_char) {
    infallible((), || drop(taken(text)));
}

/// A text that `give` gave.
fn taken(text: *mut c_char) -> Option<CString> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise: it came from `give`, and is freed once.
    Some(unsafe { CString::from_raw(text) })
}
