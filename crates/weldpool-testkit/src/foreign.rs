//! What takes promises: work on a stream that the allocator did not submit, and bare addresses.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use weldpool::device::{DeviceQueue, Location};
use weldpool::{Allocator, Binding, Buffer, Result};

fn location(binding: &Binding<'_>) -> Location {
    Location {
        host: binding.host,
        device: binding.device_address,
        resource: binding.resource,
    }
}

/// Sets all bytes of a buffer on a stream. Until that is done the caller neither touches the buffer nor
/// frees it, unless in the order of that stream.
pub(crate) fn fill(stream: &dyn DeviceQueue, to: &Binding<'_>, value: u8) -> Result<()> {
    // SAFETY: the buffer is live, and the caller keeps it as described above.
    unsafe { stream.fill(location(to), to.bytes, value) }
}

/// Copies all bytes of a buffer to the start of another one; as for [`fill`], for both.
pub(crate) fn copy(stream: &dyn DeviceQueue, from: &Binding<'_>, to: &Binding<'_>) -> Result<()> {
    // SAFETY: both are live, the destination is as long, and the caller keeps them as described above.
    unsafe { stream.copy(location(from), location(to), from.bytes) }
}

/// Takes back a buffer by an address that is used nowhere else. An address that is no buffer's, or
/// not any more, is refused.
pub(crate) fn reclaim(allocator: &Allocator, address: NonNull<u8>) -> Result<Buffer> {
    // SAFETY: as described above.
    unsafe { allocator.reclaim(address) }
}

/// Bytes of a buffer of shared storage as a function on a queue reaches them: behind the guards' back. The buffer outlives
/// the value, and the queue orders what touches it.
pub(crate) struct BareBytes(NonNull<[u8]>);

// SAFETY: an address, used as described above.
unsafe impl Send for BareBytes {}

impl BareBytes {
    /// None where the host has no address for the buffer.
    pub(crate) fn of(buffer: &Buffer) -> Option<Self> {
        let binding = buffer.binding();
        let slice = |start| NonNull::slice_from_raw_parts(start, binding.bytes);
        binding.host.map(slice).map(Self)
    }

    pub(crate) fn contents(&mut self) -> &mut [u8] {
        // SAFETY: the buffer is alive, and nobody else touches it meanwhile, as described above.
        unsafe { self.0.as_mut() }
    }
}
