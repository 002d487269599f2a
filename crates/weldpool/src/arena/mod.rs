//! Arenas: memory obtained from the device, cut into blocks, joined again, remapped and given back.

mod chain;
mod exchange;
mod extend;
mod grow;
mod mappings;
mod park;
mod region;
mod remap;
mod reserve;
mod room;
mod segments;
mod small;
mod trim;
mod windows;

use std::collections::BTreeMap;

pub(crate) use self::grow::Source;
use self::mappings::{Mappings, Piece};
use self::region::Region;
pub(crate) use self::reserve::Reserve;
pub(crate) use self::room::{FreeBytes, end_index, new_index};
use self::room::{Room, Sparing};
pub(crate) use self::small::{SMALL_BYTES_MAX, SmallArena};
use self::windows::Windows;
use crate::address_map::AddressMap;
use crate::block::{ArenaKind, Block, CacheKey, ListId, Node, Point, Record};
use crate::device::{Mapped, Metered, Segment, StorageMode, VirtualMemoryProperties};
use crate::space::{Range, Space};
use crate::sync::{Arc, Mutex};

/// Whose memory an arena is made of, and what kind of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    /// The pool whose blocks these are.
    pub(crate) key: CacheKey,
    pub(crate) storage: StorageMode,
    pub(crate) node: Node,
}

/// The memory of one storage mode on one node.
#[derive(Debug)]
pub(crate) struct Arena {
    home: Home,
    device: Arc<Metered>,
    /// What all arenas of the allocator share: the limit and how much of it is used.
    reserve: Arc<Reserve>,
    virtual_memory: Option<VirtualMemoryProperties>,
    state: Mutex<Room>,
    index: Arc<AddressMap>,
    /// Held by whoever obtains, remaps or returns memory, so that two threads do not both grow for
    /// what one growth serves. Driver calls are made under it and never under `state`.
    growth: Mutex<Growth>,
}

/// What growth and trimming need, besides the room.
#[derive(Debug)]
struct Growth {
    /// By the position of their first byte.
    regions: BTreeMap<usize, Region>,
    /// Address space that nothing is mapped to.
    addresses: Space<()>,
    /// Where handles can be divided.
    mappings: Mappings,
    /// Where they cannot.
    windows: Windows,
    /// Addresses whose memory is mapped elsewhere too by now; unmapped once their points have passed.
    stale: Vec<Stale>,
    /// Physical memory that is mapped nowhere, because a call failed.
    unmapped: Vec<Piece>,
    /// Empty segments that the system may take the memory of.
    parked: Vec<Box<dyn Segment>>,
    /// Next position for a region without addresses.
    unaddressed: usize,
}

/// Addresses whose memory is mapped elsewhere too.
#[derive(Debug)]
struct Stale {
    range: Range,
    /// Before it, work may still use them.
    point: Option<Point>,
    /// The mappings they still have.
    mapped: Mapped,
}

/// What is asked of an arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) bytes: usize,
    pub(crate) alignment: usize,
    pub(crate) list: ListId,
    /// Most blocks of the list that a thread keeps in one place.
    pub(crate) thread_max: u8,
    /// The queue that will use the memory first.
    pub(crate) queue: Option<u32>,
    /// Whether other queues, or the host, allocate too: then a queue is served from its own pending
    /// memory before memory that everybody could use.
    pub(crate) contended: bool,
    /// Requested bytes that are live once the request is served, or 0 while it is served from what is free.
    pub(crate) live: u64,
    /// Whether the queue [records](crate::device::DeviceQueue::is_recording): what is recorded may run at any time from
    /// then on, so no memory is mapped from elsewhere for it.
    pub(crate) recorded: bool,
}

impl Arena {
    pub(crate) fn new(home: Home, device: Arc<Metered>, reserve: Arc<Reserve>) -> Self {
        let virtual_memory = device.virtual_memory(home.storage);
        let granularity = virtual_memory.map_or(1, |properties| properties.granularity);
        let room = Room::new(home, ArenaKind::Large);
        Self {
            home,
            index: Arc::clone(room.index()),
            device,
            reserve,
            virtual_memory,
            state: Mutex::new(room),
            growth: Mutex::new(Growth {
                regions: BTreeMap::new(),
                addresses: Space::default(),
                mappings: Mappings::new(granularity),
                windows: Windows::default(),
                stale: Vec::new(),
                unmapped: Vec::new(),
                parked: Vec::new(),
                unaddressed: 1 << 40,
            }),
        }
    }

    pub(crate) fn home(&self) -> Home {
        self.home
    }

    /// Driver time so far, and time that requests waited so that segments or handles could be exchanged: what
    /// is to be paid for where holes in memory cannot be mapped together page by page.
    fn spent_ns(&self) -> u64 {
        self.device.spent_ns() + self.reserve.waited_ns()
    }

    fn empty_room(&self) -> Room {
        Room::new(self.home, ArenaKind::Large)
    }

    /// A block from memory already held.
    pub(crate) fn allocate(&self, want: &Want, passed: &dyn Fn(Point) -> bool) -> Option<Block> {
        let sparing = self.sparing(want.live);
        if let Some(queue) = want.queue.filter(|_| want.contended) {
            let own = self.state.lock().allocate_own(want, queue, sparing);
            if let Some(block) = own.or_else(|| self.remap_own(want, passed)) {
                return Some(block);
            }
        }
        self.state.lock().allocate(want, sparing)
    }

    /// Takes a block back. Returns the clean range it is part of now, if it is clean.
    pub(crate) fn release(
        &self,
        block: Block,
        point: Option<Point>,
        contended: bool,
    ) -> Option<Range> {
        self.state.lock().release(block, point, contended)
    }

    /// Makes pending memory clean whose point on `queue` has passed.
    pub(crate) fn pass(&self, queue: u32, completed: u64) -> bool {
        self.state.lock().space.pass(queue, completed)
    }

    /// Adds the queues with pending memory, and the greatest value each waits for.
    pub(crate) fn pending_queues(&self, queues: &mut Vec<(u32, u64)>) {
        queues.extend(self.state.lock().space.pending_queues());
    }

    /// The record of the block that contains a host address, if there is one, else none or any. Takes no
    /// lock and O(1) time.
    pub(crate) fn find(&self, address: usize) -> Option<&'static Record> {
        self.index.find(address)
    }

    /// Free memory.
    pub(crate) fn free(&self) -> FreeBytes {
        self.state.lock().free()
    }

    /// Segments held, or pieces of physical memory mapped.
    pub(crate) fn pieces(&self) -> usize {
        let growth = self.growth.lock();
        if self.virtual_memory.is_some() {
            growth.mappings.len() + growth.windows.handle_count()
        } else {
            growth.regions.len()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
