//! Segments: a heap with one buffer over it, or a buffer of its own.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::raw::{Allocation, Buffer, Heap, Metal, Object};
use super::residency::Member;
use super::{Shared, peers};
use crate::binding::Resource;
use crate::device::{Segment, StorageMode};
use crate::error::Result;
use crate::sync::Arc;

/// A segment of a device.
#[derive(Debug)]
pub(super) struct MetalSegment<M: Metal> {
    shared: Arc<Shared<M>>,
    bytes: usize,
    buffer: M::Buffer,
    /// What keeps it resident is known by this.
    member: Option<Member>,
    /// Whether peers of the device read it.
    shown: bool,
    /// Goes after its buffer.
    heap: Option<M::Heap>,
}

impl<M: Metal> MetalSegment<M> {
    pub(super) fn new(
        shared: &Arc<Shared<M>>,
        bytes: usize,
        storage: StorageMode,
        on_heap: bool,
    ) -> Result<Self> {
        let metal = &shared.metal;
        let heap = on_heap
            .then(|| metal.new_heap(bytes, storage))
            .transpose()?;
        let buffer = match &heap {
            Some(heap) => {
                heap.set_label("weldpool segment");
                heap.new_buffer(bytes, 0)?
            }
            None => metal.new_buffer(bytes, storage)?,
        };
        buffer.set_label("weldpool segment");
        shared.known.add(&buffer);
        let allocation = match &heap {
            Some(heap) => Allocation::Heap(heap),
            None => Allocation::Buffer(&buffer),
        };
        let held = heap.as_ref().map_or(bytes, Heap::size) as u64;
        let member = shared.resident.add(metal, allocation, held);
        Ok(Self {
            shared: Arc::clone(shared),
            bytes,
            buffer,
            member,
            shown: false,
            heap,
        })
    }

    /// The same, which peers of the device read.
    pub(super) fn shown(mut self) -> Self {
        peers::show(&self.shared.metal, &self.buffer);
        self.shown = true;
        self
    }

    fn allocation(&self) -> Allocation<'_, M> {
        match &self.heap {
            Some(heap) => Allocation::Heap(heap),
            None => Allocation::Buffer(&self.buffer),
        }
    }
}

impl<M: Metal> Drop for MetalSegment<M> {
    fn drop(&mut self) {
        if self.shown {
            peers::hide(self.buffer.resource());
        }
        self.shared.known.remove(self.buffer.resource());
        if let Some(member) = self.member {
            self.shared.resident.remove(member, self.allocation());
        }
    }
}

// SAFETY: contents of shared and managed storage are mapped for the buffer's length from its making to its end, start out
// zero (the system gives no process what another had) and never move; nothing hands out references into them.
unsafe impl<M: Metal> Segment for MetalSegment<M> {
    fn bytes(&self) -> usize {
        self.bytes
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
