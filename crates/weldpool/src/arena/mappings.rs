//! Which physical memory lies behind which positions, where it can be divided.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::device::{Mapped, Physical};
use crate::space::Range;

/// Physical memory, in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) physical: Physical,
    pub(crate) bytes: usize,
}

/// Pieces in the order of their memory, neighbours as one, so that a call maps as much as it can.
pub(crate) fn joined(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable_by_key(|piece| piece.physical);
    pieces.dedup_by(|next, last| {
        let neighbours = last.physical.offset(last.bytes) == next.physical;
        if neighbours {
            last.bytes += next.bytes;
        }
        neighbours
    });
    pieces
}

/// The mappings in use, by position. Every operation is O(log n + pieces it touches).
#[derive(Debug)]
pub(crate) struct Mappings {
    pieces: BTreeMap<usize, Piece>,
    granularity: usize,
    /// The system may have a limit.
    mapped: Mapped,
}

impl Mappings {
    /// `granularity` is a power of two.
    pub(crate) fn new(granularity: usize) -> Self {
        Self {
            pieces: BTreeMap::new(),
            granularity,
            mapped: Mapped::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(crate) fn insert(&mut self, position: usize, piece: Piece) {
        if let Some((&before, last)) = self.pieces.range_mut(..position).next_back()
            && before + last.bytes == position
            && last.physical.offset(last.bytes) == piece.physical
        {
            last.bytes += piece.bytes;
            return;
        }
        self.pieces.insert(position, piece);
        self.mapped.set(self.pieces.len());
    }

    /// The part of a free range that can be mapped elsewhere: whole granules.
    pub(crate) fn movable(&self, free: Range) -> Option<Range> {
        let start = free.start.checked_next_multiple_of(self.granularity)?;
        let end = free.end() & !(self.granularity - 1);
        (start < end).then(|| Range {
            start,
            bytes: end - start,
        })
    }

    /// Pieces that a movable range consists of.
    pub(crate) fn pieces_in(&self, movable: Range) -> usize {
        self.pieces.range(movable.start + 1..movable.end()).count() + 1
    }

    /// The least part of a movable range, from its start, that has at least `bytes` bytes.
    pub(crate) fn head(&self, movable: Range, bytes: usize) -> Range {
        Range {
            start: movable.start,
            // A movable range consists of whole granules.
            bytes: bytes.min(movable.bytes).next_multiple_of(self.granularity),
        }
    }

    /// Forgets a movable range, or a part that [`head`](Self::head) gave; returns its pieces in order.
    pub(crate) fn remove(&mut self, range: Range) -> Vec<Piece> {
        self.split(range.start);
        self.split(range.end());
        let starts: Vec<usize> = self
            .pieces
            .range(range.start..range.end())
            .map(|(&start, _)| start)
            .collect();
        let removed = starts.iter().filter_map(|start| self.pieces.remove(start));
        let removed = removed.collect();
        self.mapped.set(self.pieces.len());
        removed
    }

    /// The pieces of a range that is mapped throughout, in order.
    #[cfg(test)]
    pub(crate) fn pieces(&self) -> Vec<(usize, Piece)> {
        let all = self.pieces.iter();
        all.map(|(&start, &piece)| (start, piece)).collect()
    }

    fn split(&mut self, position: usize) {
        if let Some((&start, piece)) = self.pieces.range_mut(..position).next_back()
            && start + piece.bytes > position
        {
            let head = position - start;
            let tail = Piece {
                physical: piece.physical.offset(head),
                bytes: piece.bytes - head,
            };
            piece.bytes = head;
            self.pieces.insert(position, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn range(start: usize, bytes: usize) -> Range {
        Range { start, bytes }
    }

    const fn piece(number: u64, bytes: usize) -> Piece {
        Piece {
            physical: Physical::new(number),
            bytes,
        }
    }

    #[test]
    fn pieces_are_split_and_joined() {
        let mut mappings = Mappings::new(4096);
        mappings.insert(0x10000, piece(0, 0x4000));
        mappings.insert(0x14000, piece(0x4000, 0x4000));
        assert_eq!(mappings.len(), 1, "neighbours in both numberings are one");
        let movable = mappings.movable(range(0x10100, 0x6000)).unwrap();
        assert_eq!(movable, range(0x11000, 0x5000));
        let head = mappings.head(movable, 0x1800);
        assert_eq!(head, range(0x11000, 0x2000));
        assert_eq!(mappings.head(movable, usize::MAX), movable);
        assert_eq!(mappings.remove(head), [piece(0x1000, 0x2000)]);
        assert_eq!(
            mappings.pieces(),
            [
                (0x10000, piece(0, 0x1000)),
                (0x13000, piece(0x3000, 0x5000))
            ]
        );
        assert_eq!(mappings.movable(range(0x13001, 0xfff)), None);
    }

    #[test]
    fn pieces_are_joined_in_the_order_of_their_memory() {
        let pieces = [(0x8000, 0x1000), (0x4000, 0x1000), (0x2000, 0x2000), (0, 1)];
        let pieces = pieces.map(|(number, bytes)| piece(number, bytes));
        assert_eq!(
            joined(pieces.to_vec()),
            [piece(0, 1), piece(0x2000, 0x3000), piece(0x8000, 0x1000)]
        );
        assert_eq!(joined(Vec::new()), []);
    }
}
