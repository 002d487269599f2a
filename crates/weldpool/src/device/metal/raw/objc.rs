//! Metal on a Mac. Type-checked and linked, not run.
//!
//! Each function makes the call that its name in [`raw`](super) says, after the checks that Metal leaves to its caller.

#![allow(unsafe_code)]

mod counted;
mod sparse;

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use block2::RcBlock;
use dispatch2::DispatchQueue;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol as _, ProtocolObject};
use objc2::{AnyThread, sel};
use objc2_foundation::NSString;
use objc2_metal::{
    MTLAllocation, MTLBlitCommandEncoder as _, MTLBuffer, MTLCommandBuffer as _,
    MTLCommandEncoder as _, MTLCommandQueue as _, MTLComputeCommandEncoder as _,
    MTLComputePipelineState as _, MTLDevice as _, MTLEvent as _, MTLFence as _, MTLGPUFamily,
    MTLHazardTrackingMode, MTLHeap as _, MTLHeapDescriptor, MTLHeapType, MTLLibrary as _,
    MTLPurgeableState, MTLResidencySet as _, MTLResidencySetDescriptor, MTLResource as _,
    MTLResourceOptions, MTLSharedEvent as _, MTLSharedEventListener, MTLSize, MTLStorageMode,
};

use self::counted::{Counted, Once, Shared};
use super::{Allocation, Family, Metal, Outcome, PurgeableState, SizeAndAlign, SparsePageSize};
use crate::binding::Resource;
use crate::device::host::{darwin, system};
use crate::device::{HostRange, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::registered::CopyReason;
use crate::sync::{Arc, OnceLock};

/// Threads of a group: a multiple of every GPU's width (32 on Apple's).
const GROUP: usize = 256;
/// Buffers that may be alive where the system does not tell (MLX, `metal/allocator.cpp`).
const BUFFERS_MAX: usize = 499_000;
/// Bytes that `setBytes:length:atIndex:` takes at most (its documentation).
const SET_BYTES_MAX: usize = 4 << 10;

macro_rules! objects {
    ($counted:ident $traits:tt: $($(#[$about:meta])* $name:ident: $protocol:ident;)*) => {
        $(
            $(#[$about])*
            #[derive $traits]
            pub(in crate::device) struct $name($counted<ProtocolObject<dyn objc2_metal::$protocol>>);

            impl $name {
                fn new(object: Retained<ProtocolObject<dyn objc2_metal::$protocol>>) -> Self {
                    Self($counted::new(object))
                }
            }
        )*
    };
}

// Of one thread at a time.
objects! { Counted (Debug):
    /// `MTLCommandBuffer`.
    Commands: MTLCommandBuffer;
    /// `MTLBlitCommandEncoder`.
    Blit: MTLBlitCommandEncoder;
    /// `MTLComputeCommandEncoder`.
    Compute: MTLComputeCommandEncoder;
}

objects! { Shared (Debug, Clone):
    /// `MTLDevice`.
    Device: MTLDevice;
    /// `MTLHeap`.
    Heap: MTLHeap;
    /// `MTLBuffer`.
    Buffer: MTLBuffer;
    /// `MTLCommandQueue`.
    Queue: MTLCommandQueue;
    /// `MTLComputePipelineState`.
    Pipeline: MTLComputePipelineState;
    /// `MTLFence`.
    Fence: MTLFence;
    /// `MTLResidencySet`.
    Set: MTLResidencySet;
    /// `MTL4CommandQueue`, for mappings.
    Mappings: MTL4CommandQueue;
}

/// `MTLSharedEvent`, with a listener and its queue of its own once somebody listens, so that a block which waits keeps no
/// other event's from being called.
#[derive(Debug, Clone)]
pub(in crate::device) struct Event {
    event: Shared<ProtocolObject<dyn objc2_metal::MTLSharedEvent>>,
    listener: Arc<OnceLock<Shared<MTLSharedEventListener>>>,
}

fn options(storage: StorageMode) -> MTLResourceOptions {
    let mode = match storage {
        StorageMode::Shared => MTLResourceOptions::StorageModeShared,
        StorageMode::Managed => MTLResourceOptions::StorageModeManaged,
        StorageMode::Private => MTLResourceOptions::StorageModePrivate,
    };
    mode | MTLResourceOptions::HazardTrackingModeUntracked
}

fn mode(storage: StorageMode) -> MTLStorageMode {
    match storage {
        StorageMode::Shared => MTLStorageMode::Shared,
        StorageMode::Managed => MTLStorageMode::Managed,
        StorageMode::Private => MTLStorageMode::Private,
    }
}

/// Metal gives no object and no reason when it has no memory for one.
fn made<T>(object: Option<T>, what: impl FnOnce() -> String) -> Result<T> {
    object.ok_or_else(|| {
        Error::with_message(ErrorKind::OutOfMemory, format!("Metal made no {}", what()))
    })
}

/// With the code (`MTLCommandBufferError`, for one), since the text is in the user's language.
fn failed(what: &str, error: &objc2_foundation::NSError) -> Error {
    let (text, domain, code) = (error.localizedDescription(), error.domain(), error.code());
    Error::with_message(
        ErrorKind::System,
        format!("{what}: {text} ({domain} {code})"),
    )
}

/// The devices of this machine.
pub(in crate::device) fn devices() -> Vec<Device> {
    autoreleasepool(|_| {
        let all = objc2_metal::MTLCopyAllDevices();
        all.iter().map(Device::new).collect()
    })
}

impl Metal for Device {
    type Heap = Heap;
    type Buffer = Buffer;
    type Queue = Queue;
    type Commands = Commands;
    type Blit = Blit;
    type Compute = Compute;
    type Pipeline = Pipeline;
    type Event = Event;
    type Fence = Fence;
    type Set = Set;
    type Mappings = Mappings;

    fn pooled<T>(work: impl FnOnce() -> T) -> T {
        autoreleasepool(|_| work())
    }

    fn name(&self) -> String {
        self.0.name().to_string()
    }

    fn has_unified_memory(&self) -> bool {
        self.0.hasUnifiedMemory()
    }

    fn supports_family(&self, family: Family) -> bool {
        self.0.supportsFamily(match family {
            Family::Apple7 => MTLGPUFamily::Apple7,
            Family::Apple8 => MTLGPUFamily::Apple8,
            Family::Apple9 => MTLGPUFamily::Apple9,
            Family::Apple10 => MTLGPUFamily::Apple10,
            Family::Mac2 => MTLGPUFamily::Mac2,
            Family::Metal3 => MTLGPUFamily::Metal3,
            Family::Metal4 => MTLGPUFamily::Metal4,
        })
    }

    fn max_buffer_length(&self) -> u64 {
        self.0.maxBufferLength() as u64
    }

    fn recommended_max_working_set_size(&self) -> u64 {
        self.0.recommendedMaxWorkingSetSize()
    }

    fn current_allocated_size(&self) -> u64 {
        self.0.currentAllocatedSize() as u64
    }

    fn peer_group_id(&self) -> u64 {
        self.0.peerGroupID()
    }

    fn memory_bytes(&self) -> u64 {
        system::budget().map_or(0, |budget| budget.total)
    }

    // The kernel's, which the GPU maps, and not the smaller ones of a process under Rosetta.
    fn page_bytes(&self) -> usize {
        let page = rustix::param::page_size();
        usize::try_from(darwin::kernel_page_bytes()).map_or(page, |kernel| kernel.max(page))
    }

    fn has_residency_sets(&self) -> bool {
        // Not by the system's version, which a program built with an older SDK is told wrongly.
        let selector = sel!(newResidencySetWithDescriptor:error:);
        self.0.respondsToSelector(selector)
    }

    fn has_placement_sparse(&self) -> bool {
        sparse::is_there(self)
    }

    fn heap_buffer_size_and_align(&self, length: usize, storage: StorageMode) -> SizeAndAlign {
        let needed = self
            .0
            .heapBufferSizeAndAlignWithLength_options(length, options(storage));
        SizeAndAlign {
            size: needed.size,
            align: needed.align,
        }
    }

    fn new_heap(&self, bytes: usize, storage: StorageMode) -> Result<Heap> {
        let descriptor = MTLHeapDescriptor::new();
        descriptor.setSize(bytes);
        descriptor.setStorageMode(mode(storage));
        descriptor.setType(MTLHeapType::Placement);
        descriptor.setHazardTrackingMode(MTLHazardTrackingMode::Untracked);
        let heap = self.0.newHeapWithDescriptor(&descriptor);
        made(heap, || format!("heap of {bytes} bytes")).map(Heap::new)
    }

    fn new_sparse_heap(
        &self,
        bytes: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Heap> {
        sparse::new_heap(self, bytes, storage, page)
    }

    fn new_sparse_buffer(
        &self,
        length: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Buffer> {
        sparse::new_buffer(self, length, storage, page)
    }

    fn new_mapping_queue(&self, label: &str) -> Result<Mappings> {
        sparse::new_queue(self, label)
    }

    fn new_buffer(&self, length: usize, storage: StorageMode) -> Result<Buffer> {
        let most = self.0.maxBufferLength();
        if length == 0 || length > most {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("a buffer of {length} bytes, where the longest is of {most}"),
            ));
        }
        let buffer = self.0.newBufferWithLength_options(length, options(storage));
        made(buffer, || format!("buffer of {length} bytes")).map(Buffer::new)
    }

    fn new_buffer_no_copy(
        &self,
        memory: HostRange,
        ended: Box<dyn FnOnce() + Send>,
    ) -> Result<Buffer> {
        let page = self.page_bytes();
        let start = memory.address.as_ptr().addr();
        let whole = start.is_multiple_of(page) && memory.bytes.is_multiple_of(page);
        if !whole || memory.bytes == 0 || memory.bytes > self.0.maxBufferLength() {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "memory that is wrapped without a copy consists of whole pages, and is no longer than maxBufferLength",
            ));
        }
        let ended = Once::new(ended);
        let deallocator = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            ended.with(|ended| ended());
        });
        // SAFETY: address and length are those of whole pages, which whoever registers them keeps mapped until the
        // deallocator was called; Metal copies the block, which owns all that it uses and may be called on any thread.
        let buffer = unsafe {
            self.0.newBufferWithBytesNoCopy_length_options_deallocator(
                memory.address.cast(),
                memory.bytes,
                options(StorageMode::Shared),
                Some(&deallocator),
            )
        };
        buffer.map(Buffer::new).ok_or_else(|| {
            let text = format!(
                "Metal made no buffer over {} bytes of the program's; it takes memory of one mapping (mmap, vm_allocate)",
                memory.bytes
            );
            Error::with_message(ErrorKind::System, text).with_copy_reason(CopyReason::Refused)
        })
    }

    fn has_whole_pages(&self, _pages: Range<usize>) -> bool {
        self.page_bytes() == rustix::param::page_size()
    }

    fn buffers_max(&self) -> usize {
        let told = darwin::sysctl_number(c"iogpu.rsrc_limit").ok();
        let told = told.and_then(|most| usize::try_from(most).ok());
        told.filter(|&most| most > 0).unwrap_or(BUFFERS_MAX)
    }

    fn new_remote_view(&self, of: &Buffer) -> Result<Buffer> {
        let group = self.0.peerGroupID();
        let same = group != 0 && of.0.device().peerGroupID() == group;
        if !same || of.0.storageMode() != MTLStorageMode::Private {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "a remote view is of private storage of a device of the same peer group",
            ));
        }
        let view = of.0.newRemoteBufferViewForDevice(&self.0);
        made(view, || "view of a peer's buffer".into()).map(Buffer::new)
    }

    fn new_command_queue(&self, command_buffers_max: usize) -> Result<Queue> {
        let queue = self
            .0
            .newCommandQueueWithMaxCommandBufferCount(command_buffers_max);
        made(queue, || "command queue".into()).map(Queue::new)
    }

    fn new_shared_event(&self) -> Result<Event> {
        let event = made(self.0.newSharedEvent(), || "shared event".into())?;
        Ok(Event {
            event: Shared::new(event),
            listener: Arc::default(),
        })
    }

    fn new_fence(&self) -> Result<Fence> {
        made(self.0.newFence(), || "fence".into()).map(Fence::new)
    }

    fn new_residency_set(&self, label: &str) -> Result<Set> {
        let descriptor = MTLResidencySetDescriptor::new();
        descriptor.setLabel(Some(&NSString::from_str(label)));
        let set = self.0.newResidencySetWithDescriptor_error(&descriptor);
        set.map(Set::new)
            .map_err(|error| failed("making a residency set", &error))
    }

    fn new_pipeline(&self, source: &str, function: &str) -> Result<Pipeline> {
        let library = self
            .0
            .newLibraryWithSource_options_error(&NSString::from_str(source), None);
        let library = library.map_err(|error| failed("compiling a kernel", &error))?;
        let found = library.newFunctionWithName(&NSString::from_str(function));
        let found = made(found, || format!("function {function}"))?;
        let pipeline = self.0.newComputePipelineStateWithFunction_error(&found);
        let pipeline = pipeline.map_err(|error| failed("making a pipeline", &error))?;
        let most = pipeline.maxTotalThreadsPerThreadgroup();
        if most < GROUP {
            return Err(Error::with_message(
                ErrorKind::Unsupported,
                format!("the GPU runs {function} in groups of {most} threads, not of {GROUP}"),
            ));
        }
        Ok(Pipeline::new(pipeline))
    }
}

macro_rules! labelled {
    ($($name:ident)*) => {
        $(
            impl super::Object for $name {
                fn set_label(&self, label: &str) {
                    self.0.setLabel(Some(&NSString::from_str(label)));
                }
            }
        )*
    };
}

labelled! { Heap Buffer Queue Fence }

impl super::Object for Event {
    fn set_label(&self, label: &str) {
        self.event.setLabel(Some(&NSString::from_str(label)));
    }
}

impl super::Heap for Heap {
    type Buffer = Buffer;

    fn size(&self) -> usize {
        self.0.size()
    }

    fn new_buffer(&self, length: usize, offset: usize) -> Result<Buffer> {
        let (heap, size) = (&self.0, self.size());
        let options = heap.resourceOptions();
        let needed = heap
            .device()
            .heapBufferSizeAndAlignWithLength_options(length, options);
        let end = offset.checked_add(needed.size);
        if length == 0 || !offset.is_multiple_of(needed.align) || end.is_none_or(|end| end > size) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "a buffer of {length} bytes at {offset} on a heap of {size} bytes; the alignment is {}",
                    needed.align
                ),
            ));
        }
        // SAFETY: the place is inside the heap, at a multiple of the alignment, as the call leaves to its caller.
        let buffer = unsafe { heap.newBufferWithLength_options_offset(length, options, offset) };
        made(buffer, || format!("buffer of {length} bytes on a heap")).map(Buffer::new)
    }

    fn set_purgeable_state(&self, state: PurgeableState) -> PurgeableState {
        let before = self.0.setPurgeableState(MTLPurgeableState(state as usize));
        match before {
            MTLPurgeableState::Volatile => PurgeableState::Volatile,
            MTLPurgeableState::Empty => PurgeableState::Empty,
            _ => PurgeableState::NonVolatile,
        }
    }
}

impl super::Buffer for Buffer {
    fn length(&self) -> usize {
        self.0.length()
    }

    fn storage_mode(&self) -> StorageMode {
        match self.0.storageMode() {
            MTLStorageMode::Managed => StorageMode::Managed,
            MTLStorageMode::Private => StorageMode::Private,
            _ => StorageMode::Shared,
        }
    }

    fn contents(&self) -> Option<NonNull<u8>> {
        if self.0.storageMode() == MTLStorageMode::Private {
            return None;
        }
        Some(self.0.contents().cast())
    }

    fn gpu_address(&self) -> u64 {
        self.0.gpuAddress()
    }

    fn resource(&self) -> Resource {
        Resource::new(NonNull::from(&*self.0).cast())
    }

    fn did_modify_range(&self, range: Range<usize>) {
        let is_inside = range.start <= range.end && range.end <= self.0.length();
        if self.0.storageMode() != MTLStorageMode::Managed || !is_inside {
            tracing::error!(
                ?range,
                "a change was not announced: it is not inside a managed buffer"
            );
            return;
        }
        self.0.didModifyRange(objc2_foundation::NSRange {
            location: range.start,
            length: range.len(),
        });
    }
}

impl super::CommandQueue for Queue {
    type Metal = Device;

    fn command_buffer(&self) -> Result<Commands> {
        made(self.0.commandBuffer(), || "command buffer".into()).map(Commands::new)
    }

    fn add_residency_set(&self, set: &Set) {
        self.0.addResidencySet(&set.0);
    }

    fn resource(&self) -> Resource {
        Resource::new(NonNull::from(&*self.0).cast())
    }
}

impl super::CommandBuffer for Commands {
    type Metal = Device;

    fn set_label(&self, label: &str) {
        self.0.setLabel(Some(&NSString::from_str(label)));
    }

    fn blit_encoder(&self) -> Result<Blit> {
        made(self.0.blitCommandEncoder(), || "blit encoder".into()).map(Blit::new)
    }

    fn compute_encoder(&self) -> Result<Compute> {
        made(self.0.computeCommandEncoder(), || "compute encoder".into()).map(Compute::new)
    }

    fn wait_for(&self, event: &Event, value: u64) {
        self.0
            .encodeWaitForEvent_value((*event.event).as_ref(), value);
    }

    fn signal(&self, event: &Event, value: u64) {
        self.0
            .encodeSignalEvent_value((*event.event).as_ref(), value);
    }

    fn on_completed(&self, handler: Box<dyn FnOnce(Outcome) + Send>) {
        let handler = Once::new(handler);
        let block = RcBlock::new(
            move |commands: NonNull<ProtocolObject<dyn objc2_metal::MTLCommandBuffer>>| {
                let outcome = autoreleasepool(|_| {
                    // SAFETY: Metal passes the command buffer, which lives during the call.
                    let error = unsafe { commands.as_ref() }.error();
                    error.map_or(Ok(()), |error| Err(failed("a command buffer", &error)))
                });
                handler.with(|handler| handler(outcome));
            },
        );
        // SAFETY: Metal copies the block, which owns all that it uses and may be called on any thread.
        unsafe { self.0.addCompletedHandler(RcBlock::as_ptr(&block)) };
    }

    fn commit(&self) {
        self.0.commit();
    }
}

/// Whether a range is inside a buffer and consists of what a blit moves.
fn is_for_blits(buffer: &Buffer, offset: usize, bytes: usize) -> bool {
    let aligned = [offset, bytes]
        .iter()
        .all(|number| number.is_multiple_of(super::BLIT_ALIGNMENT));
    let end = offset.checked_add(bytes);
    aligned && end.is_some_and(|end| end <= super::Buffer::length(buffer))
}

macro_rules! encoders {
    ($($name:ident)*) => {
        $(
            impl super::Encoder for $name {
                type Metal = Device;

                fn wait_for_fence(&self, fence: &Fence) {
                    self.0.waitForFence(&fence.0);
                }

                fn update_fence(&self, fence: &Fence) {
                    self.0.updateFence(&fence.0);
                }

                fn end(&self) {
                    self.0.endEncoding();
                }
            }
        )*
    };
}

encoders! { Blit Compute }

impl super::BlitEncoder for Blit {
    fn copy(&self, from: (&Buffer, usize), to: (&Buffer, usize), bytes: usize) {
        if !is_for_blits(from.0, from.1, bytes) || !is_for_blits(to.0, to.1, bytes) {
            tracing::error!(
                bytes,
                "a blit was left out: its places are not inside the buffers"
            );
            return;
        }
        // SAFETY: both ranges are inside their buffers, at multiples of four; the command buffer keeps the buffers.
        unsafe {
            self.0
                .copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                    &from.0.0, from.1, &to.0.0, to.1, bytes,
                );
        };
    }

    fn fill(&self, buffer: &Buffer, range: Range<usize>, value: u8) {
        if !is_for_blits(buffer, range.start, range.len()) {
            tracing::error!(?range, "a fill was left out: it is not inside the buffer");
            return;
        }
        let range = objc2_foundation::NSRange {
            location: range.start,
            length: range.len(),
        };
        self.0.fillBuffer_range_value(&buffer.0, range, value);
    }

    fn synchronize(&self, buffer: &Buffer) {
        self.0.synchronizeResource((*buffer.0).as_ref());
    }
}

impl super::ComputeEncoder for Compute {
    fn set_pipeline(&self, pipeline: &Pipeline) {
        self.0.setComputePipelineState(&pipeline.0);
    }

    fn set_buffer(&self, buffer: &Buffer, offset: usize, index: usize) {
        if offset >= super::Buffer::length(buffer) {
            tracing::error!(offset, "a buffer was not bound: the offset is not inside");
            return;
        }
        // SAFETY: the kernels stay inside the buffer, which the command buffer keeps; indices are theirs.
        unsafe {
            self.0
                .setBuffer_offset_atIndex(Some(&buffer.0), offset, index);
        };
    }

    fn set_bytes(&self, bytes: &[u8], index: usize) {
        if bytes.is_empty() || bytes.len() > SET_BYTES_MAX {
            let bytes = bytes.len();
            tracing::error!(bytes, "an argument was not bound: it is empty or too long");
            return;
        }
        // SAFETY: Metal copies so many bytes from there.
        unsafe {
            self.0
                .setBytes_length_atIndex(NonNull::from(bytes).cast(), bytes.len(), index);
        };
    }

    fn dispatch(&self, threads: usize) {
        if threads == 0 {
            return;
        }
        let line = |width| MTLSize {
            width,
            height: 1,
            depth: 1,
        };
        self.0
            .dispatchThreads_threadsPerThreadgroup(line(threads), line(GROUP.min(threads)));
    }
}

/// A listener that calls its blocks one after the other, on a queue of its own.
fn listener() -> Shared<MTLSharedEventListener> {
    let queue = DispatchQueue::new("weldpool listener", None);
    // SAFETY: a dispatch queue may be used from any thread, and the listener keeps it.
    Shared::new(unsafe {
        MTLSharedEventListener::initWithDispatchQueue(MTLSharedEventListener::alloc(), &queue)
    })
}

impl super::SharedEvent for Event {
    fn resource(&self) -> Resource {
        Resource::new(NonNull::from(&*self.event).cast())
    }

    fn signaled_value(&self) -> u64 {
        self.event.signaledValue()
    }

    fn set_signaled_value(&self, value: u64) {
        self.event.setSignaledValue(value);
    }

    fn notify(&self, value: u64, block: Box<dyn FnOnce() + Send>) {
        let block = Once::new(block);
        let called = RcBlock::new(
            move |_event: NonNull<ProtocolObject<dyn objc2_metal::MTLSharedEvent>>, _value: u64| {
                block.with(|block| block());
            },
        );
        let listener: &MTLSharedEventListener = self.listener.get_or_init(listener);
        // SAFETY: Metal copies the block, which owns all that it uses and may be called on any thread.
        unsafe {
            self.event
                .notifyListener_atValue_block(listener, value, RcBlock::as_ptr(&called));
        };
    }

    fn wait(&self, value: u64, milliseconds: u64) -> bool {
        self.event
            .waitUntilSignaledValue_timeoutMS(value, milliseconds)
    }
}

fn allocation<'a>(of: Allocation<'a, Device>) -> &'a ProtocolObject<dyn MTLAllocation> {
    match of {
        Allocation::Heap(heap) => (*heap.0).as_ref(),
        Allocation::Buffer(buffer) => (*buffer.0).as_ref(),
    }
}

impl super::ResidencySet for Set {
    type Metal = Device;

    fn add(&self, of: Allocation<'_, Device>) {
        self.0.addAllocation(allocation(of));
    }

    fn remove(&self, of: Allocation<'_, Device>) {
        self.0.removeAllocation(allocation(of));
    }

    fn commit(&self) {
        self.0.commit();
    }

    fn request_residency(&self) {
        self.0.requestResidency();
    }

    fn end_residency(&self) {
        self.0.endResidency();
    }
}
