//! Rules of a driver that were broken.

use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;

/// Violations kept; later ones are only counted.
const KEPT_MAX: usize = 256;

/// A rule of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Sizes and offsets are multiples of the granularity and not zero.
    Granularity,
    /// A handle is mapped whole, from its start, and released whole.
    WholeHandle,
    /// A handle that is mapped or released exists.
    KnownHandle,
    /// A mapping lies inside its reserved range.
    InsideRange,
    /// Memory is mapped only where nothing is.
    FreeAddresses,
    /// What is made accessible or unmapped contains at least one mapping, and each as a whole.
    WholeMapping,
    /// Work touches addresses that are mapped.
    Mapped,
    /// Work touches memory only after access to it was allowed.
    Accessible,
    /// Work touches no memory that was released.
    NotReleased,
    /// A copy's source and destination are different memory, whatever their addresses.
    Disjoint,
    /// A location belongs to the device that is to use it.
    OwnMemory,
    /// Work touches memory of a peer only if that was made visible to peers.
    PeerAccess,
    /// Memory exported by a legacy handle is freed only after every importer has closed it (documentation of
    /// `cuIpcOpenMemHandle`).
    KeptForImporters,
    /// Metal: a heap is of shared or private storage (documentation of `MTLHeap`), on Intel Macs of private alone.
    HeapStorage,
    /// Metal: a resource lies inside its heap, at a multiple of its alignment.
    InsideHeap,
    /// Metal: work stays inside the buffer that it names.
    InsideBuffer,
    /// Metal: no buffer is longer than the device's `maxBufferLength`.
    BufferLength,
    /// Metal: offsets and lengths of blits are multiples of four on macOS (documentation of `MTLBlitCommandEncoder`).
    BlitAlignment,
    /// Metal: memory is wrapped without a copy in whole pages, one at least, all of them mapped (documentation of
    /// `newBufferWithBytesNoCopy:length:options:deallocator:`).
    WholePages,
    /// Metal: memory that is wrapped without a copy stays mapped until the end of its buffer (same documentation).
    StaysMapped,
    /// Metal: no more buffers are alive than the system's limit (`iogpu.rsrc_limit`; MLX PR 3512).
    BufferCount,
    /// Nothing is written to memory that is mapped for reading.
    Writable,
    /// Metal: one encoder of a command buffer at a time, which ends before the commit, of which there is one
    /// (documentation of `MTLCommandBuffer`).
    OneEncoder,
    /// Metal: handlers of a command buffer's end are added before its commit (Metal asserts; documentation of
    /// `addCompletedHandler:`).
    HandlerAfterCommit,
    /// Metal: bytes that are set without a buffer are 4 KiB at most, and one at least (documentation of
    /// `setBytes:length:atIndex:`).
    BytesLength,
    /// Metal: passes that touch the same untracked memory, one of them writing, are ordered by a fence or an event, or the
    /// host has seen the end of the first by an event, whatever the order of their commits (Apple's article "Resource
    /// synchronization").
    Ordered,
    /// Metal: the host raises an event to a greater value than it has (article "Synchronizing events between a GPU and the
    /// CPU": another changes nothing).
    EventRises,
    /// Metal: an encoder waits for no fence that it has updated (header of `MTLBlitCommandEncoder`).
    FenceReuse,
    /// Metal: calls are made in an autorelease pool, so that what they autorelease ends.
    AutoreleasePool,
    /// Metal: a command queue has no more command buffers than it was made for at once: `commandBuffer` would block
    /// (documentation of `newCommandQueueWithMaxCommandBufferCount:`), under locks that the work may want.
    CommandBuffers,
    /// Metal: a command queue takes 32 residency sets (Metal's feature set tables).
    ResidencySets,
    /// Metal: residency sets are made only where system and GPU have them (macOS 15; MLX, `metal/resident.cpp`, knows none
    /// in a virtual machine).
    ResidencyOffered,
    /// Metal: changes of a residency set are committed before work that uses them (documentation of `MTLResidencySet`).
    ResidencyCommitted,
    /// Metal: contents are used only while the heap is not volatile, and not after they were discarded.
    NotVolatile,
    /// Metal 4: placement sparse buffers are used only where system and GPU have them (macOS 26, `MTLGPUFamilyMetal4`).
    SparseOffered,
    /// Metal 4: mappings are of pages of a placement sparse buffer, which consists of whole ones, and of a placement heap
    /// whose `maxCompatiblePlacementSparsePageSize` is no smaller (documentation of
    /// `updateBufferMappings:heap:operations:count:`).
    SparsePages,
    /// Metal 4: a placement sparse buffer and the heaps behind it are of one storage mode, and here of private storage,
    /// since what the host sees of others is not documented.
    SparseStorage,
    /// Metal 4: work on a placement sparse buffer waits for the event behind the update that mapped its pages, which is
    /// done on the GPU's timeline (documentation of `MTL4CommandQueue`).
    MappingAwaited,
    /// Metal 4: buffer and heap live until an update that names them is done, since its queues keep nothing alive.
    MappingKept,
    /// Metal 4: the heap behind a page that work touches is in a residency set of the queue, committed (documentation of
    /// `MTLResidencySet`).
    SparseResident,
    /// Metal: only managed storage is told of changes, and synchronised (documentation of `didModifyRange:` and
    /// `synchronizeResource:`).
    OnlyManaged,
    /// Metal: what the host wrote to managed storage is announced before work reads it (documentation of
    /// `didModifyRange:`).
    ManagedAnnounced,
    /// Metal: what the device wrote to managed storage is synchronised before the host changes it (documentation of
    /// `synchronizeResource:`).
    ManagedSynchronized,
    /// Metal: a remote view is of private storage, for a device of the same peer group, and the source of blits alone
    /// (documentation of `newRemoteBufferViewForDevice:`).
    RemoteView,
    /// Metal: buffers are bound at offsets that suit the GPU (documentation of `setBuffer:offset:atIndex:`; 256 bytes on Intel
    /// Macs, 4 on Apple silicon).
    BindAlignment,
}

/// A rule that was broken, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was done, with sizes and addresses.
    pub text: String,
}

/// What was broken so far.
#[derive(Debug, Default)]
pub(super) struct Violations(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    kept: Vec<Violation>,
    count: u64,
}

impl Violations {
    /// Remembers a broken rule and makes the error to return.
    pub(super) fn record(&self, violation: Violation) -> Error {
        tracing::error!(rule = ?violation.rule, "{}", violation.text);
        let error = Error::with_message(ErrorKind::InvalidRequest, violation.text.as_str());
        let mut state = self.0.lock();
        state.count += 1;
        if state.kept.len() < KEPT_MAX {
            state.kept.push(violation);
        }
        error
    }

    pub(super) fn list(&self) -> Vec<Violation> {
        self.0.lock().kept.clone()
    }

    pub(super) fn count(&self) -> u64 {
        self.0.lock().count
    }
}

/// Shorthand for the error side of a check.
pub(super) fn broken<T>(rule: Rule, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation {
        rule,
        text: text.into(),
    })
}
