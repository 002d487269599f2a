//! The room of an arena: its space, and blocks cut from it.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{Home, Want};
use crate::address_map::{AddressMap, SpareNodes, Writer};
use crate::binding::Base;
use crate::block::{ArenaKind, Block, Cut, Point, Record};
use crate::space::{Range, Space};
use crate::sync::{Arc, Mutex};

/// Records of blocks that are kept for the next ones.
const SPARE_RECORDS_MAX: usize = 256;

/// Nodes of indices that are gone.
static SPARE_NODES: Mutex<Vec<SpareNodes>> = Mutex::new(Vec::new());

/// An empty index.
pub(crate) fn new_index() -> Writer {
    Writer::new(SPARE_NODES.lock().pop().unwrap_or_default())
}

/// Takes the nodes of an index whose owner is going, for the next one.
pub(crate) fn end_index(index: &mut Writer) {
    SPARE_NODES.lock().push(index.take_spare());
}

/// A region is much too large for a block that leaves more than this part of it.
const LEFT_OF_REGION_DIVISOR: usize = 16;

/// Which empty regions are spared, because they can be exchanged for one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sparing {
    None,
    /// Those above a length of which a block would leave so many bytes, and much of the whole.
    Larger {
        than: usize,
        leaving: usize,
    },
    /// Handles that are free altogether, of which a block would leave so many bytes. Blocks below a length
    /// only prefer those that leave less.
    Handles {
        leaving: usize,
        from: usize,
    },
}

/// Free ranges tried for one request that is to spare handles.
const SPARING_CANDIDATES: usize = 32;

/// What allocation and release need.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) space: Space<&'static Record>,
    /// By the position of their first byte.
    regions: BTreeMap<usize, (usize, Base)>,
    /// Where handles are mapped that can only be mapped whole, and their lengths.
    windows: BTreeMap<usize, usize>,
    spare_records: Vec<Block>,
    /// Where its blocks are.
    index: Writer,
    home: Home,
    kind: ArenaKind,
}

/// Free memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FreeBytes {
    /// Free for everybody.
    pub(crate) bytes: usize,
    /// The largest range of it.
    pub(crate) largest: usize,
    /// Waiting for a point.
    pub(crate) pending: usize,
}

impl Room {
    pub(crate) fn new(home: Home, kind: ArenaKind) -> Self {
        Self {
            space: Space::default(),
            regions: BTreeMap::new(),
            windows: BTreeMap::new(),
            spare_records: Vec::new(),
            index: new_index(),
            home,
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
    pub(crate) fn allocate_own(
        &mut self,
        want: &Want,
        queue: u32,
        sparing: Sparing,
    ) -> Option<Block> {
        let Want {
            bytes, alignment, ..
        } = *want;
        if let Sparing::Handles { leaving, from } = sparing {
            let large = bytes >= from;
            let found =
                self.find_sparing(Some(queue), want, if large { leaving } else { usize::MAX });
            if found.is_some() || large {
                return found.map(|(free, position)| self.cut_block(free, position, want));
            }
        }
        let space = &mut self.space;
        let (free, position) = space
            .find_pending(queue, bytes, alignment)
            .or_else(|| space.join_for(queue, bytes, alignment, false))?;
        if self.breaks_into(position, bytes, sparing) {
            return None;
        }
        Some(self.cut_block(free, position, want))
    }

    /// Makes a place known where a whole handle is mapped.
    pub(crate) fn add_window(&mut self, position: usize, bytes: usize) {
        self.windows.insert(position, bytes);
    }

    pub(crate) fn remove_window(&mut self, position: usize) {
        self.windows.remove(&position);
    }

    /// Where a block leaves the fewest bytes of handles that are free altogether, if it is less than
    /// `leaving`: in the shortest of alike free ranges that are pending on a queue, or clean.
    fn find_sparing(
        &self,
        queue: Option<u32>,
        want: &Want,
        leaving: usize,
    ) -> Option<(Range, usize)> {
        let mut best: Option<(usize, Range, usize)> = None;
        let aligned = |position: usize| position.checked_next_multiple_of(want.alignment);
        for free in self
            .space
            .fitting(queue, want.bytes)
            .take(SPARING_CANDIDATES)
        {
            let whole = self.windows.range(free.start..free.end()).next();
            let last = (free.end() - want.bytes) & !(want.alignment - 1);
            let positions = [
                aligned(free.start),
                whole.and_then(|(&start, _)| aligned(start)),
                Some(last),
            ];
            for position in positions.into_iter().flatten() {
                if position < free.start || position.saturating_add(want.bytes) > free.end() {
                    continue;
                }
                let broken = self.broken(free, position, want.bytes);
                if best.is_none_or(|(least, ..)| broken < least) {
                    best = Some((broken, free, position));
                }
            }
            if best.is_some_and(|(least, ..)| least == 0) {
                break;
            }
        }
        let (broken, free, position) = best?;
        (broken < leaving).then_some((free, position))
    }

    /// Bytes that a block there would leave of handles that are free altogether.
    fn broken(&self, free: Range, position: usize, bytes: usize) -> usize {
        let end = position + bytes;
        let left = |at: usize| {
            let (&start, &length) = self.windows.range(..=at).next_back()?;
            let whole = start >= free.start && start + length <= free.end() && start + length > at;
            let taken = end.min(start + length) - position.max(start);
            whole.then_some((start, length - taken))
        };
        let (first, last) = (left(position), left(end - 1));
        let same = first.map(|(start, _)| start) == last.map(|(start, _)| start);
        first.map_or(0, |(_, bytes)| bytes) + last.filter(|_| !same).map_or(0, |(_, bytes)| bytes)
    }

    /// Whether a block there would be the only one in a region that is much too large for it.
    fn breaks_into(&self, position: usize, bytes: usize, sparing: Sparing) -> bool {
        let Sparing::Larger { than, leaving } = sparing else {
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
            && left > length / LEFT_OF_REGION_DIVISOR
            && self.space.awaited(region).is_some()
    }

    /// A block from whatever the request may have.
    pub(crate) fn allocate(&mut self, want: &Want, sparing: Sparing) -> Option<Block> {
        let Want {
            bytes, alignment, ..
        } = *want;
        if let Sparing::Handles { leaving, from } = sparing {
            let large = bytes >= from;
            let leaving = if large { leaving } else { usize::MAX };
            let own = |queue| self.find_sparing(Some(queue), want, leaving);
            let found = match want.queue.and_then(own) {
                Some(own) if want.contended => Some(own),
                own => {
                    let clean = self.find_sparing(None, want, leaving);
                    let length = |found: &(Range, usize)| found.0.bytes;
                    own.into_iter().chain(clean).min_by_key(length)
                }
            };
            if found.is_some() || large {
                return found.map(|(free, position)| self.cut_block(free, position, want));
            }
        }
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
        if self.breaks_into(position, bytes, sparing) {
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
        if let Some(address) = block.as_record().address() {
            self.index.remove(address);
        }
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
            pool: self.home.key,
            storage: self.home.storage,
            arena: self.kind,
            node: self.home.node,
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
        if let Some(address) = record.address() {
            self.index.insert(address, record);
        }
        block
    }

    /// Finds its blocks without a lock.
    pub(crate) fn index(&self) -> &Arc<AddressMap> {
        self.index.map()
    }

    pub(crate) fn free(&self) -> FreeBytes {
        FreeBytes {
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
        end_index(&mut self.index);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::{CacheKey, ListId, Node};
    use crate::device::StorageMode;

    fn want(bytes: usize) -> Want {
        Want {
            bytes,
            alignment: 1,
            list: ListId::NONE,
            thread_max: 0,
            queue: None,
            contended: false,
            live: 0,
            recorded: false,
        }
    }

    /// Handles of 8 bytes, side by side, of which nothing is free.
    fn room() -> Room {
        let home = Home {
            key: CacheKey::new(),
            storage: StorageMode::Private,
            node: Node::at(0),
        };
        let mut room = Room::new(home, ArenaKind::Large);
        for position in (0..80).step_by(8) {
            room.add_window(position, 8);
        }
        room
    }

    #[test]
    fn what_a_block_leaves_of_free_handles_is_counted_at_both_of_its_ends() {
        let room = room();
        let free = Range::between(0, 24);
        let broken = |position, bytes| room.broken(free, position, bytes);
        assert_eq!(broken(0, 8), 0);
        assert_eq!(broken(0, 3), 5);
        assert_eq!(broken(2, 3), 5, "before it and behind it");
        assert_eq!(broken(4, 8), 8, "of two handles");
        assert_eq!(broken(4, 16), 8, "the one between is used whole");
        assert_eq!(broken(8, 16), 0);
        // Of a handle in use there is nothing to break.
        assert_eq!(room.broken(Range::between(2, 24), 2, 6), 0);
        assert_eq!(room.broken(Range::between(2, 24), 2, 8), 6);
        assert_eq!(room.broken(Range::between(0, 22), 18, 4), 0);
    }

    #[test]
    fn blocks_lie_where_they_leave_the_least_of_free_handles() {
        let mut room = room();
        let (whole, end, middle) = (
            Range::between(0, 16),
            Range::between(34, 40),
            Range::between(46, 64),
        );
        for free in [whole, end, middle] {
            room.space.add(free);
        }
        let found = |bytes, leaving| room.find_sparing(None, &want(bytes), leaving);
        assert_eq!(found(4, 1), Some((end, 34)), "in a handle that is in use");
        assert_eq!(found(7, 2), Some((whole, 0)));
        assert_eq!(found(7, 1), None, "a byte would be left");
        assert_eq!(found(8, 1), Some((whole, 0)));
        assert_eq!(found(17, 1), Some((middle, 47)), "to the end of the last");
        assert_eq!(found(18, 1), Some((middle, 46)));
        assert_eq!(found(19, usize::MAX), None);
    }

    #[test]
    fn a_block_begins_with_a_handle_if_that_leaves_less() {
        let mut room = room();
        room.space.add(Range::between(6, 21));
        let found = room.find_sparing(None, &want(8), 1);
        assert_eq!(found, Some((Range::between(6, 21), 8)));
    }

    #[test]
    fn what_waits_for_a_queue_is_found_for_it_alone() {
        let mut room = room();
        let point = Point { queue: 3, value: 1 };
        room.space.add_pending(Range::between(0, 8), Some(point));
        let found = |queue| room.find_sparing(queue, &want(8), 1);
        assert_eq!(found(Some(3)), Some((Range::between(0, 8), 0)));
        assert_eq!([found(None), found(Some(4))], [None; 2]);
    }
}
