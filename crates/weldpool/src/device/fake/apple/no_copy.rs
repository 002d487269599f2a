//! The model of an `MTLBuffer` over memory that the program obtained (`newBufferWithBytesNoCopy:`).

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::PAGE;
use super::metal::Metal;
use crate::binding::Resource;
use crate::device::fake::store::{State, Store};
use crate::device::{HostRange, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// A buffer of shared storage without a heap, over memory that somebody else keeps mapped.
#[derive(Debug)]
pub(super) struct NoCopyBuffer {
    metal: Metal,
    /// On the heap of this process, so that the object has an address that stays.
    object: Box<Object>,
}

#[derive(Debug)]
struct Object {
    store: Arc<Store>,
    address: u64,
}

impl NoCopyBuffer {
    /// Address and length are multiples of a page (documentation of the call), which is 16 KiB on Apple silicon.
    pub(super) fn new(metal: &Metal, memory: HostRange) -> Result<Self> {
        let start = memory.address.as_ptr().addr();
        if !start.is_multiple_of(PAGE) || !memory.bytes.is_multiple_of(PAGE) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "{} bytes at {start:#x}: Metal registers whole pages of {PAGE} bytes alone; allocate memory \
                     with that alignment and a multiple of it as length",
                    memory.bytes
                ),
            ));
        }
        if memory.bytes as u64 > metal.max_buffer_length() {
            return Err(Error::with_message(
                ErrorKind::LimitExceeded,
                format!(
                    "{} bytes; maxBufferLength is {}",
                    memory.bytes,
                    metal.max_buffer_length()
                ),
            ));
        }
        let (store, address) = metal.map_others(memory)?;
        let object = Box::new(Object { store, address });
        metal.charge(metal.costs().buffer.ns(memory.bytes as u64));
        let buffer = Self {
            metal: metal.clone(),
            object,
        };
        metal.remember_buffer(buffer.object(), address, memory.bytes);
        Ok(buffer)
    }

    fn object(&self) -> Resource {
        Resource::new(NonNull::from(self.object.as_ref()).cast())
    }
}

impl Drop for NoCopyBuffer {
    fn drop(&mut self) {
        let Object { store, address } = self.object.as_ref();
        self.metal.forget_buffer(self.object());
        // Work that comes later finds nothing there.
        store.set_state(State::Released);
        self.metal.unmap_others(*address, store.bytes());
    }
}

// SAFETY: the object and its address stand for the registered memory in the model until the drop.
unsafe impl Registration for NoCopyBuffer {
    fn device_address(&self) -> Option<u64> {
        Some(self.object.address)
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.object())
    }
}
