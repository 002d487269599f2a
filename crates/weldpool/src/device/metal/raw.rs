//! Metal, one call per function.
//!
//! What the device's code needs of Metal is named here. Two things provide it: `objc.rs`, which makes the calls on a Mac,
//! and the model of Metal under [`FakeApple`](crate::device::fake::FakeApple), which keeps the rules that Apple documents
//! for them, on any machine. Functions are named after the methods they call; objects are handles of what is counted.

#[cfg(target_os = "macos")]
pub(in crate::device) mod objc;
mod sparse;

use std::fmt::Debug;
use std::ops::Range;
use std::ptr::NonNull;

use crate::binding::Resource;
use crate::device::{HostRange, StorageMode};
use crate::error::{Error, Result};

pub(in crate::device) use self::sparse::{MappingQueue, SparsePageSize, Tiles};

/// What objects of Metal are that threads share.
pub(in crate::device) trait Object:
    Clone + Debug + Send + Sync + 'static
{
    /// `setLabel:`, for Instruments and for the messages of Metal's validation.
    fn set_label(&self, label: &str);
}

/// `MTLDevice`.
pub(in crate::device) trait Metal: Clone + Debug + Send + Sync + 'static {
    type Heap: Heap<Buffer = Self::Buffer>;
    type Buffer: Buffer;
    type Queue: CommandQueue<Metal = Self>;
    type Commands: CommandBuffer<Metal = Self>;
    type Blit: BlitEncoder<Metal = Self>;
    type Compute: ComputeEncoder<Metal = Self>;
    type Pipeline: Debug + Send + Sync + 'static;
    type Event: SharedEvent;
    type Fence: Object;
    type Set: ResidencySet<Metal = Self>;
    type Mappings: MappingQueue<Metal = Self>;

    /// Runs `work` in an autorelease pool of its own, so that what Metal autoreleases goes with it.
    fn pooled<T>(work: impl FnOnce() -> T) -> T;

    /// `name`.
    fn name(&self) -> String;
    /// `hasUnifiedMemory`.
    fn has_unified_memory(&self) -> bool;
    /// `supportsFamily:`.
    fn supports_family(&self, family: Family) -> bool;
    /// `maxBufferLength` in bytes.
    fn max_buffer_length(&self) -> u64;
    /// `recommendedMaxWorkingSetSize` in bytes; 0 where it is not known.
    fn recommended_max_working_set_size(&self) -> u64;
    /// `currentAllocatedSize` in bytes: all resources of the device in this process, others' too.
    fn current_allocated_size(&self) -> u64;
    /// `peerGroupID`; 0 for a device without peers.
    fn peer_group_id(&self) -> u64;
    /// Physical memory in bytes (`hw.memsize`).
    fn memory_bytes(&self) -> u64;
    /// Bytes of a page of the host's kernel (`vm_kernel_page_size`).
    fn page_bytes(&self) -> usize;
    /// Whether the system has residency sets (macOS 15).
    fn has_residency_sets(&self) -> bool;
    /// Whether the system has placement sparse buffers (macOS 26). The GPU must be of [`Family::Metal4`] besides.
    fn has_placement_sparse(&self) -> bool;
    /// `heapBufferSizeAndAlignWithLength:options:`, in bytes.
    fn heap_buffer_size_and_align(&self, length: usize, storage: StorageMode) -> SizeAndAlign;

    /// `newHeapWithDescriptor:`, of type placement, with hazard tracking off.
    fn new_heap(&self, bytes: usize, storage: StorageMode) -> Result<Self::Heap>;
    /// The same with `maxCompatiblePlacementSparsePageSize`, so that its tiles can be mapped.
    fn new_sparse_heap(
        &self,
        bytes: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Self::Heap>;
    /// `newBufferWithLength:options:`, with hazard tracking off.
    fn new_buffer(&self, length: usize, storage: StorageMode) -> Result<Self::Buffer>;
    /// `newBufferWithLength:options:placementSparsePageSize:`, with hazard tracking off; of whole pages.
    fn new_sparse_buffer(
        &self,
        length: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Result<Self::Buffer>;
    /// `newBufferWithBytesNoCopy:length:options:deallocator:` of shared storage, over whole pages, one at least. The memory
    /// stays mapped while the buffer lives: until `ended` is called, which the deallocator does, or no buffer was made.
    fn new_buffer_no_copy(
        &self,
        memory: HostRange,
        ended: Box<dyn FnOnce() + Send>,
    ) -> Result<Self::Buffer>;
    /// Whether pages are mapped whole on each of which some byte is mapped. Where the process's pages are as large, they
    /// are.
    fn has_whole_pages(&self, pages: Range<usize>) -> bool;
    /// How many buffers may be alive (`iogpu.rsrc_limit`).
    fn buffers_max(&self) -> usize;
    /// `newRemoteBufferViewForDevice:` of a buffer of another device, for this one.
    fn new_remote_view(&self, of: &Self::Buffer) -> Result<Self::Buffer>;
    /// A buffer that is alive and was not made through the device, where that can be told: Metal cannot be asked.
    fn find_buffer(&self, resource: Resource) -> Option<Self::Buffer> {
        let _ = resource;
        None
    }
    /// `newCommandQueueWithMaxCommandBufferCount:`.
    fn new_command_queue(&self, command_buffers_max: usize) -> Result<Self::Queue>;
    /// `newMTL4CommandQueueWithDescriptor:error:`.
    fn new_mapping_queue(&self, label: &str) -> Result<Self::Mappings>;
    /// `newSharedEvent`.
    fn new_shared_event(&self) -> Result<Self::Event>;
    /// `newFence`.
    fn new_fence(&self) -> Result<Self::Fence>;
    /// `newResidencySetWithDescriptor:error:`.
    fn new_residency_set(&self, label: &str) -> Result<Self::Set>;
    /// `newLibraryWithSource:options:error:` and `newComputePipelineStateWithFunction:error:` of a function in it.
    fn new_pipeline(&self, source: &str, function: &str) -> Result<Self::Pipeline>;
}

/// What a buffer takes on a heap, and the multiple at which it may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) struct SizeAndAlign {
    pub(in crate::device) size: usize,
    pub(in crate::device) align: usize,
}

/// `MTLGPUFamily`, as far as it decides anything here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::device) enum Family {
    /// Apple silicon from M1 on.
    Apple7,
    /// M2.
    Apple8,
    /// M3 and M4.
    Apple9,
    /// M5.
    Apple10,
    /// GPUs of Intel Macs.
    Mac2,
    /// Residency sets need it.
    Metal3,
    /// Placement sparse buffers need it.
    Metal4,
}

/// `MTLPurgeableState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PurgeableState {
    /// Asks without changing anything.
    KeepCurrent = 1,
    /// Contents stay.
    NonVolatile = 2,
    /// Contents may be discarded at any time.
    Volatile = 3,
    /// Contents are discarded.
    Empty = 4,
}

/// `MTLHeap` of type placement.
pub(in crate::device) trait Heap: Object {
    type Buffer: Buffer;

    /// `size` in bytes, which the system may have rounded up.
    fn size(&self) -> usize;
    /// `newBufferWithLength:options:offset:`.
    fn new_buffer(&self, length: usize, offset: usize) -> Result<Self::Buffer>;
    /// `setPurgeableState:`; returns the state before.
    fn set_purgeable_state(&self, state: PurgeableState) -> PurgeableState;
}

/// `MTLBuffer`.
pub(in crate::device) trait Buffer: Object {
    /// `length` in bytes.
    fn length(&self) -> usize;
    /// `storageMode`.
    fn storage_mode(&self) -> StorageMode;
    /// `contents`; none for private storage.
    fn contents(&self) -> Option<NonNull<u8>>;
    /// `gpuAddress`.
    fn gpu_address(&self) -> u64;
    /// The object itself, for callers of Metal; valid while this handle is.
    fn resource(&self) -> Resource;
    /// `didModifyRange:`, after the host wrote to managed storage.
    fn did_modify_range(&self, range: Range<usize>);
}

/// `MTLCommandQueue`.
pub(in crate::device) trait CommandQueue: Object {
    type Metal: Metal;

    /// `commandBuffer`: one that keeps what it uses alive until it has ended. Blocks while as many as the queue was made
    /// for have not.
    fn command_buffer(&self) -> Result<<Self::Metal as Metal>::Commands>;
    /// `addResidencySet:`.
    fn add_residency_set(&self, set: &<Self::Metal as Metal>::Set);
    /// The object itself, for callers of Metal; valid while this handle is.
    fn resource(&self) -> Resource;
}

/// How a command buffer ended.
pub(in crate::device) type Outcome = std::result::Result<(), Error>;

/// `MTLCommandBuffer`, which is committed once, and belongs to one thread until then.
pub(in crate::device) trait CommandBuffer: Debug {
    type Metal: Metal;

    /// `setLabel:`.
    fn set_label(&self, label: &str);
    /// `blitCommandEncoder`.
    fn blit_encoder(&self) -> Result<<Self::Metal as Metal>::Blit>;
    /// `computeCommandEncoder`.
    fn compute_encoder(&self) -> Result<<Self::Metal as Metal>::Compute>;
    /// `encodeWaitForEvent:value:`, between encoders. The passes behind it in this command buffer wait, and no others
    /// (documentation of the call).
    fn wait_for(&self, event: &<Self::Metal as Metal>::Event, value: u64);
    /// `encodeSignalEvent:value:`, between encoders. Signalled when what comes before it in this command buffer has ended;
    /// nothing is said of earlier command buffers (documentation of the call).
    fn signal(&self, event: &<Self::Metal as Metal>::Event, value: u64);
    /// `addCompletedHandler:`, before the commit. Called on a thread of Metal's.
    fn on_completed(&self, handler: Box<dyn FnOnce(Outcome) + Send>);
    /// `commit`.
    fn commit(&self);
}

/// What the encoders of passes have in common. Passes run at the same time as others unless fences order them, also of
/// other command buffers (documentation of `MTLFence` and of untracked resources).
pub(in crate::device) trait Encoder: Debug {
    type Metal: Metal;

    /// `waitForFence:`: the pass begins when the pass has ended that updated the fence last before it in the order of the
    /// commits. Not after an update of it by the same encoder.
    fn wait_for_fence(&self, fence: &<Self::Metal as Metal>::Fence);
    /// `updateFence:`.
    fn update_fence(&self, fence: &<Self::Metal as Metal>::Fence);
    /// `endEncoding`.
    fn end(&self);
}

/// `MTLBlitCommandEncoder`. Offsets and lengths are multiples of [`BLIT_ALIGNMENT`].
pub(in crate::device) trait BlitEncoder: Encoder {
    /// `copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:`.
    fn copy(
        &self,
        from: (&<Self::Metal as Metal>::Buffer, usize),
        to: (&<Self::Metal as Metal>::Buffer, usize),
        bytes: usize,
    );
    /// `fillBuffer:range:value:`.
    fn fill(&self, buffer: &<Self::Metal as Metal>::Buffer, range: Range<usize>, value: u8);
    /// `synchronizeResource:`, so that the host sees what the device wrote to managed storage.
    fn synchronize(&self, buffer: &<Self::Metal as Metal>::Buffer);
}

/// On macOS offsets and lengths of blits are multiples of this many bytes (documentation of
/// `copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:` and `fillBuffer:range:value:`).
pub(in crate::device) const BLIT_ALIGNMENT: usize = 4;

/// `MTLComputeCommandEncoder`.
pub(in crate::device) trait ComputeEncoder: Encoder {
    /// `setComputePipelineState:`.
    fn set_pipeline(&self, pipeline: &<Self::Metal as Metal>::Pipeline);
    /// `setBuffer:offset:atIndex:`.
    fn set_buffer(&self, buffer: &<Self::Metal as Metal>::Buffer, offset: usize, index: usize);
    /// `setBytes:length:atIndex:`, of 4 KiB at most.
    fn set_bytes(&self, bytes: &[u8], index: usize);
    /// `dispatchThreads:threadsPerThreadgroup:`, in one dimension.
    fn dispatch(&self, threads: usize);
}

/// `MTLSharedEvent`.
pub(in crate::device) trait SharedEvent: Object {
    /// The object itself, for callers of Metal; valid while this handle is.
    fn resource(&self) -> Resource;
    /// `signaledValue`.
    fn signaled_value(&self) -> u64;
    /// `setSignaledValue:`.
    fn set_signaled_value(&self, value: u64);
    /// `notifyListener:atValue:block:`, on a listener's thread.
    fn notify(&self, value: u64, block: Box<dyn FnOnce() + Send>);
    /// `waitUntilSignaledValue:timeoutMS:`; whether it was reached.
    fn wait(&self, value: u64, milliseconds: u64) -> bool;
}

/// `MTLResidencySet` (macOS 15). Changes are staged until the commit.
pub(in crate::device) trait ResidencySet:
    Clone + Debug + Send + Sync + 'static
{
    type Metal: Metal;

    /// `addAllocation:`.
    fn add(&self, allocation: Allocation<'_, Self::Metal>);
    /// `removeAllocation:`.
    fn remove(&self, allocation: Allocation<'_, Self::Metal>);
    /// `commit`.
    fn commit(&self);
    /// `requestResidency`.
    fn request_residency(&self);
    /// `endResidency`.
    fn end_residency(&self);
}

/// `MTLAllocation`: what a residency set can hold.
#[derive(Debug)]
pub(in crate::device) enum Allocation<'a, M: Metal> {
    /// A heap, which stands for all buffers on it.
    Heap(&'a M::Heap),
    /// A buffer that lies on no heap.
    Buffer(&'a M::Buffer),
}

// Derived, they would want `M: Copy`.
impl<M: Metal> Clone for Allocation<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Metal> Copy for Allocation<'_, M> {}
