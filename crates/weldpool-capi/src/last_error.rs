//! What went wrong last, per thread.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CString, c_char};
#[cfg(target_os = "linux")]
use std::io::Write;
#[cfg(target_os = "linux")]
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(target_os = "linux")]
use crate::abi::text::terminated;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The text of the calling thread's last error, which ends with zero and is valid until the thread's next call
/// of this library; empty if there was none.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// Makes a call that must not unwind; a failure becomes the thread's last error, is printed to
/// standard error, and is `otherwise`.
#[cfg(target_os = "linux")]
pub(crate) fn guarded<T>(name: &str, otherwise: T, call: impl FnOnce() -> memory::Result<T>) -> T {
    let text = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a panic inside Weldpool, which is a mistake of its own".to_owned(),
    };
    // Callers such as PyTorch do not pass the reason on, and have no place for a log.
    let _closed = writeln!(std::io::stderr(), "weldpool: {name}: {text}");
    note(name, &text);
    otherwise
}

/// Makes a text the thread's last error.
#[cfg(target_os = "linux")]
pub(crate) fn note(name: &str, text: &str) {
    let _ending = LAST.try_with(|last| {
        *last.borrow_mut() = terminated(format!("{name}: {text}"));
    });
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::torch::{weldpool_torch_malloc, weldpool_torch_malloc_aligned};

    fn last() -> String {
        // SAFETY: the text ends with zero and stays until the next call.
        let text = unsafe { CStr::from_ptr(weldpool_last_error()) };
        text.to_string_lossy().into_owned()
    }

    #[test]
    fn a_zero_inside_a_text_does_not_end_it() {
        note("weldpool_torch_malloc", "one\0two");
        assert_eq!(last(), "weldpool_torch_malloc: one two");
    }

    #[test]
    fn a_null_pointer_always_has_its_own_reason() {
        let null = std::ptr::null_mut();
        assert_eq!(last(), "");
        // SAFETY: there is no such device, so no stream is looked at, here and below.
        assert!(unsafe { weldpool_torch_malloc(100, -1, null) }.is_null());
        assert!(last().contains("no device of this number"), "{}", last());
        // SAFETY: as above.
        assert!(unsafe { weldpool_torch_malloc(0, 0, null) }.is_null());
        assert!(last().contains("no bytes"), "{}", last());
        // SAFETY: as above.
        assert!(unsafe { weldpool_torch_malloc_aligned(100, 3, -1, null) }.is_null());
        assert!(
            last().starts_with("weldpool_torch_malloc_aligned: "),
            "{}",
            last()
        );
    }
}
