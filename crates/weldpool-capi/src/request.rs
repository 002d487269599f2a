//! Requests for memory.

#![allow(unsafe_code)]

use std::ffi::c_char;

use memory::{Name, Request};

use crate::abi::flags;
use crate::abi::sized::{Structure, read};
use crate::abi::text;
use crate::failure::Result;
use crate::queue::QueueHandle;
use crate::storage;

/// The contents are zero at first; memory that only the device reaches is zeroed on the request's queue, which it
/// needs.
pub const WELDPOOL_REQUEST_ZEROED: u32 = 1;
/// Only memory that is held already serves the request: no driver call, no waiting; BUSY where none fits.
pub const WELDPOOL_REQUEST_HELD_ONLY: u32 = 2;
/// Queues of the device's peers reach the memory.
pub const WELDPOOL_REQUEST_VISIBLE_TO_PEERS: u32 = 4;

const FLAGS: u32 = 7;

/// A request for memory. Zero is the default of every field but `bytes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct RequestOf {
    /// sizeof(weldpool_request_t).
    pub struct_size: usize,
    /// How many bytes; not zero.
    pub bytes: usize,
    /// Alignment in bytes, a power of two up to 1 GiB; at least 256 in any case.
    pub alignment: usize,
    /// One of WELDPOOL_STORAGE_*.
    pub storage: u32,
    /// Any of WELDPOOL_REQUEST_*, added up.
    pub flags: u32,
    /// Name for statistics and reports. A process has 65,536 distinct ones; further ones show as "(other)".
    pub name: *const c_char,
    /// The queue whose work uses the memory first; null for the host's order.
    pub queue: *const QueueHandle,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for RequestOf {
    const NAME: &'static str = "weldpool_request_t";
}

/// Makes a call with the request that the caller means.
pub(crate) fn with<T>(
    pointer: *const RequestOf,
    call: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    let given = read(pointer, "request")?;
    flags::check(given.flags, FLAGS, "a request")?;
    let has = |flag| given.flags & flag != 0;
    let mut request = Request::new(given.bytes)
        .storage(storage::mode(given.storage)?)
        .zeroed(has(WELDPOOL_REQUEST_ZEROED))
        .held_only(has(WELDPOOL_REQUEST_HELD_ONLY))
        .visible_to_peers(has(WELDPOOL_REQUEST_VISIBLE_TO_PEERS));
    if given.alignment != 0 {
        request = request.alignment(given.alignment);
    }
    if let Some(name) = text::optional(given.name, "request.name")? {
        request = request.name(Name::intern(name));
    }
    // SAFETY: the caller's promise: null, or a handle that lives.
    if let Some(handle) = unsafe { given.queue.as_ref() } {
        request = request.queue(&handle.queue);
    }
    call(&request)
}
