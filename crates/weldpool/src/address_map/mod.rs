//! Which record describes the block that an address lies in: found without a lock, from any thread.
//!
//! The map is a tree over the bits of addresses, of [`LEVELS`] levels. A leaf knows which of
//! [`SLOTS`] neighbouring granules of 256 bytes a block starts at, a node above it which of its parts
//! have a leaf or node. A bit for each slot says so, so the last start at or before an address is found
//! by one way down and at most one up and down again: at most `2 * LEVELS` nodes, whatever the number
//! of blocks. Inserting and removing visit `LEVELS` nodes.
//!
//! One [`Writer`] changes a map, while others look things up. Its promise to them: a record that was
//! inserted before a look-up began, and is not removed until it ended, is found by each address in its
//! block. That needs no more than that blocks do not overlap, since then no start can come to lie
//! between the block's and the address. What else a look-up finds may just have been removed; the caller
//! sees from the record whether the block contains the address and is anybody's.
//!
//! Nodes that nothing starts in are used again, for other addresses or, in the end, another map. A look-up that is
//! still in one then finds records that start elsewhere, and takes no notice of them. It misses nothing by that:
//! the nodes from the root down to a block's leaf are not emptied while the block is there, so a look-up strays
//! only below the lowest of them that the address lies in too, and on its way up it comes back to that one.
//! Nor can a record that it meets astray, though it may come to describe another block meanwhile, start between
//! the block's start and the address. Like records nodes live as long as the process, so that no reference to
//! one can dangle.
//!
//! A node takes 528 bytes. For blocks that lie close together that are 528 bytes for each 16 KiB of
//! addresses that a block starts in, and a sixty-fourth of that at each level above.

mod link;
mod nodes;

use self::link::Link;
pub(crate) use self::nodes::SpareNodes;
use crate::block::Record;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Positions of blocks are multiples of this power of two bytes.
const GRANULE_BITS: u32 = 8;
/// Slots of a node, as a power of two.
const SLOT_BITS: u32 = if cfg!(loom) { 2 } else { 6 };
const SLOTS: usize = 1 << SLOT_BITS;
/// Levels of the tree. Together they cover addresses of 50 bits: more than Linux and macOS give out unless
/// they are asked to.
const LEVELS: usize = if cfg!(loom) { 4 } else { 7 };

/// What a map consists of.
#[derive(Debug)]
enum Node {
    /// Parts of the addresses, and which of them there is something in.
    Inner {
        used: AtomicU64,
        parts: [Link<Node>; SLOTS],
    },
    /// Blocks by their first granule.
    Leaf {
        used: AtomicU64,
        records: [Link<Record>; SLOTS],
    },
}

/// Finds records by address.
#[derive(Debug)]
pub(crate) struct AddressMap {
    root: Node,
}

/// The right to change a map.
#[derive(Debug)]
pub(crate) struct Writer {
    map: Arc<AddressMap>,
    spare: SpareNodes,
}

impl Node {
    fn inner() -> Self {
        Self::Inner {
            used: AtomicU64::new(0),
            parts: std::array::from_fn(|_| Link::default()),
        }
    }

    fn leaf() -> Self {
        Self::Leaf {
            used: AtomicU64::new(0),
            records: std::array::from_fn(|_| Link::default()),
        }
    }

    const fn bits(&self) -> &AtomicU64 {
        match self {
            Self::Inner { used, .. } | Self::Leaf { used, .. } => used,
        }
    }

    /// A bit for each slot in use.
    fn used(&self) -> u64 {
        self.bits().load(Ordering::Acquire)
    }

    fn part(&self, slot: usize) -> Option<&'static Self> {
        match self {
            Self::Inner { parts, .. } => parts[slot].get(),
            Self::Leaf { .. } => None,
        }
    }

    /// Marks a slot that was filled. Only for the writer.
    fn mark(&self, slot: usize) {
        let used = self.bits().load(Ordering::Relaxed);
        self.bits().store(used | 1 << slot, Ordering::Release);
    }

    /// Empties a slot; says whether others are in use. Only for the writer.
    fn clear(&self, slot: usize) -> bool {
        let used = self.bits().load(Ordering::Relaxed) & !(1 << slot);
        self.bits().store(used, Ordering::Release);
        match self {
            Self::Inner { parts, .. } => parts[slot].set(None),
            Self::Leaf { records, .. } => records[slot].set(None),
        }
        used != 0
    }

    /// The last record in a slot.
    fn last_in(&self, slot: usize) -> Option<&'static Record> {
        let (mut node, mut slot) = (self, slot);
        // A node that is used again meanwhile may be of any level.
        for _ in 0..LEVELS {
            match node {
                Self::Leaf { records, .. } => return records[slot].get(),
                Self::Inner { parts, .. } => node = parts[slot].get()?,
            }
            slot = last(node.used())?;
        }
        None
    }
}

/// The highest slot among some.
fn last(used: u64) -> Option<usize> {
    Some(used.checked_ilog2()? as usize % SLOTS)
}

/// Bits of an address that its slots at a level and below stand for.
const fn bits_below(level: usize) -> u32 {
    GRANULE_BITS + SLOT_BITS * level as u32
}

/// The slot of an address in the node at a level, the leaf's being 0.
const fn slot_of(address: usize, level: usize) -> usize {
    address >> bits_below(level) & (SLOTS - 1)
}

/// Whether a map has room for an address.
pub(crate) const fn is_covered(address: usize) -> bool {
    address >> bits_below(LEVELS) == 0
}

impl AddressMap {
    /// The record of the block that contains an address, if there is one, else none or any. Takes no lock
    /// and O(1) time.
    pub(crate) fn find(&self, address: usize) -> Option<&'static Record> {
        if !is_covered(address) {
            return None;
        }
        // The address's own way, as far as it goes.
        let mut way: [&Node; LEVELS] = [&self.root; LEVELS];
        let mut level = LEVELS - 1;
        while level > 0
            && let Some(part) = way[level].part(slot_of(address, level))
        {
            level -= 1;
            way[level] = part;
        }
        // From there on up, the last start before it.
        for (level, node) in way.iter().enumerate().skip(level) {
            let slot = slot_of(address, level);
            let before = node.used() & ((1 << slot) - 1);
            // A leaf's own slot was not looked at yet.
            let here = if level == 0 {
                node.used() & 1 << slot
            } else {
                0
            };
            let Some(slot) = last(before | here) else {
                continue;
            };
            let Some(record) = node.last_in(slot) else {
                continue;
            };
            let start = record.start();
            let inside = start >> bits_below(level + 1) == address >> bits_below(level + 1);
            if inside && start <= address {
                return Some(record);
            }
        }
        None
    }
}

impl Writer {
    /// An empty map, and the right to change it.
    pub(crate) fn new(spare: SpareNodes) -> Self {
        let map = Arc::new(AddressMap {
            root: Node::inner(),
        });
        Self { map, spare }
    }

    /// The map, for looking things up.
    pub(crate) fn map(&self) -> &Arc<AddressMap> {
        &self.map
    }

    /// Makes a block known that starts at an address, a multiple of 256, and overlaps no other. An address
    /// beyond those of the map is left out.
    pub(crate) fn insert(&mut self, start: usize, record: &'static Record) {
        if !is_covered(start) {
            return;
        }
        let mut node = &self.map.root;
        for level in (0..LEVELS).rev() {
            let slot = slot_of(start, level);
            node = match node {
                Node::Leaf { records, .. } => {
                    records[slot].set(Some(record));
                    node.mark(slot);
                    return;
                }
                Node::Inner { parts, .. } => match parts[slot].get() {
                    Some(part) => part,
                    None => {
                        let part = self.spare.take(level == 1);
                        parts[slot].set(Some(part));
                        node.mark(slot);
                        part
                    }
                },
            };
        }
    }

    /// Forgets all blocks; returns the nodes, for other maps.
    pub(crate) fn take_spare(&mut self) -> SpareNodes {
        empty(&self.map.root, &mut self.spare);
        std::mem::take(&mut self.spare)
    }

    /// Forgets the block that starts at an address.
    pub(crate) fn remove(&mut self, start: usize) {
        if !is_covered(start) {
            return;
        }
        let mut way: [&Node; LEVELS] = [&self.map.root; LEVELS];
        for level in (1..LEVELS).rev() {
            let Some(part) = way[level].part(slot_of(start, level)) else {
                return;
            };
            way[level - 1] = part;
        }
        for (level, node) in way.iter().enumerate() {
            let slot = slot_of(start, level);
            let part = node.part(slot);
            let others = node.clear(slot);
            if let Some(part) = part {
                self.spare.put(part);
            }
            if others {
                return;
            }
        }
    }
}

/// Empties a node, and puts the nodes below it among the spare ones.
fn empty(node: &Node, spare: &mut SpareNodes) {
    while let Some(slot) = last(node.used()) {
        if let Some(part) = node.part(slot) {
            node.clear(slot);
            empty(part, spare);
            spare.put(part);
        } else {
            node.clear(slot);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
