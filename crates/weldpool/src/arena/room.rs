//! The room of an arena: its space, and blocks cut from it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Want;
use crate::binding::Base;
use crate::block::{ArenaKind, Block, CacheKey, Cut, Point, Record, Sight};
use crate::device::StorageMode;
use crate::space::{Range, Space};

/// Records of blocks that are kept for the next ones.
const SPARE_RECORDS_MAX: usize = 256;

/// A region is much too large for a block that leaves more than this part of it.
const SPARE_DIVISOR: usize = 16;

/// Which empty regions are spared, because they can be exchanged for one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    None,
    /// Those above a length of which a block would leave so many bytes, and much of the whole.
    Larger {
        than: usize,
        leaving: usize,
    },
}

/// What allocation and release need.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) space: Space<&'static Record>,
    /// By the position of their first byte.
    regions: BTreeMap<usize, (usize, Base)>,
    spare_records: Vec<Block>,
    key: CacheKey,
    storage: StorageMode,
    kind: ArenaKind,
}

/// Free memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Free {
    /// Free for everybody.
    pub(crate) bytes: usize,
    /// The largest range of it.
    pub(crate) largest: usize,
    /// Waiting for a point.
    pub(crate) pending: usize,
}

impl Room {
    pub(crate) fn new(key: CacheKey, storage: StorageMode, kind: ArenaKind) -> Self {
        Self {
            space: Space::default(),
            regions: BTreeMap::new(),
            spare_records: Vec::new(),
            key,
            storage,
            kind,
        }
    }

    /// Makes a region known, with nothing free in it.
    pub(crate) fn add_region(&mut self, region: Range, base: Base) {
        self.space.add_border(region.start);
        self.space.add_border(region.end());
        self.regions.insert(region.start, (region.bytes, base));
    }

    /// Forgets a region in which nothing is free or used.
    pub(crate) fn remove_region(&mut self, region: Range) {
        self.regions.remove(&region.start);
        // A neighbour keeps the border.
        if !self.regions.contains_key(&region.end()) {
            self.space.remove_border(region.end());
        }
        let before = self.regions.range(..region.start).next_back();
        if before.is_none_or(|(&start, (bytes, _))| start + bytes != region.start) {
            self.space.remove_border(region.start);
        }
    }

    /// A block from memory that work on `queue` alone still uses.
    pub(crate) fn allocate_own(&mut self, want: &Want, queue: u32, spare: Spare) -> Option<Block> {
        let Want {
            bytes, alignment, ..
        } = *want;
        let space = &mut self.space;
        let (free, position) = space
            .find_pending(queue, bytes, alignment)
            .or_else(|| space.join_for(queue, bytes, alignment, false))?;
        if self.breaks_into(position, bytes, spare) {
            return None;
        }
        Some(self.cut_block(free, position, want))
    }

    /// Whether a block there would be the only one in a region that is much too large for it.
    fn breaks_into(&self, position: usize, bytes: usize, spare: Spare) -> bool {
        let Spare::Larger { than, leaving } = spare else {
            return false;
        };
        let Some((&start, &(length, _))) = self.regions.range(..=position).next_back() else {
            return false;
        };
        let left = length.saturating_sub(bytes);
        let region = Range {
            start,
            bytes: length,
        };
        length > than
            && left >= leaving
            && left > length / SPARE_DIVISOR
            && self.space.awaited(region).is_some()
    }

    /// A block from whatever the request may have.
    pub(crate) fn allocate(&mut self, want: &Want, spare: Spare) -> Option<Block> {
        let Want {
            bytes, alignment, ..
        } = *want;
        let space = &mut self.space;
        let own = |queue| space.find_pending(queue, bytes, alignment);
        let own = want.queue.and_then(own);
        let found = match own {
            // Others wait for what is the queue's own.
            Some(own) if want.contended => Some(own),
            own => {
                let clean = space.find_clean(bytes, alignment);
                // The smaller one; the queue's own of two alike.
                let length = |found: &(Range, usize)| found.0.bytes;
                own.into_iter().chain(clean).min_by_key(length)
            }
        };
        let (free, position) = match found {
            Some(found) => found,
            None => space.join_for(want.queue?, bytes, alignment, true)?,
        };
        if self.breaks_into(position, bytes, spare) {
            return None;
        }
        Some(self.cut_block(free, position, want))
    }

    /// Takes a block back. Returns the clean range it is part of now, if it is clean.
    pub(crate) fn release(
        &mut self,
        block: Block,
        point: Option<Point>,
        contended: bool,
    ) -> Option<Range> {
        let freed = self.space.release(block.position(), point, !contended);
        if self.spare_records.len() < SPARE_RECORDS_MAX {
            self.spare_records.push(block);
        } else {
            block.retire();
        }
        freed.filter(|_| point.is_none())
    }

    /// Cuts a block from the free range, at a position inside it.
    pub(crate) fn cut_block(&mut self, free: Range, position: usize, want: &Want) -> Block {
        let Some((start, (_, base))) = self.regions.range(..=position).next_back() else {
            unreachable!("free space lies in a region");
        };
        let cut = Cut {
            pool: self.key,
            storage: self.storage,
            arena: self.kind,
            list: want.list,
            thread_max: want.thread_max,
            position,
            bytes: want.bytes,
        };
        let place = base.place(position - start);
        let block = match self.spare_records.pop() {
            Some(mut block) => {
                block.recut(cut, &place);
                block
            }
            None => Block::new(cut, &place),
        };
        let record = block.as_record();
        let point = self.space.take(free.start, position, want.bytes, record);
        block.set_point(point);
        block
    }

    /// The live block that contains a host address.
    pub(crate) fn find(&self, address: usize) -> Option<Sight> {
        let (_, record) = self.space.used_at(address)?;
        let sight = record.sight()?;
        // Positions of memory without addresses are no addresses.
        let inside = sight.address != 0 && address.checked_sub(sight.address)? < sight.requested;
        inside.then_some(sight)
    }

    pub(crate) fn free(&self) -> Free {
        Free {
            bytes: self.space.clean_bytes(),
            largest: self.space.largest_clean(),
            pending: self.space.pending_bytes(),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for record in self.spare_records.drain(..) {
            record.retire();
        }
    }
}
