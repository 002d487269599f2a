//! Pointers of the caller's. What they point to is as [`abi`](super) says.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::failure::{ErrorObject, Result};

/// A handle that has to be there.
pub(crate) fn given<'a, T>(handle: Option<&'a T>, name: &str) -> Result<&'a T> {
    handle.ok_or_else(|| ErrorObject::null(name))
}

/// What a place holds until there is a result, and after an error.
pub(crate) trait Empty {
    const EMPTY: Self;
}

impl<T> Empty for *mut T {
    const EMPTY: Self = std::ptr::null_mut();
}

impl<T> Empty for *const T {
    const EMPTY: Self = std::ptr::null();
}

impl Empty for u32 {
    const EMPTY: Self = 0;
}

impl Empty for u64 {
    const EMPTY: Self = 0;
}

impl Empty for usize {
    const EMPTY: Self = 0;
}

/// A place of the caller's for a result: null or zero from the beginning, so that it is after an error. To be made before
/// anything of the call can fail.
#[derive(Debug)]
pub(crate) struct Place<T>(Option<NonNull<T>>);

impl<T: Empty> Place<T> {
    /// A place that has to be there.
    pub(crate) fn new(pointer: *mut T, name: &str) -> Result<Self> {
        match Self::optional(pointer) {
            Self(None) => Err(ErrorObject::null(name)),
            place => Ok(place),
        }
    }

    /// A place, or null for a result that the caller does not want.
    pub(crate) fn optional(pointer: *mut T) -> Self {
        let place = Self(NonNull::new(pointer));
        place.put(T::EMPTY);
        place
    }

    pub(crate) fn put(&self, value: T) {
        self.put_with(|| value);
    }

    /// Puts what is made only if it is wanted.
    pub(crate) fn put_with(&self, make: impl FnOnce() -> T) {
        if let Some(place) = self.0 {
            // SAFETY: the caller's promise. What lay there is not dropped, since it may be nothing.
            unsafe { place.write(make()) }
        }
    }
}

impl<T> Place<*mut T> {
    /// Gives the caller an object to own, if he wants it.
    pub(crate) fn give(&self, object: T) {
        self.put_with(|| Box::into_raw(Box::new(object)));
    }
}

/// A handle that the caller gives up if the call succeeds.
#[derive(Debug)]
pub(crate) struct Owned<T>(NonNull<T>);

impl<T> Owned<T> {
    pub(crate) fn new(pointer: *mut T, name: &str) -> Result<Self> {
        NonNull::new(pointer)
            .map(Self)
            .ok_or_else(|| ErrorObject::null(name))
    }

    pub(crate) fn get(&self) -> &T {
        // SAFETY: the caller's promise: a handle of his that nobody else gives up meanwhile.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn take(self) -> T {
        // SAFETY: made by `Place::give`, and the caller's promise as above.
        *unsafe { Box::from_raw(self.0.as_ptr()) }
    }
}

/// Bytes of the caller's to read.
pub(crate) fn bytes<'a>(data: *const c_void, length: usize, name: &str) -> Result<&'a [u8]> {
    items(data.cast(), length, name)
}

/// Bytes of the caller's to write.
pub(crate) fn bytes_mut<'a>(data: *mut c_void, length: usize, name: &str) -> Result<&'a mut [u8]> {
    let Some(data) = NonNull::new(data.cast::<u8>()).filter(|_| length <= isize::MAX as usize)
    else {
        return Err(unusable(length, name));
    };
    // SAFETY: the caller's promise; initialised or not, they are only written.
    Ok(unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), length) })
}

/// A list of the caller's; null for none, if its length is 0.
pub(crate) fn items<'a, T: Copy>(data: *const T, length: usize, name: &str) -> Result<&'a [T]> {
    if length == 0 {
        return Ok(&[]);
    }
    let fits = length
        .checked_mul(size_of::<T>())
        .is_some_and(|bytes| bytes <= isize::MAX as usize);
    if data.is_null() || !data.is_aligned() || !fits {
        return Err(unusable(length, name));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

fn unusable(length: usize, name: &str) -> Box<ErrorObject> {
    ErrorObject::argument(format!(
        "{name} is null, or its length of {length} cannot be"
    ))
}
