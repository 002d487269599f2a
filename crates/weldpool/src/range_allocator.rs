//! Best-fit range allocation over several segments: offsets in, offsets out.
//!
//! Free ranges are kept by size and by position, so allocation, release and coalescing are all
//! O(log n) in the number of free ranges. Nothing here knows a device or touches memory.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

/// A place in a segment; ordered by segment, then by offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    pub(crate) segment: u32,
    pub(crate) offset: usize,
}

/// Free ranges tried at their exact size before the search asks for room to align.
const ALIGNED_CANDIDATES: usize = 16;

/// The free ranges of a set of segments.
#[derive(Debug, Default)]
pub(crate) struct RangeAllocator {
    by_size: BTreeSet<(usize, Position)>,
    by_position: BTreeMap<Position, usize>,
    segments: BTreeMap<u32, SegmentRoom>,
    free_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct SegmentRoom {
    base: usize,
    bytes: usize,
    free: usize,
}

impl RangeAllocator {
    /// Adds a segment, all of it free. Alignment counts from address zero, so `base` is the address
    /// of its first byte.
    pub(crate) fn add_segment(&mut self, segment: u32, base: usize, bytes: usize) {
        let room = SegmentRoom {
            base,
            bytes,
            free: bytes,
        };
        let previous = self.segments.insert(segment, room);
        debug_assert!(previous.is_none(), "segment {segment} was added twice");
        self.insert(Position { segment, offset: 0 }, bytes);
        self.free_bytes += bytes;
    }

    /// Removes a segment that is entirely free; false leaves everything as it was.
    pub(crate) fn remove_segment(&mut self, segment: u32) -> bool {
        match self.segments.get(&segment) {
            Some(room) if room.free == room.bytes => {
                let bytes = room.bytes;
                self.segments.remove(&segment);
                self.remove(Position { segment, offset: 0 }, bytes);
                self.free_bytes -= bytes;
                true
            }
            _ => false,
        }
    }

    /// Takes the smallest free range that holds `bytes` at `alignment`, lowest position first among
    /// equals. `alignment` is a power of two.
    pub(crate) fn allocate(&mut self, bytes: usize, alignment: usize) -> Option<Position> {
        let (length, position, start) = self.find(bytes, alignment)?;
        self.remove(position, length);
        let before = start - position.offset;
        let after = length - before - bytes;
        if before > 0 {
            self.insert(position, before);
        }
        let taken = Position {
            segment: position.segment,
            offset: start,
        };
        if after > 0 {
            self.insert(
                Position {
                    segment: position.segment,
                    offset: start + bytes,
                },
                after,
            );
        }
        self.free_bytes -= bytes;
        if let Some(room) = self.segments.get_mut(&position.segment) {
            room.free -= bytes;
        }
        Some(taken)
    }

    /// Gives a range back and joins it with its free neighbours. True when its segment is now
    /// entirely free.
    pub(crate) fn release(&mut self, position: Position, bytes: usize) -> bool {
        let mut start = position.offset;
        let mut end = position.offset + bytes;
        let segment = position.segment;
        if let Some((&before, &length)) = self.by_position.range(..position).next_back()
            && before.segment == segment
            && before.offset + length == start
        {
            self.remove(before, length);
            start = before.offset;
        }
        let next = Position {
            segment,
            offset: end,
        };
        if let Some(&length) = self.by_position.get(&next) {
            self.remove(next, length);
            end += length;
        }
        self.insert(
            Position {
                segment,
                offset: start,
            },
            end - start,
        );
        self.free_bytes += bytes;
        match self.segments.get_mut(&segment) {
            Some(room) => {
                room.free += bytes;
                room.free == room.bytes
            }
            None => false,
        }
    }

    /// Bytes that are free in all segments.
    pub(crate) fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// The largest free range in bytes; O(1) amortised.
    pub(crate) fn largest_free(&self) -> usize {
        self.by_size.last().map_or(0, |&(length, _)| length)
    }

    /// Bytes of all segments together.
    pub(crate) fn total_bytes(&self) -> usize {
        self.segments.values().map(|room| room.bytes).sum()
    }

    /// Segments that are entirely free.
    pub(crate) fn empty_segments(&self) -> Vec<u32> {
        self.segments
            .iter()
            .filter(|(_, room)| room.free == room.bytes)
            .map(|(&segment, _)| segment)
            .collect()
    }

    fn find(&self, bytes: usize, alignment: usize) -> Option<(usize, Position, usize)> {
        let lowest = Position {
            segment: 0,
            offset: 0,
        };
        let fits = |&(length, position): &(usize, Position)| {
            let base = self.segments.get(&position.segment)?.base;
            let start = (base + position.offset).checked_next_multiple_of(alignment)? - base;
            let end = start.checked_add(bytes)?;
            (end <= position.offset + length).then_some((length, position, start))
        };
        self.by_size
            .range((bytes, lowest)..)
            .take(ALIGNED_CANDIDATES)
            .find_map(fits)
            .or_else(|| {
                // A range this long holds an aligned start wherever it begins.
                let sure = bytes.checked_add(alignment - 1)?;
                self.by_size.range((sure, lowest)..).next().and_then(fits)
            })
    }

    fn insert(&mut self, position: Position, length: usize) {
        self.by_size.insert((length, position));
        self.by_position.insert(position, length);
    }

    fn remove(&mut self, position: Position, length: usize) {
        let known = self.by_size.remove(&(length, position));
        debug_assert!(known, "{position:?} is not a free range of {length} bytes");
        self.by_position.remove(&position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(segment: u32, offset: usize) -> Position {
        Position { segment, offset }
    }

    #[test]
    fn takes_the_smallest_range_that_fits_and_joins_neighbours() {
        let mut ranges = RangeAllocator::default();
        ranges.add_segment(0, 0, 4096);
        let a = ranges.allocate(1024, 256).unwrap();
        let b = ranges.allocate(512, 256).unwrap();
        let c = ranges.allocate(256, 256).unwrap();
        assert_eq!((a, b, c), (at(0, 0), at(0, 1024), at(0, 1536)));
        assert!(!ranges.release(b, 512));
        assert_eq!(
            ranges.allocate(300, 4),
            Some(b),
            "the hole fits better than the tail"
        );
        assert!(!ranges.release(b, 300));
        assert!(!ranges.release(a, 1024));
        assert_eq!(ranges.largest_free(), 4096 - 1792);
        assert!(ranges.release(c, 256));
        assert_eq!(ranges.largest_free(), 4096);
        assert!(ranges.remove_segment(0));
        assert_eq!(ranges.allocate(1, 1), None);
    }

    #[test]
    fn alignment_is_kept_and_the_gap_stays_free() {
        let mut ranges = RangeAllocator::default();
        ranges.add_segment(7, 0, 1 << 16);
        ranges.allocate(256, 256).unwrap();
        assert_eq!(ranges.allocate(4096, 4096), Some(at(7, 4096)));
        assert_eq!(ranges.allocate(3840, 256), Some(at(7, 256)));
    }

    #[test]
    fn alignment_counts_from_address_zero() {
        let mut ranges = RangeAllocator::default();
        ranges.add_segment(0, 0x3000, 1 << 16);
        assert_eq!(ranges.allocate(256, 0x4000), Some(at(0, 0x1000)));
    }

    #[test]
    fn a_segment_in_use_is_not_removed_and_ranges_never_span_two() {
        let mut ranges = RangeAllocator::default();
        ranges.add_segment(0, 0, 1024);
        ranges.add_segment(1, 0, 1024);
        assert_eq!(ranges.allocate(1025, 1), None);
        let a = ranges.allocate(1024, 256).unwrap();
        assert!(!ranges.remove_segment(a.segment));
        assert_eq!(ranges.empty_segments(), vec![1]);
        assert!(ranges.release(a, 1024));
        assert_eq!(ranges.largest_free(), 1024);
    }

    #[test]
    fn sizes_near_the_end_of_the_address_space_do_not_wrap() {
        let mut ranges = RangeAllocator::default();
        ranges.add_segment(0, 0, 4096);
        assert_eq!(ranges.allocate(usize::MAX, 256), None);
        assert_eq!(ranges.allocate(usize::MAX - 255, 1 << 30), None);
    }

    proptest! {
        /// Against a plain model: nothing overlaps, all is aligned, and everything comes back.
        #[test]
        fn agrees_with_a_list_of_intervals(
            operations in proptest::collection::vec((any::<bool>(), 1usize..5000, 0u32..13), 1..200),
        ) {
            let mut ranges = RangeAllocator::default();
            ranges.add_segment(0, 0, 1 << 15);
            ranges.add_segment(1, 0, 1 << 14);
            let total = ranges.total_bytes();
            let mut live: Vec<(Position, usize)> = Vec::new();
            for (take, bytes, shift) in operations {
                if take || live.is_empty() {
                    let alignment = 1usize << shift;
                    if let Some(position) = ranges.allocate(bytes, alignment) {
                        prop_assert_eq!(position.offset % alignment, 0);
                        for &(other, length) in &live {
                            prop_assert!(
                                other.segment != position.segment
                                    || other.offset + length <= position.offset
                                    || position.offset + bytes <= other.offset
                            );
                        }
                        live.push((position, bytes));
                    }
                } else {
                    let (position, length) = live.swap_remove(bytes % live.len());
                    ranges.release(position, length);
                }
                let used: usize = live.iter().map(|&(_, length)| length).sum();
                prop_assert_eq!(ranges.free_bytes() + used, total);
            }
            for (position, length) in live {
                ranges.release(position, length);
            }
            prop_assert_eq!(ranges.empty_segments(), vec![0, 1]);
            prop_assert_eq!(ranges.largest_free(), 1 << 15);
        }
    }
}
