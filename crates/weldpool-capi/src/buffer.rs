//! Buffers and views: a handle stands for a range of memory and owns a share of it.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use memory::{Buffer, BufferView, Error, ErrorKind, StorageMode};

use crate::abi::duration;
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Owned, Place, given};
use crate::abi::sized::{Filled, Structure};
use crate::abi::text;
use crate::failure::ErrorObject;
use crate::queue::{self, QueueHandle};
use crate::storage;

/// A range of memory of a pool, and a share in its ownership: all of it as it was allocated, or a view of a part of it
/// (weldpool_buffer_slice). The memory is freed with the last handle, guard and work that uses it. A handle is
/// thread-safe, but for freeing it.
#[derive(Debug, Clone)]
pub struct BufferHandle {
    pub(crate) view: BufferView,
    storage: StorageMode,
    alignment: usize,
    block_bytes: usize,
}

impl BufferHandle {
    pub(crate) fn new(buffer: Buffer) -> Self {
        Self {
            storage: buffer.storage_mode(),
            alignment: buffer.alignment(),
            block_bytes: buffer.block_bytes(),
            view: buffer.share(),
        }
    }
}

/// Where a buffer is, and what it is.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BufferInfo {
    /// sizeof(weldpool_buffer_info_t), set by the caller.
    pub struct_size: usize,
    /// Length of the range in bytes.
    pub bytes: usize,
    /// Address for the host; null for private storage. It is read and written under a guard (weldpool_buffer_read), or
    /// on the caller's own responsibility.
    pub host: *mut c_void,
    /// Address for the device (CUDA: a CUdeviceptr; Metal: the GPU address); 0 where it has none of its own.
    pub device_address: u64,
    /// The driver's object of the memory around (Metal: an MTLBuffer); null where there is none.
    pub resource: *mut c_void,
    /// Where the range begins in that, in bytes.
    pub resource_offset: usize,
    /// Bytes of the block that all views of the memory are in.
    pub block_bytes: usize,
    /// Alignment of the block in bytes, as far as it was asked for.
    pub alignment: usize,
    /// One of WELDPOOL_STORAGE_*, which a strategy may have chosen.
    pub storage: u32,
    /// 1 while this is the only handle of the memory, guards included.
    pub unique: u32,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for BufferInfo {
    const NAME: &'static str = "weldpool_buffer_info_t";
}

/// Fills in where a buffer is. The addresses are good as long as the memory is, which a handle keeps; who uses them
/// keeps away from work in flight, as guards do.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_info(
    buffer: Option<&BufferHandle>,
    info: *mut BufferInfo,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let filled = Filled::new(info, "info")?;
        let handle = given(buffer, "buffer")?;
        let binding = handle.view.binding();
        let null = std::ptr::null_mut();
        filled.put(&BufferInfo {
            struct_size: size_of::<BufferInfo>(),
            bytes: binding.bytes,
            host: binding.host.map_or(null, |host| host.as_ptr().cast()),
            device_address: binding.device_address.unwrap_or(0),
            resource: binding
                .resource
                .map_or(null, |(resource, _)| resource.as_ptr().as_ptr()),
            resource_offset: binding.resource.map_or(0, |(_, offset)| offset),
            block_bytes: handle.block_bytes,
            alignment: handle.alignment,
            storage: storage::number(handle.storage),
            unique: handle.view.is_unique().into(),
        });
        Ok(())
    })
}

/// Length of the range in bytes; 0 for null. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_bytes(buffer: Option<&BufferHandle>) -> usize {
    infallible(0, || buffer.map_or(0, |handle| handle.view.len()))
}

/// The name that the memory was requested with. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_name(
    buffer: Option<&BufferHandle>,
    name: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(name, "name")?;
        text::give(&place, given(buffer, "buffer")?.view.name().to_owned());
        Ok(())
    })
}

/// A view of `bytes` bytes from `offset`, counted from the start of this range, which owns a share of the memory too.
///
/// Errors: INVALID_REQUEST when that does not lie inside. Free with weldpool_buffer_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_slice(
    buffer: Option<&BufferHandle>,
    offset: usize,
    bytes: usize,
    slice: *mut *mut BufferHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(slice, "slice")?;
        let handle = given(buffer, "buffer")?;
        let end = offset.checked_add(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidRequest,
                "the end of a slice is beyond all memory",
            )
        })?;
        let view = handle.view.slice(offset..end)?;
        place.give(BufferHandle { view, ..*handle });
        Ok(())
    })
}

/// A further handle of the same range. Free it with weldpool_buffer_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_clone(
    buffer: Option<&BufferHandle>,
    clone: *mut *mut BufferHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(clone, "clone")?;
        place.give(given(buffer, "buffer")?.clone());
        Ok(())
    })
}

/// Waits until no submitted work uses the memory, or for `timeout_ns` nanoseconds.
///
/// Errors: TIMEOUT, DEVICE_LOST. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_wait(
    buffer: Option<&BufferHandle>,
    timeout_ns: u64,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let handle = given(buffer, "buffer")?;
        Ok(handle.view.wait(duration::timeout(timeout_ns))?)
    })
}

/// Frees a handle, from any thread. The memory of the last one is used again once the work is over that was submitted
/// with it through a queue of this library, or noted. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_free(buffer: Option<Box<BufferHandle>>) {
    infallible((), || drop(buffer));
}

/// Frees a handle in the order of a queue: work that was submitted to it so far, by whomever, may still use the memory.
/// If it was the last handle, the same queue has the memory again at once, everybody else once the queue has passed
/// this point.
///
/// Errors: INVALID_ARGUMENT, and what the driver says where there are further handles; the handle is not freed then.
/// Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_buffer_free_on(
    buffer: *mut BufferHandle,
    queue: Option<&QueueHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let owned = Owned::new(buffer, "buffer")?;
        let queue = queue::of(queue)?;
        if !owned.get().view.is_unique() {
            // Whichever handle is the last: its memory waits for this point.
            queue::note_use(queue, &owned.get().view)?;
        }
        match owned.take().view.try_into_buffer() {
            Ok(buffer) => buffer.free_on(queue),
            Err(view) => drop(view),
        }
        Ok(())
    })
}
