//! What a driver call needs to address a buffer.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::device::{AddressRange, Location, Segment};

/// A driver's object that stands for a segment (Metal: an `MTLBuffer`). Valid while the segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource(NonNull<c_void>);

// SAFETY: a plain number here; whoever makes calls on the object answers for the thread he does it on.
unsafe impl Send for Resource {}
// SAFETY: as for `Send`; the type has no interior mutability.
unsafe impl Sync for Resource {}

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
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Address for the host; none for private storage.
    pub host: Option<NonNull<u8>>,
    /// Address for the device (CUDA: a device pointer; Metal: the GPU address), if it has its own. Metal makes what a
    /// kernel reaches by such an address resident through residency sets alone: where there are none (before macOS 15), or
    /// their share is used up ([`ResidencyConfig`](crate::device::metal::ResidencyConfig)), the encoder has to be told
    /// of it by `useResource:usage:`; what is bound by `resource` is resident in any case.
    pub device_address: Option<u64>,
    /// The driver's object and the offset in it in bytes (Metal: buffer and offset).
    pub resource: Option<(Resource, usize)>,
    /// Length in bytes.
    pub bytes: usize,
    buffer: PhantomData<&'a ()>,
}

impl Binding<'_> {
    /// The binding of `range` of a block at `place`. The range lies inside the block.
    pub(crate) fn new(place: &Place, range: Range<usize>, host_visible: bool) -> Self {
        let location = place.location(range.start);
        Self {
            host: location.host.filter(|_| host_visible),
            device_address: location.device,
            resource: location.resource,
            bytes: range.end - range.start,
            buffer: PhantomData,
        }
    }
}

impl fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding")
            .field("host", &self.host)
            .field("device_address", &self.device_address)
            .field("resource", &self.resource)
            .field("bytes", &self.bytes)
            .finish()
    }
}

/// Addresses of one byte in the form that records hold: null or zero stands for none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) host: *mut u8,
    pub(crate) device: u64,
    pub(crate) resource: *mut c_void,
    pub(crate) resource_offset: usize,
}

impl Place {
    /// The place `offset` bytes on, which is inside the same block or at its end.
    pub(crate) fn location(&self, offset: usize) -> Location {
        Location {
            host: NonNull::new(self.host).map(|address| {
                // SAFETY: `Segment` and `AddressRange` promise valid addresses over their whole length,
                // and every caller keeps `offset` within the block.
                unsafe { address.add(offset) }
            }),
            device: (self.device != 0).then(|| self.device + offset as u64),
            resource: NonNull::new(self.resource)
                .map(|resource| (Resource::new(resource), self.resource_offset + offset)),
        }
    }
}

/// The addresses of a region's first byte, read once, so that no call through a trait is made on a
/// hot path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    host: Option<NonNull<u8>>,
    device: Option<u64>,
    resource: Option<(Resource, usize)>,
}

// SAFETY: the addresses are plain numbers here; every dereference happens in a guard or a queue,
// which establish that the memory is valid and not raced on.
unsafe impl Send for Base {}
// SAFETY: as for `Send`; the type has no interior mutability.
unsafe impl Sync for Base {}

impl Base {
    pub(crate) fn of_segment(segment: &dyn Segment) -> Self {
        Self {
            host: segment.host_address(),
            device: segment.device_address(),
            resource: segment.resource().map(|resource| (resource, 0)),
        }
    }

    pub(crate) fn of_range(range: &dyn AddressRange) -> Self {
        Self {
            host: range.host_address(),
            device: range.device_address(),
            resource: range.resource(),
        }
    }

    /// The first byte of a block, as the base of smaller blocks inside it.
    pub(crate) fn of_place(place: &Place) -> Self {
        let Location {
            host,
            device,
            resource,
        } = place.location(0);
        Self {
            host,
            device,
            resource,
        }
    }

    /// The address that alignment refers to: the host's, else the device's; none for memory that is
    /// known by the driver's object alone.
    pub(crate) fn number(&self) -> Option<usize> {
        let device = || {
            self.device
                .and_then(|address| usize::try_from(address).ok())
        };
        self.host.map(|host| host.as_ptr().addr()).or_else(device)
    }

    /// The place `offset` bytes into the region, which is inside it or at its end.
    pub(crate) fn place(&self, offset: usize) -> Place {
        let host = self.host.map(|address| {
            // SAFETY: `Segment` and `AddressRange` promise valid addresses over their whole length, and
            // every caller keeps `offset` within it, as the arena's positions are.
            unsafe { address.add(offset) }
        });
        Place {
            host: host.map_or(std::ptr::null_mut(), NonNull::as_ptr),
            device: self.device.map_or(0, |address| address + offset as u64),
            resource: self.resource.map_or(std::ptr::null_mut(), |(resource, _)| {
                resource.as_ptr().as_ptr()
            }),
            resource_offset: self.resource.map_or(0, |(_, start)| start + offset),
        }
    }
}
