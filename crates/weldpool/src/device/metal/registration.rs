//! Memory that exists, wrapped without a copy.

#![allow(unsafe_code)]

use super::Shared;
use super::raw::{Buffer, Metal, Object};
use crate::binding::Resource;
use crate::device::{HostRange, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// A buffer over memory that somebody else keeps mapped.
#[derive(Debug)]
pub(super) struct Wrapped<M: Metal> {
    shared: Arc<Shared<M>>,
    device: u64,
    resource: Resource,
    /// None once it has ended.
    buffer: Option<M::Buffer>,
}

impl<M: Metal> Wrapped<M> {
    /// Address and length are multiples of a page, which is what the call wants (its documentation); the length that comes
    /// of it is checked, since a GPU in a virtual machine gave an empty buffer instead of an error (runner-images 10663).
    pub(super) fn new(shared: &Arc<Shared<M>>, memory: HostRange) -> Result<Self> {
        let metal = &shared.metal;
        let page = metal.page_bytes();
        let start = memory.address.as_ptr().addr();
        if !start.is_multiple_of(page) || !memory.bytes.is_multiple_of(page) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "{} bytes at {start:#x}: Metal registers whole pages of {page} bytes alone; allocate memory with \
                     that alignment and a multiple of it as length",
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
        let buffer = metal.new_buffer_no_copy(memory)?;
        if buffer.length() != memory.bytes {
            return Err(Error::with_message(
                ErrorKind::Unsupported,
                format!(
                    "Metal wrapped {} of {} bytes; copy them instead",
                    buffer.length(),
                    memory.bytes
                ),
            ));
        }
        buffer.set_label("weldpool registered");
        shared.known.add(&buffer);
        Ok(Self {
            shared: Arc::clone(shared),
            device: buffer.gpu_address(),
            resource: buffer.resource(),
            buffer: Some(buffer),
        })
    }
}

impl<M: Metal> Drop for Wrapped<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            self.shared.known.remove(self.resource);
            drop(self.buffer.take());
        });
    }
}

// SAFETY: the buffer stands for the wrapped memory until the drop.
unsafe impl<M: Metal> Registration for Wrapped<M> {
    fn device_address(&self) -> Option<u64> {
        Some(self.device)
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.resource)
    }
}
