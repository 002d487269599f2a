//! Segments in use and the blocks carved from them.

use crate::binding::Base;
use crate::buffer::Buffer;
use crate::device::{Segment, StorageMode};
use crate::name::Name;
use crate::range_allocator::Position;
use crate::sync::{Arc, Mutex};
use std::collections::BTreeMap;

/// A segment with the record of its live blocks, by offset.
#[derive(Debug)]
pub(crate) struct SegmentEntry {
    pub(crate) id: u32,
    pub(crate) storage: StorageMode,
    pub(crate) base: Base,
    pub(crate) bytes: usize,
    pub(crate) live: Mutex<BTreeMap<usize, LiveRecord>>,
    pub(crate) segment: Box<dyn Segment>,
}

impl SegmentEntry {
    pub(crate) fn new(id: u32, storage: StorageMode, segment: Box<dyn Segment>) -> Self {
        Self {
            id,
            storage,
            base: Base::of(segment.as_ref()),
            bytes: segment.bytes(),
            live: Mutex::new(BTreeMap::new()),
            segment,
        }
    }
}

/// What is known of a block that a user holds.
#[derive(Debug)]
pub(crate) struct LiveRecord {
    pub(crate) requested: usize,
    pub(crate) block_bytes: usize,
    pub(crate) name: Name,
    /// The buffer itself while its owner keeps only the bare address.
    pub(crate) detached: Option<Box<Buffer>>,
}

/// Which free list a block returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// The pool of a size class.
    Class(usize),
    /// The arena it was cut from.
    Arena(ArenaKind),
    /// None: its segment goes back to the device.
    Direct,
}

/// The two arenas of each storage mode, so that long-lived small blocks do not break up the space of
/// large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArenaKind {
    Small,
    Large,
}

impl ArenaKind {
    pub(crate) const ALL: [Self; 2] = [Self::Small, Self::Large];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// An aligned range of a segment. It is owned by exactly one buffer, pool or waiting list.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) entry: Arc<SegmentEntry>,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) arena: ArenaKind,
    pub(crate) home: Home,
}

impl Block {
    pub(crate) fn position(&self) -> Position {
        Position {
            segment: self.entry.id,
            offset: self.offset,
        }
    }

    /// Whether the block starts at a multiple of `alignment`.
    pub(crate) fn is_aligned(&self, alignment: usize) -> bool {
        (self.entry.base.number() + self.offset).is_multiple_of(alignment)
    }
}
