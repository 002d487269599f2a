//! References that one thread changes while others follow them.

#![allow(unsafe_code)]

use crate::sync::{AtomicPtr, Ordering};

/// None, or a reference to what lives as long as the process.
#[derive(Debug)]
pub(super) struct Link<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Default for Link<T> {
    fn default() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }
}

impl<T: Sync> Link<T> {
    /// What was set last, and all that was written to it before.
    pub(super) fn get(&self) -> Option<&'static T> {
        let to = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null or was made from a reference that is good for ever, in `set`.
        unsafe { to.as_ref() }
    }

    pub(super) fn set(&self, to: Option<&'static T>) {
        let to = to.map_or(std::ptr::null(), std::ptr::from_ref);
        self.0.store(to.cast_mut(), Ordering::Release);
    }
}
