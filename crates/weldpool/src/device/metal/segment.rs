//! Segments: a heap with one buffer over it, or a buffer of its own.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::Shared;
use super::object::{Own, Parts};
use super::raw::{Allocation, Buffer, Heap, Metal, Object};
use super::residency::Member;
use crate::binding::Resource;
use crate::device::{DriverObject, Segment, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// A segment of a device.
#[derive(Debug)]
pub(super) struct MetalSegment<M: Metal> {
    shared: Arc<Shared<M>>,
    bytes: usize,
    storage: StorageMode,
    /// Buffers over blocks on the heap.
    parts: Parts<M>,
    buffer: M::Buffer,
    /// What keeps it resident is known by this.
    member: Option<Member>,
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
        let buffer = shared.known.make(0..bytes, || match &heap {
            Some(heap) => {
                heap.set_label("weldpool segment");
                heap.new_buffer(bytes, 0)
            }
            None => metal.new_buffer(bytes, storage),
        })?;
        buffer.set_label("weldpool segment");
        let allocation = match &heap {
            Some(heap) => Allocation::Heap(heap),
            None => Allocation::Buffer(&buffer),
        };
        let held = heap.as_ref().map_or(bytes, Heap::size) as u64;
        let member = shared.resident.add(metal, allocation, held);
        Ok(Self {
            shared: Arc::clone(shared),
            bytes,
            storage,
            parts: Parts::default(),
            buffer,
            member,
            heap,
        })
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
        self.parts.clear();
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

    fn object(&self, offset: usize, bytes: usize) -> Result<Arc<dyn DriverObject>> {
        if let Some(heap) = &self.heap {
            let heap = (heap, self.storage);
            return self.parts.get(&self.shared, heap, offset, bytes);
        }
        if offset == 0 && bytes <= self.bytes {
            return Ok(Arc::new(Own(self.buffer.clone())));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "memory that lies on no heap has one buffer, and no others over its parts; name it by buffer and offset              (Buffer::binding), or ask for memory that is on a heap, which managed and very large memory is not",
        ))
    }
}
