//! Segments: a heap with one buffer over it, or a buffer of its own.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::raw::{Allocation, Buffer, Heap, Metal, Object};
use super::residency::Member;
use super::{Shared, peers};
use crate::binding::Resource;
use crate::device::raw::Address;
use crate::device::{Segment, StorageMode};
use crate::error::Result;
use crate::sync::Arc;

/// A segment of a device.
#[derive(Debug)]
pub(super) struct MetalSegment<M: Metal> {
    shared: Arc<Shared<M>>,
    bytes: usize,
    host: Option<Address>,
    device: u64,
    resource: Resource,
    /// Whether peers of the device read it.
    shown: bool,
    /// None once it has ended.
    objects: Option<Objects<M>>,
}

/// What it is made of.
#[derive(Debug)]
struct Objects<M: Metal> {
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
        let buffer = match &heap {
            Some(heap) => {
                heap.set_label(&label);
                heap.new_buffer(bytes, 0)?
            }
            None => metal.new_buffer(bytes, storage)?,
        };
        buffer.set_label(&label);
        shared.known.add(&buffer);
        let mut objects = Objects {
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
            host: buffer.contents().map(Address),
            device: buffer.gpu_address(),
            resource: buffer.resource(),
            shown: false,
            objects: Some(objects),
        })
    }

    /// The same, which peers of the device read.
    pub(super) fn shown(mut self) -> Self {
        if let Some(objects) = &self.objects {
            peers::show(&self.shared.metal, &objects.buffer);
            self.shown = true;
        }
        self
    }
}

impl<M: Metal> Drop for MetalSegment<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            if self.shown {
                peers::hide(self.resource);
            }
            self.shared.known.remove(self.resource);
            if let Some(objects) = self.objects.take()
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
}
