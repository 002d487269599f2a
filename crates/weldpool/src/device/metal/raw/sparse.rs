//! Placement sparse buffers (Metal 4, macOS 26), one call per function.
//!
//! Such a buffer is addresses of the GPU without memory. A queue of its own kind maps tiles of placement heaps to its
//! pages, on the GPU's timeline (documentation of `newBufferWithLength:options:placementSparsePageSize:` and of
//! `MTL4CommandQueue`).

use std::fmt::Debug;
use std::ops::Range;

use super::Metal;
use crate::error::Result;

/// `MTLSparsePageSize`: the size of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::device) enum SparsePageSize {
    /// 16 KiB.
    Size16,
    /// 64 KiB.
    Size64,
    /// 256 KiB.
    Size256,
}

impl SparsePageSize {
    /// All, the largest first.
    pub(in crate::device) const LARGEST_FIRST: [Self; 3] =
        [Self::Size256, Self::Size64, Self::Size16];

    /// In bytes.
    pub(in crate::device) const fn bytes(self) -> usize {
        match self {
            Self::Size16 => 16 << 10,
            Self::Size64 => 64 << 10,
            Self::Size256 => 256 << 10,
        }
    }
}

/// Consecutive tiles of a buffer or a heap, by which mappings are described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) struct Tiles {
    pub(in crate::device) page: SparsePageSize,
    pub(in crate::device) first: usize,
    pub(in crate::device) count: usize,
}

impl Tiles {
    /// The tiles of a range of bytes; none if it cuts through one or is empty.
    pub(in crate::device) fn of(page: SparsePageSize, at: usize, bytes: usize) -> Option<Self> {
        let tile = page.bytes();
        let whole = at.is_multiple_of(tile) && bytes.is_multiple_of(tile) && bytes > 0;
        whole.then(|| Self {
            page,
            first: at / tile,
            count: bytes / tile,
        })
    }

    /// The bytes they are; none beyond all numbers.
    pub(in crate::device) fn range(self) -> Option<Range<usize>> {
        let start = self.first.checked_mul(self.page.bytes())?;
        let bytes = self.count.checked_mul(self.page.bytes())?;
        Some(start..start.checked_add(bytes)?)
    }

    /// Whether there are any, and all of them inside so many bytes.
    pub(in crate::device) fn lie_inside(self, bytes: usize) -> bool {
        self.count > 0 && self.range().is_some_and(|range| range.end <= bytes)
    }
}

/// `MTL4CommandQueue`, for mappings alone. What is given to it is done in order, later, and it keeps nothing alive that
/// it was given (documentation of Metal 4's command queues and buffers).
pub(in crate::device) trait MappingQueue: Debug + Send + Sync + 'static {
    type Metal: Metal;

    /// `updateBufferMappings:heap:operations:count:` with one operation: the tiles of the buffer get as many tiles of the
    /// heap, from `heap_tile` on. A tile of a heap may be mapped at several places.
    fn map(
        &self,
        buffer: &<Self::Metal as Metal>::Buffer,
        tiles: Tiles,
        heap: &<Self::Metal as Metal>::Heap,
        heap_tile: usize,
    ) -> Result<()>;
    /// The same with one operation that unmaps, of tiles that may have none.
    fn unmap(&self, buffer: &<Self::Metal as Metal>::Buffer, tiles: Tiles) -> Result<()>;
    /// `signalEvent:value:`, behind all that was given before.
    fn signal(&self, event: &<Self::Metal as Metal>::Event, value: u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_whole_and_inside() {
        let page = SparsePageSize::Size64;
        let tile = page.bytes();
        let tiles = Tiles::of(page, 2 * tile, 3 * tile).unwrap();
        assert_eq!((tiles.first, tiles.count), (2, 3));
        assert_eq!(tiles.range(), Some(2 * tile..5 * tile));
        assert!(tiles.lie_inside(5 * tile) && !tiles.lie_inside(5 * tile - 1));
        for (at, bytes) in [(1, tile), (0, tile + 1), (0, 0)] {
            assert_eq!(Tiles::of(page, at, bytes), None);
        }
        let beyond = Tiles {
            first: usize::MAX,
            ..tiles
        };
        assert!(!beyond.lie_inside(usize::MAX));
        let none = Tiles { count: 0, ..tiles };
        assert!(!none.lie_inside(usize::MAX));
    }
}
