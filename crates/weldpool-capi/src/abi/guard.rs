//! Nothing unwinds into the caller.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::failure::{ErrorObject, Result};

/// Makes a call that may fail: null for success, else an object that the caller owns.
pub(crate) fn fallible(call: impl FnOnce() -> Result<()>) -> Option<Box<ErrorObject>> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => Some(ErrorObject::panicked()),
    }
}

/// Makes a call that has no way of telling an error; a panic is `otherwise`.
pub(crate) fn infallible<T>(otherwise: T, call: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{WELDPOOL_ERROR_INTERNAL, weldpool_error_code};

    #[test]
    fn a_panic_becomes_an_error() {
        let error = fallible(|| panic!("on purpose"));
        assert_eq!(
            weldpool_error_code(error.as_deref()),
            WELDPOOL_ERROR_INTERNAL
        );
        assert!(fallible(|| Ok(())).is_none());
        assert_eq!(infallible(7, || panic!("on purpose")), 7);
    }
}
