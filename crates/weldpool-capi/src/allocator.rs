//! Allocators: the pool of one device.

#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use memory::{Allocator, Buffer};

use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Empty, Place, given};
use crate::buffer::BufferHandle;
use crate::config::{self, ConfigOf};
use crate::device::DeviceHandle;
use crate::failure::{ErrorObject, Result};
use crate::queue::QueueHandle;
use crate::request::{self, RequestOf};
use crate::storage;
use crate::streams::AdoptedStreams;

/// A handle to the pool of one device. Thread-safe.
#[derive(Clone)]
pub struct AllocatorHandle {
    pub(crate) allocator: Allocator,
    /// Streams that were adopted, where the device is one of CUDA.
    pub(crate) streams: Option<Arc<AdoptedStreams>>,
}

impl fmt::Debug for AllocatorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.allocator.fmt(f)
    }
}

/// A pool of a device's memory. `config` may be null for the default.
///
/// Errors: INVALID_ARGUMENT, INVALID_CONFIG naming the field, or what the device says. Free with
/// weldpool_allocator_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_create(
    device: Option<&DeviceHandle>,
    config: *const ConfigOf,
    allocator: *mut *mut AllocatorHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(allocator, "allocator")?;
        let handle = given(device, "device")?;
        place.give(create(handle, config)?);
        Ok(())
    })
}

/// The same for Rust.
pub(crate) fn create(handle: &DeviceHandle, config: *const ConfigOf) -> Result<AllocatorHandle> {
    let (config, name) = config::of(config)?;
    let mut builder = Allocator::builder(Arc::clone(&handle.device)).config(config);
    if let Some(name) = name {
        builder = builder.name(name);
    }
    let allocator = builder.build()?;
    #[cfg(target_os = "linux")]
    let streams = handle
        .cuda
        .as_ref()
        .map(|cuda| Arc::new(AdoptedStreams::new(allocator.clone(), Arc::clone(cuda))));
    #[cfg(not(target_os = "linux"))]
    let streams = None;
    Ok(AllocatorHandle { allocator, streams })
}

/// The allocator behind a handle, which has to be there.
pub(crate) fn of(allocator: Option<&AllocatorHandle>) -> Result<&Allocator> {
    Ok(&given(allocator, "allocator")?.allocator)
}

/// Gives the caller a buffer.
fn allocate(
    allocator: Option<&AllocatorHandle>,
    buffer: *mut *mut BufferHandle,
    call: impl FnOnce(&Allocator) -> Result<Buffer>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(buffer, "buffer")?;
        place.give(BufferHandle::new(call(of(allocator)?)?));
        Ok(())
    })
}

/// Tells the caller a number, if he wants it.
fn tell<T: Empty>(
    allocator: Option<&AllocatorHandle>,
    number: *mut T,
    call: impl FnOnce(&Allocator) -> Result<T>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::optional(number);
        place.put(call(of(allocator)?)?);
        Ok(())
    })
}

/// A further handle to the same pool. Free it with weldpool_allocator_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_clone(
    allocator: Option<&AllocatorHandle>,
    clone: *mut *mut AllocatorHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(clone, "clone")?;
        place.give(given(allocator, "allocator")?.clone());
        Ok(())
    })
}

/// Frees a handle. Buffers may outlive it and keep the pool alive; with the last handle, leaks are reported as the
/// configuration says, and idle memory goes back to the device. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_free(allocator: Option<Box<AllocatorHandle>>) {
    infallible((), || drop(allocator));
}

/// A buffer of `bytes` bytes of shared storage, aligned to 256 bytes. With `queue`, whose work uses it first, memory
/// that work on this queue still uses can serve; null is the host's order.
///
/// Errors: as for weldpool_allocator_allocate_with. Free with weldpool_buffer_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_allocate(
    allocator: Option<&AllocatorHandle>,
    bytes: usize,
    queue: Option<&QueueHandle>,
    buffer: *mut *mut BufferHandle,
) -> Option<Box<ErrorObject>> {
    allocate(allocator, buffer, |allocator| match queue {
        None => Ok(allocator.allocate(bytes)?),
        Some(handle) => {
            Ok(allocator.allocate_with(&memory::Request::new(bytes).queue(&handle.queue))?)
        }
    })
}

/// A buffer as requested. Its contents are whatever the memory held before, unless zeroes were asked for.
///
/// Errors: INVALID_REQUEST for zero bytes, a size that no buffer can have, or a wrong alignment; UNSUPPORTED for a
/// storage mode that the device lacks; LIMIT_EXCEEDED or OUT_OF_MEMORY once everything idle was given back, nothing in
/// flight ended within wait_max_ns and no callback freed anything; BUSY for WELDPOOL_REQUEST_HELD_ONLY; else what the
/// driver says. Nothing was allocated then. Free with weldpool_buffer_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_allocate_with(
    allocator: Option<&AllocatorHandle>,
    request: *const RequestOf,
    buffer: *mut *mut BufferHandle,
) -> Option<Box<ErrorObject>> {
    allocate(allocator, buffer, |allocator| {
        request::with(request, |request| Ok(allocator.allocate_with(request)?))
    })
}

/// Makes sure that `count` further buffers of `bytes` bytes can be had without a driver call, as far as so many may be
/// idle; `made`, if not null, is how many were made ready.
///
/// Errors: as for weldpool_allocator_allocate; what was made ready stays. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_pre_allocate(
    allocator: Option<&AllocatorHandle>,
    bytes: usize,
    count: usize,
    made: *mut usize,
) -> Option<Box<ErrorObject>> {
    tell(allocator, made, |allocator| {
        Ok(allocator.pre_allocate(bytes, count)?)
    })
}

/// Obtains at least `bytes` bytes of a storage mode (WELDPOOL_STORAGE_*) from the device and leaves them idle;
/// `obtained`, if not null, is how many.
///
/// Errors: OUT_OF_MEMORY or LIMIT_EXCEEDED with nothing given up for it, UNSUPPORTED for a storage mode that the device
/// lacks, INVALID_REQUEST while pooling is off, else what the driver says. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_reserve(
    allocator: Option<&AllocatorHandle>,
    bytes: usize,
    storage: u32,
    obtained: *mut usize,
) -> Option<Box<ErrorObject>> {
    tell(allocator, obtained, |allocator| {
        Ok(allocator.reserve(bytes, storage::mode(storage)?)?)
    })
}

/// Gives all idle memory back to the device; `returned`, if not null, is how many bytes.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_trim(
    allocator: Option<&AllocatorHandle>,
    returned: *mut usize,
) -> Option<Box<ErrorObject>> {
    tell(allocator, returned, |allocator| Ok(allocator.clear()))
}

/// Has idle memory collected now rather than at the end of the interval.
///
/// Errors: UNSUPPORTED without WELDPOOL_CONFIG_COLLECT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_collect_soon(
    allocator: Option<&AllocatorHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        if of(allocator)?.collect_soon() {
            return Ok(());
        }
        let text = "no thread collects; create the allocator with WELDPOOL_CONFIG_COLLECT";
        Err(memory::Error::new(memory::ErrorKind::Unsupported, text).into())
    })
}

/// Switches pooling; `before`, if not null, is what it was. 1 is on, 0 off.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_set_pooling(
    allocator: Option<&AllocatorHandle>,
    on: u32,
    before: *mut u32,
) -> Option<Box<ErrorObject>> {
    tell(allocator, before, |allocator| {
        Ok(allocator.set_pooling(switch(on)?).into())
    })
}

/// Sets the hard limit on the bytes held from the driver, 0 for none; `before`, if not null, is what it was. Idle
/// memory beyond it goes back now; what is in use stays until it is freed.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_set_reserved_bytes_max(
    allocator: Option<&AllocatorHandle>,
    bytes: u64,
    before: *mut u64,
) -> Option<Box<ErrorObject>> {
    tell(allocator, before, |allocator| {
        let limit = (bytes != 0).then_some(bytes);
        Ok(allocator.set_reserved_bytes_max(limit)?.unwrap_or(0))
    })
}

/// Sets the limit on idle bytes; `before`, if not null, is what it was. Idle memory beyond it goes back now.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_set_cached_bytes_max(
    allocator: Option<&AllocatorHandle>,
    bytes: u64,
    before: *mut u64,
) -> Option<Box<ErrorObject>> {
    tell(allocator, before, |allocator| {
        Ok(allocator.set_cached_bytes_max(bytes))
    })
}

/// Switches spans for the platform's profiler on (1) or off (0); `before`, if not null, is what it was.
///
/// Errors: UNSUPPORTED where there is no such tool. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_set_profiling(
    allocator: Option<&AllocatorHandle>,
    on: u32,
    before: *mut u32,
) -> Option<Box<ErrorObject>> {
    tell(allocator, before, |allocator| {
        Ok(allocator.set_profiling(switch(on)?)?.into())
    })
}

fn switch(on: u32) -> Result<bool> {
    match on {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ErrorObject::argument(format!(
            "{on} is neither 0 (off) nor 1 (on)"
        ))),
    }
}
