//! What a driver call needs to address a buffer.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::device::{Location, Segment};

/// A driver's object that stands for a segment (Metal: an `MTLBuffer`). Valid while the segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource(NonNull<c_void>);

impl Resource {
    /// Wraps the driver's pointer.
    #[must_use]
    pub const fn new(pointer: NonNull<c_void>) -> Self {
        Self(pointer)
    }

    /// The driver's pointer.
    #[must_use]
    pub const fn as_ptr(self) -> NonNull<c_void> {
        self.0
    }
}

/// Where a buffer is, in the terms of each kind of driver. Whoever uses the addresses takes over
/// the duties of the guards: no access beyond `bytes`, none while work in flight could race, and
/// none after the buffer is gone.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    /// Address for the host; none for private storage.
    pub host: Option<NonNull<u8>>,
    /// Address for the device (CUDA: a device pointer; Metal: the GPU address), if it has its own.
    pub device_address: Option<u64>,
    /// The driver's object and the offset in it in bytes (Metal: buffer and offset).
    pub resource: Option<(Resource, usize)>,
    /// Length in bytes.
    pub bytes: usize,
    buffer: PhantomData<&'a ()>,
}

impl Binding<'_> {
    pub(crate) fn new(base: &Base, offset: usize, bytes: usize, host_visible: bool) -> Self {
        let location = base.location(offset);
        Self {
            host: location.host.filter(|_| host_visible),
            device_address: location.device,
            resource: location.resource,
            bytes,
            buffer: PhantomData,
        }
    }
}

/// The addresses of a segment's first byte, read once, so that no call through the trait is made on
/// a hot path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    host: Option<NonNull<u8>>,
    device: Option<u64>,
    resource: Option<Resource>,
    bytes: usize,
}

// SAFETY: the addresses are plain numbers here; every dereference happens in a guard or a queue,
// which establish that the memory is valid and not raced on.
unsafe impl Send for Base {}
// SAFETY: as for `Send`; the type has no interior mutability.
unsafe impl Sync for Base {}

impl Base {
    pub(crate) fn of(segment: &dyn Segment) -> Self {
        Self {
            host: segment.host_address(),
            device: segment.device_address(),
            resource: segment.resource(),
            bytes: segment.bytes(),
        }
    }

    /// The host address as a number, for maps.
    pub(crate) fn host_number(&self) -> Option<usize> {
        self.host.map(|address| address.as_ptr().addr())
    }

    /// The address that alignment refers to: the host's, else the device's, else the start of the
    /// driver's object.
    pub(crate) fn number(&self) -> usize {
        let device = || {
            self.device
                .and_then(|address| usize::try_from(address).ok())
        };
        self.host_number().or_else(device).unwrap_or(0)
    }

    /// The place `offset` bytes into the segment. `offset` lies inside the segment or at its end.
    pub(crate) fn location(&self, offset: usize) -> Location {
        debug_assert!(offset <= self.bytes);
        Location {
            host: self.host.map(|address| {
                // SAFETY: `Segment` promises `bytes` valid bytes from here, and every caller keeps
                // `offset` within them, as the range allocator's offsets are.
                unsafe { address.add(offset) }
            }),
            device: self.device.map(|address| address + offset as u64),
            resource: self.resource.map(|resource| (resource, offset)),
        }
    }
}
