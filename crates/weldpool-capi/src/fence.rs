//! Fences: points in a queue.

#![allow(unsafe_code)]

use memory::Fence;

use crate::abi::duration;
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, given};
use crate::failure::ErrorObject;

/// A point in a queue, passed once all work submitted before it is done. Thread-safe.
#[derive(Debug, Clone)]
pub struct FenceHandle {
    pub(crate) fence: Fence,
}

/// Whether the point has passed: 1 or 0.
///
/// Errors: DEVICE_LOST when it never will. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_fence_is_complete(
    fence: Option<&FenceHandle>,
    complete: *mut u32,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(complete, "complete")?;
        place.put(given(fence, "fence")?.fence.is_complete()?.into());
        Ok(())
    })
}

/// Waits until the point has passed, or for `timeout_ns` nanoseconds.
///
/// Errors: TIMEOUT, DEVICE_LOST; BUSY in a function that a CUDA queue calls. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_fence_wait(
    fence: Option<&FenceHandle>,
    timeout_ns: u64,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let fence = &given(fence, "fence")?.fence;
        Ok(fence.wait(duration::timeout(timeout_ns))?)
    })
}

/// Frees a handle; it waits for nothing. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_fence_free(fence: Option<Box<FenceHandle>>) {
    infallible((), || drop(fence));
}
