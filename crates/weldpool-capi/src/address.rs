//! Memory that is known by its address alone, and what is at an address.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::abi::guard::fallible;
use crate::abi::pointer::Place;
use crate::abi::sized::{Filled, Structure};
use crate::allocator::{self, AllocatorHandle};
use crate::failure::{ErrorObject, Result};
use crate::queue::QueueHandle;
use crate::request::{self, RequestOf};
use crate::storage;

/// What is known of an address.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockInfoOf {
    /// sizeof(weldpool_block_info_t), set by the caller.
    pub struct_size: usize,
    /// Address of the first byte.
    pub address: u64,
    /// Bytes that were requested.
    pub bytes: u64,
    /// Bytes of the block behind them.
    pub block_bytes: u64,
    /// One of WELDPOOL_STORAGE_*.
    pub storage: u32,
    /// The system's number of the node (NUMA) that the memory is of, -1 where nodes are not kept apart.
    pub node: i32,
}

// SAFETY: repr(C) of words and numbers, begun by its size.
unsafe impl Structure for BlockInfoOf {
    const NAME: &'static str = "weldpool_block_info_t";
}

/// Memory as an address without a handle, as malloc gives it: the host's address, or the device's where the host has
/// none. No guard protects its contents. It keeps the pool alive until it is freed.
///
/// Errors: as for weldpool_allocator_allocate_with. Free with weldpool_allocator_free_address. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_allocate_address(
    allocator: Option<&AllocatorHandle>,
    request: *const RequestOf,
    address: *mut *mut c_void,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(address, "address")?;
        let allocator = allocator::of(allocator)?;
        let buffer = request::with(request, |request| Ok(allocator.allocate_with(request)?))?;
        let raw = buffer.into_raw().map_err(|_| {
            let text = "this device's memory has no address that could be freed by";
            memory::Error::new(memory::ErrorKind::Unsupported, text)
        })?;
        place.put(raw.as_ptr().cast());
        Ok(())
    })
}

/// Frees memory by the address that weldpool_allocator_allocate_address gave. With `queue`, work that was submitted to
/// it so far may still use the memory; else nobody does. Null is ignored.
///
/// Errors: INVALID_REQUEST for an address that was not given so, or was freed. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_free_address(
    allocator: Option<&AllocatorHandle>,
    address: *mut c_void,
    queue: Option<&QueueHandle>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let allocator = allocator::of(allocator)?;
        let Some(address) = NonNull::new(address.cast()) else {
            return Ok(());
        };
        // SAFETY: the caller's promise: nobody uses the address any more, but work of the queue.
        let buffer = unsafe { allocator.reclaim(address) }?;
        if let Some(handle) = queue {
            buffer.free_on(&handle.queue);
        }
        Ok(())
    })
}

/// The live memory of the pool that contains an address. The address is not read.
///
/// Errors: INVALID_REQUEST where there is none. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_find(
    allocator: Option<&AllocatorHandle>,
    address: *const c_void,
    info: *mut BlockInfoOf,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let filled = Filled::new(info, "info")?;
        let allocator = allocator::of(allocator)?;
        let found = allocator.find(address.cast()).ok_or_else(|| {
            let text = format!(
                "no live memory of {} contains {address:p}",
                allocator.name()
            );
            memory::Error::with_message(memory::ErrorKind::InvalidRequest, text)
        })?;
        let node = found.node.and_then(|node| i32::try_from(node).ok());
        filled.put(&BlockInfoOf {
            struct_size: size_of::<BlockInfoOf>(),
            address: found.address as u64,
            bytes: found.bytes as u64,
            block_bytes: found.block_bytes as u64,
            storage: storage::number(found.storage),
            node: node.unwrap_or(-1),
        });
        Result::Ok(())
    })
}
