//! What a function of the caller's is given, and what ends it.

#![allow(unsafe_code)]

use std::ffi::c_void;

/// Called once when a function that was passed in will not be called any more, on whichever thread that is.
pub type DestroyFunction = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

/// The pointer that a function of the caller's is given, destroyed when this is dropped.
#[derive(Debug)]
pub(crate) struct UserData {
    data: *mut c_void,
    destroy: DestroyFunction,
}

// SAFETY: the caller's promise, which the header names at each function that takes one: it is used on any thread.
unsafe impl Send for UserData {}
// SAFETY: as above, on several at once.
unsafe impl Sync for UserData {}

impl UserData {
    /// Takes it over, in any case: also where the call that it was passed to fails.
    pub(crate) fn new(data: *mut c_void, destroy: DestroyFunction) -> Self {
        Self { data, destroy }
    }

    pub(crate) fn get(&self) -> *mut c_void {
        self.data
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the caller's promise; once, since this is dropped once.
            unsafe { destroy(self.data) }
        }
    }
}
