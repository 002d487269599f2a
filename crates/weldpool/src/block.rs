//! Blocks, and the records that describe them.
//!
//! A [`Record`] lives as long as the process and is used again for another block when its own is
//! gone, so that a reference to one can never dangle. A [`Block`] is the right to a record; exactly
//! one buffer, cache or list owns it, and it moves instead of being copied.

#![forbid(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use crate::binding::Place;
use crate::device::StorageMode;
use crate::in_flight::InFlight;
use crate::name::Name;
use crate::sync::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering};

/// Records made at once.
const RECORDS_PER_SLAB: usize = 64;

/// Most blocks of one list that a thread keeps in one place.
pub(crate) const THREAD_MAX: u8 = 128;

/// Which idle records there are, and all slabs, for reports that walk.
static RECORDS: Mutex<Records> = Mutex::new(Records {
    idle: Vec::new(),
    slabs: Vec::new(),
});

struct Records {
    idle: Vec<&'static Record>,
    slabs: Vec<&'static [Record]>,
}

/// The list, in every cache, that a block belongs to: its class and storage mode.
///
/// Kept as the offset in bytes of a thread's bin for it, so that finding the bin is one addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListId(u32);

impl ListId {
    /// Most lists there can be.
    pub(crate) const MOST: usize = Self::COUNT - 4;
    /// Lists, and what stands for none.
    pub(crate) const COUNT: usize = 16384;
    /// Length of a bin in bytes.
    pub(crate) const BIN_BYTES: usize = 128;

    /// For blocks that return to their arena.
    pub(crate) const NONE: Self = Self::numbered(Self::MOST);
    /// For blocks whose memory returns to the device.
    pub(crate) const DIRECT: Self = Self::numbered(Self::MOST + 1);
    /// For samples, whose free must come past the threads' caches.
    pub(crate) const SAMPLED: Self = Self::numbered(Self::MOST + 2);
    /// For blocks that have a segment of their own, because others reach it.
    pub(crate) const EXPOSED: Self = Self::numbered(Self::MOST + 3);

    /// The list of a number; none from [`MOST`](Self::MOST) on.
    pub(crate) fn new(index: usize) -> Self {
        if index < Self::MOST {
            Self::numbered(index)
        } else {
            Self::NONE
        }
    }

    const fn numbered(index: usize) -> Self {
        // Less than 2^21.
        Self((index * Self::BIN_BYTES) as u32)
    }

    /// Less than [`COUNT`](Self::COUNT) times the length of a bin.
    #[inline]
    pub(crate) fn bin_offset(self) -> usize {
        self.0 as usize
    }

    /// Its number; no less than [`MOST`](Self::MOST) if it is none.
    pub(crate) fn index(self) -> usize {
        self.0 as usize / Self::BIN_BYTES
    }

    pub(crate) fn is_some(self) -> bool {
        self.0 < Self::NONE.0
    }
}

/// The two arenas of each storage mode: small blocks lie in spans of their own, so that long-lived
/// ones do not break up the space of large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ArenaKind {
    Small,
    Large,
}

/// A node of memory (NUMA), by its position in the device's topology; the first one where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(u8);

impl Node {
    /// Nodes that have arenas of their own.
    pub(crate) const MAX: usize = 128;
    pub(crate) const FIRST: Self = Self(0);

    /// The first `count` nodes, of which there are at most [`MAX`](Self::MAX).
    pub(crate) fn first(count: usize) -> impl Iterator<Item = Self> {
        (0..u8::MAX).take(count.min(Self::MAX)).map(Self)
    }

    /// The node at a position below [`MAX`](Self::MAX).
    pub(crate) fn at(position: usize) -> Self {
        Self(u8::try_from(position).unwrap_or(0) % Self::MAX as u8)
    }

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The key of one cache in every thread: a pool, or a queue of it. Neither part is used again while
/// anything refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheKey {
    /// Position among the caches of a thread.
    pub(crate) slot: u32,
    /// Unique in the process. Its remainder by [`HOT`] is the slot's.
    pub(crate) id: u64,
}

/// Keys whose caches a thread finds at once.
pub(crate) const HOT: usize = 8;

/// A point of a queue: reached when its timeline has passed `value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// Number of the queue in its pool.
    pub(crate) queue: u32,
    pub(crate) value: u64,
}

impl Point {
    /// The later one of two of the same queue.
    pub(crate) fn later(self, other: Self) -> Self {
        debug_assert_eq!(self.queue, other.queue, "only one queue may use the memory");
        Self {
            value: self.value.max(other.value),
            ..self
        }
    }
}

const IDLE: u64 = 0;
const LIVE: u64 = 1;
const DETACHED: u64 = 2;
/// Work may use the block, or have used it; of one that is only live, none ever did.
const TOUCHED: u64 = 4;
/// The host wrote to the block, and its device was not told.
const WRITTEN: u64 = 8;
const STATE_MASK: u64 = 0xFF;
const ALIGNMENT_SHIFT: u32 = 8;
const NAME_SHIFT: u32 = 32;
const NODE_SHIFT: u32 = 1;

/// What is known of one block. Only the block's owner writes; reports read whatever is there.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Record {
    // The line that the warm path touches.
    requested: AtomicUsize,
    /// The number of the name, the power of the alignment and the state, in one word.
    holder: AtomicU64,
    point_value: AtomicU64,
    bytes: AtomicUsize,
    pool_id: AtomicU64,
    pool_slot: AtomicU32,
    list: AtomicU32,
    point_queue: AtomicU32,
    thread_max: AtomicU8,
    storage: AtomicU8,
    /// The kind of the arena, and its node above that bit.
    arena: AtomicU8,
    in_flight: InFlight,
    // What driver calls, arenas and reports need.
    position: AtomicUsize,
    host: AtomicPtr<u8>,
    device: AtomicU64,
    resource: AtomicPtr<std::ffi::c_void>,
    resource_offset: AtomicUsize,
}

macro_rules! relaxed {
    ($($field:ident: $type:ty;)*) => {
        $(
            #[inline]
            pub(crate) fn $field(&self) -> $type {
                self.0.$field.load(Ordering::Relaxed)
            }
        )*
    };
}

/// The right to a record and to the memory it describes.
pub(crate) struct Block(&'static Record);

/// What is fixed for a block from the moment it is cut until it is joined with its neighbours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) pool: CacheKey,
    pub(crate) storage: StorageMode,
    pub(crate) arena: ArenaKind,
    pub(crate) node: Node,
    pub(crate) list: ListId,
    /// Most blocks of the list that a thread keeps in one place.
    pub(crate) thread_max: u8,
    /// Where it is in its arena's numbering.
    pub(crate) position: usize,
    pub(crate) bytes: usize,
}

impl Block {
    /// A block whose first byte is at `place`.
    pub(crate) fn new(cut: Cut, place: &Place) -> Self {
        let mut block = Self::take_record();
        block.recut(cut, place);
        block
    }

    /// Describes other memory by the same record.
    pub(crate) fn recut(&mut self, cut: Cut, place: &Place) {
        let record = self.0;
        let relaxed = Ordering::Relaxed;
        record.storage.store(cut.storage as u8, relaxed);
        let arena = cut.arena as u8 | cut.node.0 << NODE_SHIFT;
        record.arena.store(arena, relaxed);
        record.list.store(cut.list.0, relaxed);
        record
            .thread_max
            .store(cut.thread_max.min(THREAD_MAX), relaxed);
        record.pool_slot.store(cut.pool.slot, relaxed);
        record.pool_id.store(cut.pool.id, relaxed);
        record.bytes.store(cut.bytes, relaxed);
        record.position.store(cut.position, relaxed);
        record.host.store(place.host, relaxed);
        record.device.store(place.device, relaxed);
        record.resource.store(place.resource, relaxed);
        record.resource_offset.store(place.resource_offset, relaxed);
        record.point_value.store(0, relaxed);
    }

    fn take_record() -> Self {
        let mut records = RECORDS.lock();
        if records.idle.is_empty() {
            let slab: &'static [Record] = Box::leak(
                (0..RECORDS_PER_SLAB)
                    .map(|_| Record::default())
                    .collect::<Box<[_]>>(),
            );
            records.slabs.push(slab);
            records.idle.extend(slab);
        }
        match records.idle.pop() {
            Some(record) => Self(record),
            None => unreachable!("a slab was just added"),
        }
    }

    /// The block, for the last thing that its owner does with it: the owner keeps a value that stands for
    /// nothing and must not use it.
    #[inline]
    pub(crate) fn last(&self) -> Self {
        Self(self.0)
    }

    /// Gives the record up; its memory has gone back to the arena.
    pub(crate) fn retire(self) {
        debug_assert_eq!(self.0.holder.load(Ordering::Relaxed), IDLE);
        RECORDS.lock().idle.push(self.0);
    }

    relaxed! {
        bytes: usize;
        requested: usize;
        position: usize;
    }

    /// Whether threads keep blocks of its list.
    #[inline]
    pub(crate) fn is_kept(&self) -> bool {
        self.thread_max() > 0
    }

    /// Most blocks of its list that a thread keeps in one place.
    #[inline]
    pub(crate) fn thread_max(&self) -> usize {
        usize::from(self.0.thread_max.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn list(&self) -> ListId {
        ListId(self.0.list.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn pool(&self) -> CacheKey {
        CacheKey {
            slot: self.0.pool_slot.load(Ordering::Relaxed),
            id: self.0.pool_id.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(crate) fn storage(&self) -> StorageMode {
        StorageMode::ALL[usize::from(self.0.storage.load(Ordering::Relaxed)) % 3]
    }

    pub(crate) fn arena(&self) -> ArenaKind {
        let kind = self.0.arena.load(Ordering::Relaxed) % (1 << NODE_SHIFT);
        if kind == ArenaKind::Small as u8 {
            ArenaKind::Small
        } else {
            ArenaKind::Large
        }
    }

    /// The node that its memory was obtained on.
    pub(crate) fn node(&self) -> Node {
        Node(self.0.arena.load(Ordering::Relaxed) >> NODE_SHIFT)
    }

    pub(crate) fn alignment(&self) -> usize {
        let power = self.0.holder.load(Ordering::Relaxed) >> ALIGNMENT_SHIFT;
        1 << (power % 64)
    }

    pub(crate) fn name(&self) -> Name {
        let number = self.0.holder.load(Ordering::Relaxed) >> NAME_SHIFT;
        // The shift leaves 32 bits.
        Name::of_number(u32::try_from(number).unwrap_or(0))
    }

    /// The work that still uses the memory.
    #[inline]
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.0.in_flight
    }

    /// Where its first byte is.
    #[inline]
    pub(crate) fn place(&self) -> Place {
        let record = self.0;
        let relaxed = Ordering::Relaxed;
        Place {
            host: record.host.load(relaxed),
            device: record.device.load(relaxed),
            resource: record.resource.load(relaxed),
            resource_offset: record.resource_offset.load(relaxed),
        }
    }

    /// Address of the first byte for the host, if it has one.
    #[inline]
    pub(crate) fn host(&self) -> Option<NonNull<u8>> {
        NonNull::new(self.0.host.load(Ordering::Relaxed))
    }

    /// The point of a queue before which nobody but that queue may use the memory.
    #[inline]
    pub(crate) fn point(&self) -> Option<Point> {
        // Whoever sees that another thread took the point away sees what it made of it.
        let value = self.0.point_value.load(Ordering::Acquire);
        (value != 0).then(|| Point {
            queue: self.0.point_queue.load(Ordering::Relaxed),
            value,
        })
    }

    #[inline]
    pub(crate) fn set_point(&self, point: Option<Point>) {
        let record = self.0;
        match point {
            Some(point) => {
                record.point_queue.store(point.queue, Ordering::Relaxed);
                record.point_value.store(point.value, Ordering::Relaxed);
            }
            None => record.point_value.store(0, Ordering::Release),
        }
    }

    /// Moves the block to another list.
    pub(crate) fn set_list(&self, list: ListId) {
        self.0.list.store(list.0, Ordering::Relaxed);
    }

    /// Changes how many blocks of its list a thread keeps, as far as this block is concerned.
    pub(crate) fn set_thread_max(&self, thread_max: u8) {
        let thread_max = thread_max.min(THREAD_MAX);
        self.0.thread_max.store(thread_max, Ordering::Relaxed);
    }

    /// Marks the block as handed out; `touched` if a point came along with it.
    #[inline]
    pub(crate) fn hand_out(&self, requested: usize, alignment: usize, name: Name, touched: bool) {
        let record = self.0;
        let state = if touched { LIVE | TOUCHED } else { LIVE };
        record.requested.store(requested, Ordering::Relaxed);
        let name = u64::from(name.to_number()) << NAME_SHIFT;
        let power = u64::from(alignment.trailing_zeros()) << ALIGNMENT_SHIFT;
        record.holder.store(name | power | state, Ordering::Relaxed);
    }

    /// Marks the block as given back.
    #[inline]
    pub(crate) fn take_back(&self) {
        self.0.holder.store(IDLE, Ordering::Relaxed);
    }

    /// Marks the block as one that work may use.
    pub(crate) fn touch(&self) {
        if !self.is_touched() {
            self.0.holder.fetch_or(TOUCHED, Ordering::Relaxed);
        }
    }

    /// Whether work may use the block, or a point came along with it.
    #[inline]
    pub(crate) fn is_touched(&self) -> bool {
        self.0.holder.load(Ordering::Relaxed) & TOUCHED != 0
    }

    /// Marks the block as one that the host wrote to.
    pub(crate) fn note_written(&self) {
        self.0.holder.fetch_or(WRITTEN, Ordering::Relaxed);
    }

    /// Whether it was marked so, and the device was not told since.
    pub(crate) fn is_written(&self) -> bool {
        self.0.holder.load(Ordering::Acquire) & WRITTEN != 0
    }

    /// The device was told; whoever finds the mark gone may submit work.
    pub(crate) fn note_told(&self) {
        self.0.holder.fetch_and(!WRITTEN, Ordering::Release);
    }

    /// Leaves the block to whoever has its address; see [`Record::attach`].
    pub(crate) fn detach(self) {
        self.0.holder.fetch_or(DETACHED, Ordering::Release);
    }

    /// The record, for maps that find blocks and do not own them.
    pub(crate) fn as_record(&self) -> &'static Record {
        self.0
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("position", &self.position())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// A block that a user holds, as a report sees it: the values belong together only if nobody
/// allocates or frees meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) name: Name,
    pub(crate) requested: usize,
    pub(crate) bytes: usize,
    pub(crate) address: usize,
    pub(crate) storage: StorageMode,
    pub(crate) node: Node,
}

impl Record {
    /// Address of the block's first byte: the host's, else the device's; zero if it has neither.
    pub(crate) fn start(&self) -> usize {
        match self.host.load(Ordering::Relaxed).addr() {
            0 => usize::try_from(self.device.load(Ordering::Relaxed)).unwrap_or(0),
            address => address,
        }
    }

    /// The same, if there is one.
    pub(crate) fn address(&self) -> Option<usize> {
        Some(self.start()).filter(|address| *address != 0)
    }

    /// Whether an address lies in the block.
    #[cfg(test)]
    pub(crate) fn contains(&self, address: usize) -> bool {
        let inside = address.checked_sub(self.start());
        inside.is_some_and(|inside| inside < self.bytes.load(Ordering::Relaxed))
    }

    /// The block, if it is one of the pool's that was [left](Block::detach) to whoever has this address.
    pub(crate) fn attach(&'static self, pool: CacheKey, address: usize) -> Option<Block> {
        let is_it = || self.start() == address && self.pool_id.load(Ordering::Relaxed) == pool.id;
        if !is_it() || self.holder.load(Ordering::Relaxed) & DETACHED == 0 {
            return None;
        }
        if self.holder.fetch_and(!DETACHED, Ordering::Acquire) & DETACHED == 0 {
            return None;
        }
        if is_it() {
            return Some(Block(self));
        }
        // The address was given back twice, and the record has come to describe a block of another.
        self.holder.fetch_or(DETACHED, Ordering::Release);
        None
    }

    /// What a report may know, if a user holds the block and it is one of the pool's.
    pub(crate) fn sight(&'static self, pool: CacheKey) -> Option<Sight> {
        let block = Block(self);
        let held = self.holder.load(Ordering::Relaxed) & STATE_MASK != IDLE;
        (held && block.pool().id == pool.id).then(|| Sight {
            name: block.name(),
            requested: block.requested(),
            bytes: block.bytes(),
            address: self.start(),
            storage: block.storage(),
            node: block.node(),
        })
    }
}

/// Visits every block of a pool that a user holds, in no order; walks all records there are.
pub(crate) fn for_each_live(pool: CacheKey, mut visit: impl FnMut(Sight)) {
    let slabs = RECORDS.lock().slabs.clone();
    for record in slabs.into_iter().flatten() {
        if let Some(sight) = record.sight(pool) {
            visit(sight);
        }
    }
}
