//! The calls of os/log.h and os/signpost.h (macOS 10.14), one per function.
//!
//! The headers' macros end in `_os_signpost_emit_with_name_impl`, whose name and format must be constants in the section
//! `__oslogstring` of the image that `dso` names: only their place is recorded, and a reader finds the text there.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use super::message::{FORMAT, Message};
use crate::error::{Error, ErrorKind, Result};
use crate::profiling::SlowPath;

/// `OS_SIGNPOST_INTERVAL_BEGIN` and `OS_SIGNPOST_INTERVAL_END`.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Phase {
    Begin = 1,
    End = 2,
}

/// A log, which is never released (os/log.h: it lasts for the life of the process).
#[derive(Debug)]
pub(super) struct Log(NonNull<c_void>);

// SAFETY: logs are made to be used by all threads (os/log.h, "os_log_create": thread-safe).
unsafe impl Send for Log {}
// SAFETY: as for `Send`.
unsafe impl Sync for Log {}

impl Log {
    pub(super) fn create(subsystem: &CStr, category: &CStr) -> Result<Self> {
        // SAFETY: both end with a nul and are copied.
        let log = unsafe { os_log_create(subsystem.as_ptr(), category.as_ptr()) };
        NonNull::new(log)
            .map(Self)
            .ok_or_else(|| Error::new(ErrorKind::System, "os_log_create gave no log for signposts"))
    }

    /// Whether somebody records.
    pub(super) fn is_enabled(&self) -> bool {
        // SAFETY: the log is one.
        unsafe { os_signpost_enabled(self.0.as_ptr()) }
    }

    /// A number that no other interval of the log has.
    pub(super) fn new_id(&self) -> u64 {
        // SAFETY: the log is one.
        unsafe { os_signpost_id_generate(self.0.as_ptr()) }
    }

    pub(super) fn emit(&self, phase: Phase, id: u64, path: SlowPath, message: &Message) {
        let bytes = message.as_bytes();
        // SAFETY: the log is one; name and format are constants of this image, which `__dso_handle` names, in the section
        // that they have to be in; the message is encoded as the format says, and read during the call.
        unsafe {
            _os_signpost_emit_with_name_impl(
                (&raw const __dso_handle).cast(),
                self.0.as_ptr(),
                phase as u8,
                id,
                name(path),
                FORMAT_TEXT.as_ptr().cast(),
                bytes.as_ptr(),
                bytes.len() as u32,
            );
        }
    }
}

/// Constants where the system looks for them.
macro_rules! texts {
    ($($name:ident: $bytes:literal = $text:expr;)*) => {
        $(
            // SAFETY: the section has nothing but texts, and this is one.
            #[unsafe(link_section = "__TEXT,__oslogstring,cstring_literals")]
            static $name: [u8; $bytes] = with_nul($text);
        )*
    };
}

texts! {
    FORMAT_TEXT: 26 = FORMAT.as_bytes();
    GROWTH: 7 = SlowPath::Growth.name().as_bytes();
    REMAP: 6 = SlowPath::Remap.name().as_bytes();
    TRIM: 5 = SlowPath::Trim.name().as_bytes();
    COLLECTION: 11 = SlowPath::Collection.name().as_bytes();
    RECOVERY: 23 = SlowPath::Recovery.name().as_bytes();
    PRESSURE: 18 = SlowPath::Pressure.name().as_bytes();
    STAGED_COPY: 12 = SlowPath::StagedCopy.name().as_bytes();
    WAIT: 5 = SlowPath::Wait.name().as_bytes();
}

/// A text with a nul behind it, which fills the array.
const fn with_nul<const N: usize>(text: &[u8]) -> [u8; N] {
    assert!(text.len() + 1 == N);
    let mut bytes = [0; N];
    let mut index = 0;
    while index < text.len() {
        bytes[index] = text[index];
        index += 1;
    }
    bytes
}

fn name(path: SlowPath) -> *const c_char {
    let bytes: &[u8] = match path {
        SlowPath::Growth => &GROWTH,
        SlowPath::Remap => &REMAP,
        SlowPath::Trim => &TRIM,
        SlowPath::Collection => &COLLECTION,
        SlowPath::Recovery => &RECOVERY,
        SlowPath::Pressure => &PRESSURE,
        SlowPath::StagedCopy => &STAGED_COPY,
        SlowPath::Wait => &WAIT,
    };
    bytes.as_ptr().cast()
}

unsafe extern "C" {
    fn os_log_create(subsystem: *const c_char, category: *const c_char) -> *mut c_void;
    fn os_signpost_enabled(log: *mut c_void) -> bool;
    fn os_signpost_id_generate(log: *mut c_void) -> u64;
    fn _os_signpost_emit_with_name_impl(
        dso: *const c_void,
        log: *mut c_void,
        kind: u8,
        id: u64,
        name: *const c_char,
        format: *const c_char,
        buffer: *const u8,
        bytes: u32,
    );
    /// Made by the linker in each image.
    static __dso_handle: u8;
}
