//! Segments of an Apple fake.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::heap::Buffer;
use crate::binding::Resource;
use crate::device::Segment;

/// A heap with one buffer over all of it.
#[derive(Debug)]
pub(super) struct AppleSegment {
    buffer: Buffer,
}

impl AppleSegment {
    pub(super) fn new(buffer: Buffer) -> Self {
        Self { buffer }
    }
}

// SAFETY: the contents of shared storage are mapped for the heap's length from its making to its end,
// start out zero and never move; nothing hands out references into them.
unsafe impl Segment for AppleSegment {
    fn bytes(&self) -> usize {
        self.buffer.length()
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        self.buffer.contents()
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.buffer.gpu_address())
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.buffer.resource())
    }
}
