//! Segments: a heap with one buffer over it, or a buffer of its own.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::Shared;
use super::object::{Parts, Whole};
use super::raw::{Allocation, Buffer, Heap, Metal, Object};
use super::residency::Member;
use crate::binding::Resource;
use crate::device::raw::Address;
use crate::device::{DriverObject, Segment, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// A segment of a device.
#[derive(Debug)]
pub(super) struct MetalSegment<M: Metal> {
    shared: Arc<Shared<M>>,
    bytes: usize,
    storage: StorageMode,
    host: Option<Address>,
    device: u64,
    resource: Resource,
    /// None once it has ended.
    objects: Option<Objects<M>>,
}

/// What it is made of.
#[derive(Debug)]
struct Objects<M: Metal> {
    /// Buffers over blocks on the heap.
    parts: Parts<M>,
    buffer: M::Buffer,
    /// What keeps it resident is known by this.
    member: Option<Member>,
    /// Goes after its buffer.
    heap: Option<M::Heap>,
}

impl<M: Metal> Objects<M> {
    fn allocation(&self) -> Allocation<'_, M> {
        match &self.heap {
            Some(heap) => Allocation::Heap(heap),
            None => Allocation::Buffer(&self.buffer),
        }
    }
}

impl<M: Metal> MetalSegment<M> {
    pub(super) fn new(
        shared: &Arc<Shared<M>>,
        bytes: usize,
        storage: StorageMode,
        on_heap: bool,
    ) -> Result<Self> {
        let metal = &shared.metal;
        let label = format!("weldpool {storage} {bytes}");
        let heap = on_heap
            .then(|| metal.new_heap(bytes, storage))
            .transpose()?;
        let buffer = shared.known.make(0..bytes, || match &heap {
            Some(heap) => {
                heap.set_label(&label);
                heap.new_buffer(bytes, 0)
            }
            None => metal.new_buffer(bytes, storage),
        })?;
        buffer.set_label(&label);
        let mut objects = Objects {
            parts: Parts::default(),
            buffer,
            member: None,
            heap,
        };
        let held = objects.heap.as_ref().map_or(bytes, Heap::size) as u64;
        objects.member = shared.resident.add(metal, objects.allocation(), held);
        let buffer = &objects.buffer;
        Ok(Self {
            shared: Arc::clone(shared),
            bytes,
            storage,
            host: buffer.contents().map(Address),
            device: buffer.gpu_address(),
            resource: buffer.resource(),
            objects: Some(objects),
        })
    }
}

impl<M: Metal> Drop for MetalSegment<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            let objects = self.objects.take();
            if let Some(objects) = &objects {
                objects.parts.clear();
            }
            self.shared.known.remove(self.resource);
            if let Some(objects) = objects
                && let Some(member) = objects.member
            {
                let resident = &self.shared.resident;
                resident.remove(member, objects.allocation());
            }
        });
    }
}

// SAFETY: contents of shared and managed storage are mapped for the buffer's length from its making to its end, start out
// zero (the system gives no process what another had) and never move; nothing hands out references into them.
unsafe impl<M: Metal> Segment for MetalSegment<M> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        self.host.as_ref().map(|address| address.0)
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.device)
    }

    fn resource(&self) -> Option<Resource> {
        Some(self.resource)
    }

    fn object(&self, offset: usize, bytes: usize) -> Result<Arc<dyn DriverObject>> {
        let objects = self.objects.as_ref();
        if let Some(objects) = objects
            && let Some(heap) = &objects.heap
        {
            let heap = (heap, self.storage);
            return M::pooled(|| objects.parts.get(&self.shared, heap, offset, bytes));
        }
        // The segment outlives whoever has it.
        if offset == 0 && bytes <= self.bytes {
            return Ok(Arc::new(Whole {
                resource: self.resource,
                bytes: self.bytes,
            }));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "memory that lies on no heap has one buffer, and no others over its parts; name it by buffer and offset \
             (Buffer::binding), or ask for memory that is on a heap, which managed and very large memory is not",
        ))
    }
}
