//! The calls of the device's code to the model.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::{Limits, Metal, key};
use crate::binding::Resource;
use crate::device::fake::apple::builder::AppleGpu;
use crate::device::fake::apple::commands::{Commands, Queue};
use crate::device::fake::apple::compute::{Compute, Pipeline};
use crate::device::fake::apple::encoder::Encoder;
use crate::device::fake::apple::event::Event;
use crate::device::fake::apple::fence::Fence;
use crate::device::fake::apple::heap::{Buffer, Heap, HeapDescriptor};
use crate::device::fake::apple::no_copy;
use crate::device::fake::apple::pools::pooled;
use crate::device::fake::apple::residency::Set;
use crate::device::fake::apple::sparse::{MappingQueue, Seen, SparseMemory};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::mapping::is_mapped;
use crate::device::metal::PARAVIRTUAL;
use crate::device::metal::raw::{self, Family, SizeAndAlign, SparsePageSize, Tiles};
use crate::device::{HostRange, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

impl raw::Metal for Metal {
    type Heap = Heap;
    type Buffer = Buffer;
    type Queue = Queue;
    type Commands = Commands;
    type Blit = Encoder;
    type Compute = Compute;
    type Pipeline = Pipeline;
    type Event = Event;
    type Fence = Fence;
    type Set = Set;
    type Mappings = MappingQueue;

    fn pooled<T>(work: impl FnOnce() -> T) -> T {
        pooled(work)
    }

    fn name(&self) -> String {
        self.enter("name");
        match self.shared.limits.gpu {
            AppleGpu::Silicon => "model of an Apple silicon GPU",
            AppleGpu::Discrete => "model of a discrete GPU of an Intel Mac",
            AppleGpu::Paravirtual => PARAVIRTUAL,
        }
        .into()
    }

    fn has_unified_memory(&self) -> bool {
        self.enter("hasUnifiedMemory");
        self.shared.limits.gpu != AppleGpu::Discrete
    }

    fn supports_family(&self, family: Family) -> bool {
        self.enter("supportsFamily:");
        let apple = match family {
            Family::Apple7 | Family::Apple8 | Family::Apple9 | Family::Metal3 => true,
            // Apple silicon has what both families have (Metal's feature set tables).
            Family::Mac2 => return true,
            Family::Metal4 => self.shared.limits.metal4,
            Family::Apple10 => false,
        };
        apple && self.shared.limits.gpu == AppleGpu::Silicon
    }

    fn max_buffer_length(&self) -> u64 {
        self.enter("maxBufferLength");
        Self::max_buffer_length(self)
    }

    fn recommended_max_working_set_size(&self) -> u64 {
        self.enter("recommendedMaxWorkingSetSize");
        Self::recommended_max_working_set_size(self)
    }

    fn current_allocated_size(&self) -> u64 {
        self.enter("currentAllocatedSize");
        Self::current_allocated_size(self)
    }

    fn peer_group_id(&self) -> u64 {
        self.enter("peerGroupID");
        self.shared.limits.peers.0
    }

    fn memory_bytes(&self) -> u64 {
        Self::memory_bytes(self)
    }

    fn page_bytes(&self) -> usize {
        self.page()
    }

    fn has_residency_sets(&self) -> bool {
        self.shared.limits.macos >= 15
    }

    fn has_placement_sparse(&self) -> bool {
        self.shared.limits.macos >= 26
    }

    fn heap_buffer_size_and_align(&self, length: usize, _storage: StorageMode) -> SizeAndAlign {
        self.enter("heapBufferSizeAndAlignWithLength:options:");
        let (size, align) = Self::heap_buffer_size_and_align(self, length);
        SizeAndAlign { size, align }
    }

    fn new_heap(&self, bytes: usize, storage: StorageMode) -> Result<Heap> {
        self.enter("newHeapWithDescriptor:");
        Self::new_heap(self, &HeapDescriptor { bytes, storage })
    }

    fn new_sparse_heap(
        &self,
        bytes: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Heap> {
        self.enter("newHeapWithDescriptor:");
        self.check_sparse(page, "a heap")?;
        self.make_heap(&HeapDescriptor { bytes, storage }, Some(page))
    }

    fn new_sparse_buffer(
        &self,
        length: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Buffer> {
        self.enter("newBufferWithLength:options:placementSparsePageSize:");
        self.check_sparse(page, "a placement sparse buffer")?;
        let rule = if storage != StorageMode::Private {
            Some(Rule::SparseStorage)
        } else if Tiles::of(page, 0, length).is_none() {
            Some(Rule::SparsePages)
        } else {
            (length as u64 > Self::max_buffer_length(self)).then_some(Rule::BufferLength)
        };
        if let Some(rule) = rule {
            return Err(self.record(Violation {
                rule,
                text: format!("a placement sparse buffer of {length} bytes and {storage} storage"),
            }));
        }
        let address = self.shared.space.reserve(length, page.bytes())?;
        let sparse = Arc::new(SparseMemory::new(address, length, storage, page));
        let mut objects = self.shared.objects.lock();
        objects.sparse.insert(address, Arc::clone(&sparse));
        drop(objects);
        self.charge(self.shared.costs.addresses.ns(length as u64));
        Ok(Buffer::of_pages(self, sparse))
    }

    fn new_buffer(&self, length: usize, storage: StorageMode) -> Result<Buffer> {
        self.enter("newBufferWithLength:options:");
        Self::new_buffer(self, length, storage)
    }

    fn new_buffer_no_copy(
        &self,
        memory: HostRange,
        ended: Box<dyn FnOnce() + Send>,
    ) -> Result<Buffer> {
        self.enter("newBufferWithBytesNoCopy:");
        let Limits {
            buffer_bytes_max,
            empty_no_copy,
            gpu,
            ..
        } = self.shared.limits;
        if let Err(violation) = no_copy::check(&memory, buffer_bytes_max, self.page()) {
            let is_of_pages = violation.rule == Rule::WholePages;
            let error = self.record(violation);
            if gpu != AppleGpu::Paravirtual || !is_of_pages {
                return Err(error);
            }
            let (store, _, address) = self.obtain(self.page(), StorageMode::Private)?;
            return Ok(Buffer::empty(self, store, address, ended));
        }
        self.check_count()?;
        self.charge(self.shared.costs.buffer.ns(memory.bytes as u64));
        let length = if empty_no_copy { 0 } else { memory.bytes };
        Buffer::over(self, memory, length, ended)
    }

    fn has_whole_pages(&self, pages: Range<usize>) -> bool {
        is_mapped(pages.start, pages.len())
    }

    fn buffers_max(&self) -> usize {
        self.shared.limits.buffers_max
    }

    fn new_remote_view(&self, of: &Buffer) -> Result<Buffer> {
        self.enter("newRemoteBufferViewForDevice:");
        Self::new_remote_view(self, of)
    }

    fn find_buffer(&self, resource: Resource) -> Option<Buffer> {
        self.buffer(resource)
    }

    fn new_command_queue(&self, command_buffers_max: usize) -> Result<Queue> {
        self.enter("newCommandQueueWithMaxCommandBufferCount:");
        let seen = Arc::<Seen>::default();
        let core = self.make_core(&seen)?;
        let queue = Queue::new(core, self.clone(), seen, command_buffers_max);
        let object = key(raw::CommandQueue::resource(&queue));
        let mut objects = self.shared.objects.lock();
        objects.queues.insert(object, queue.downgrade());
        Ok(queue)
    }

    fn new_mapping_queue(&self, label: &str) -> Result<MappingQueue> {
        self.enter("newMTL4CommandQueueWithDescriptor:error:");
        let core = self.make_core(&Arc::default())?;
        Ok(MappingQueue::new(core, self.clone(), label))
    }

    fn new_shared_event(&self) -> Result<Event> {
        self.enter("newSharedEvent");
        let event = Event::new(self);
        let mut objects = self.shared.objects.lock();
        objects.events.insert(event.object(), event.downgrade());
        Ok(event)
    }

    fn new_fence(&self) -> Result<Fence> {
        self.enter("newFence");
        Ok(Fence::new(self))
    }

    fn new_residency_set(&self, label: &str) -> Result<Set> {
        self.enter("newResidencySetWithDescriptor:error:");
        let Limits { macos, gpu, .. } = self.shared.limits;
        if macos < 15 || gpu != AppleGpu::Silicon {
            return Err(self.record(Violation {
                rule: Rule::ResidencyOffered,
                text: format!("a residency set is made on macOS {macos} for {gpu:?}"),
            }));
        }
        let set = Set::new(self, label);
        #[cfg(test)]
        self.shared.sets.lock().push(set.downgrade());
        Ok(set)
    }

    fn new_pipeline(&self, _source: &str, function: &str) -> Result<Pipeline> {
        self.enter("newComputePipelineState");
        match function {
            "weldpool_copy" => Ok(Pipeline::Copy),
            "weldpool_fill" => Ok(Pipeline::Fill),
            other => Err(Error::with_message(
                ErrorKind::Unsupported,
                format!("the model knows no function {other}"),
            )),
        }
    }
}
