//! Segments: a heap with one buffer over it, or a buffer of its own.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::object::{Parts, Whole};
use super::raw::{Allocation, Buffer, Heap, Metal, Object, PurgeableState};
use super::residency::Member;
use super::{Shared, peers};
use crate::binding::Resource;
use crate::device::raw::Address;
use crate::device::{DriverObject, Segment, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// A segment of a device.
#[derive(Debug)]
pub(super) struct MetalSegment<M: Metal> {
    shared: Arc<Shared<M>>,
    bytes: usize,
    storage: StorageMode,
    host: Option<Address>,
    device: u64,
    resource: Resource,
    /// Whether peers of the device read it.
    shown: bool,
    parked: AtomicBool,
    /// None once it has ended.
    objects: Option<Objects<M>>,
}

/// What it is made of.
#[derive(Debug)]
struct Objects<M: Metal> {
    /// Buffers over blocks on the heap.
    parts: Parts<M>,
    buffer: M::Buffer,
    bytes: u64,
    /// What keeps it resident is known by this.
    member: Mutex<Option<Member>>,
    /// Goes after its buffer.
    heap: Option<M::Heap>,
}

impl<M: Metal> Objects<M> {
    fn enter_residency(&self, shared: &Shared<M>) {
        let member = shared
            .resident
            .add(&shared.metal, self.allocation(), self.bytes);
        *self.member.lock() = member;
    }

    fn leave_residency(&self, shared: &Shared<M>) {
        if let Some(member) = self.member.lock().take() {
            shared.resident.remove(member, self.allocation());
        }
    }

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
            .then(|| {
                // A buffer may take more of a heap than its length.
                let needed = metal.heap_buffer_size_and_align(bytes, storage).size;
                metal.new_heap(bytes.max(needed), storage)
            })
            .transpose()?;
        let buffer = shared.known.make(0..bytes, || {
            Ok(match &heap {
                Some(heap) => {
                    heap.set_label(&label);
                    heap.new_buffer(bytes, 0)?
                }
                None => metal.new_buffer(bytes, storage)?,
            })
        })?;
        buffer.set_label(&label);
        let objects = Objects {
            parts: Parts::default(),
            buffer,
            bytes: heap.as_ref().map_or(bytes, Heap::size) as u64,
            member: Mutex::default(),
            heap,
        };
        objects.enter_residency(shared);
        let buffer = &objects.buffer;
        Ok(Self {
            shared: Arc::clone(shared),
            bytes,
            storage,
            host: buffer.contents().map(Address),
            device: buffer.gpu_address(),
            resource: buffer.resource(),
            shown: false,
            parked: AtomicBool::new(false),
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

impl<M: Metal> MetalSegment<M> {
    fn heap(&self) -> Option<&M::Heap> {
        self.objects.as_ref()?.heap.as_ref()
    }

    /// What is parked can be had again, and counts as available.
    fn count_parked(&self, parked: bool) {
        if self.parked.swap(parked, Ordering::Relaxed) == parked {
            return;
        }
        let (counter, bytes) = (&self.shared.parked, self.bytes as u64);
        match parked {
            true => counter.fetch_add(bytes, Ordering::Relaxed),
            false => counter.fetch_sub(bytes, Ordering::Relaxed),
        };
    }
}

impl<M: Metal> Drop for MetalSegment<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            let objects = self.objects.take();
            if self.shown {
                peers::hide(self.resource);
            }
            if let Some(objects) = &objects {
                objects.parts.clear();
            }
            self.shared.known.remove(self.resource);
            if let Some(objects) = objects {
                objects.leave_residency(&self.shared);
                // A set keeps what it holds until then.
                self.shared.resident.commit();
            }
            self.count_parked(false);
        });
    }
}

// SAFETY: contents of shared and managed storage are mapped for the buffer's length, which is no less than what was asked
// for, from its making to its end, are initialised by the system, which gives no process what another had, and never move;
// nothing hands out references into them.
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

    fn parks(&self) -> bool {
        self.heap().is_some()
    }

    fn park(&self) {
        let (Some(objects), Some(heap)) = (&self.objects, self.heap()) else {
            return;
        };
        M::pooled(|| {
            objects.parts.clear();
            // What a set holds is wired, and wired memory is not taken.
            objects.leave_residency(&self.shared);
            self.shared.resident.commit();
            heap.set_purgeable_state(PurgeableState::Volatile);
        });
        self.count_parked(true);
    }

    fn is_discarded(&self) -> bool {
        let state = |heap: &M::Heap| heap.set_purgeable_state(PurgeableState::KeepCurrent);
        self.heap()
            .is_some_and(|heap| M::pooled(|| state(heap)) == PurgeableState::Empty)
    }

    fn reclaim(&self) -> bool {
        let (Some(objects), Some(heap)) = (&self.objects, self.heap()) else {
            return true;
        };
        let before = M::pooled(|| heap.set_purgeable_state(PurgeableState::NonVolatile));
        self.count_parked(false);
        if before == PurgeableState::Empty {
            return false;
        }
        M::pooled(|| objects.enter_residency(&self.shared));
        true
    }
}
