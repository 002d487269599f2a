//! Texts of C in both directions.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};

/// A copy of a text that C gave; what is not UTF-8 is replaced. Null is the empty text.
pub(super) fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: texts that Triton gives end with a zero and live as long as the object they are of,
    // which the caller holds.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// The bytes of a text that C gave. Null is the empty text.
///
/// # Safety
/// The text ends with a zero and stays as it is for `'t`.
pub(super) unsafe fn borrowed<'t>(text: *const c_char) -> &'t [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// A text for C; what follows a zero is left out.
pub(super) fn c_string(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(&text[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_zeros_and_wrong_bytes() {
        assert_eq!(c_string("a\0b").to_bytes(), b"a");
        assert_eq!(owned(std::ptr::null()), "");
        assert_eq!(owned(c"gr\xfcn".as_ptr()), "gr\u{fffd}n");
    }
}
