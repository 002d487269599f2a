//! The state that the backend keeps with one of Triton's objects.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};

use crate::error::{Error, Result};

/// An object of Triton's that keeps a pointer for the backend.
///
/// # Safety
/// What `set_raw` is given is what `raw` gives until the next `set_raw`, and nobody else sets it.
pub(crate) unsafe trait Stateful {
    /// What is kept.
    type State: Sync;

    /// What the object is called in messages.
    const NAME: &'static str;

    /// The pointer that Triton keeps; null at first.
    fn raw_state(&self) -> Result<*mut c_void>;

    /// Has Triton keep a pointer.
    fn set_raw_state(&self, state: *mut c_void) -> Result<()>;

    /// Gives the object its state.
    fn set_state(&self, state: Box<Self::State>) -> Result<()> {
        let raw = Box::into_raw(state);
        let set = self.set_raw_state(raw.cast());
        if set.is_err() {
            // SAFETY: made by `Box::into_raw` above, and kept by nobody.
            drop(unsafe { Box::from_raw(raw) });
        }
        set
    }

    /// The object's state, until it is finalised.
    fn state(&self) -> Result<&Self::State> {
        NonNull::new(self.raw_state()?.cast::<Self::State>())
            // SAFETY: put there by `set_state`. Only `take_state` ends it, whose caller vouches
            // that nobody uses it then.
            .map(|state| unsafe { state.as_ref() })
            .ok_or_else(|| Error::internal(format!("the {} was not initialised", Self::NAME)))
    }

    /// Takes the state out, if there is one.
    ///
    /// # Safety
    /// Nobody uses a reference to the state any more.
    unsafe fn take_state(&self) -> Result<Option<Box<Self::State>>> {
        let raw = self.raw_state()?.cast::<Self::State>();
        self.set_raw_state(ptr::null_mut())?;
        // SAFETY: made by `Box::into_raw` in `set_state`, and taken once, since it is null now.
        Ok((!raw.is_null()).then(|| unsafe { Box::from_raw(raw) }))
    }
}
