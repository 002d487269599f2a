//! The crate `offset-allocator`: ranges of one block, by 32-bit offsets.

use crate::alloc::heap::Heap;

/// Most live ranges; the crate makes their records when it starts.
const RANGES_MAX: u32 = 128 << 10;

/// A range allocator that counts in units, because its offsets have 32 bits and it knows no alignment.
pub(in crate::alloc) struct OffsetAllocator {
    ranges: offset_allocator::Allocator,
    unit: usize,
}

impl OffsetAllocator {
    /// One block of `capacity` bytes whose ranges are aligned to `alignment`.
    pub(in crate::alloc) fn new(capacity: usize, alignment: usize) -> Self {
        let size = u32::try_from(capacity / alignment).unwrap_or(u32::MAX);
        Self {
            ranges: offset_allocator::Allocator::with_max_allocs(size, RANGES_MAX),
            unit: alignment,
        }
    }
}

impl Heap for OffsetAllocator {
    type Block = offset_allocator::Allocation;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Self::Block> {
        let units = u32::try_from(bytes.div_ceil(self.unit)).ok()?;
        self.ranges.allocate(units)
    }

    #[inline]
    fn free(&mut self, block: Self::Block) {
        self.ranges.free(block);
    }

    fn start(&mut self, block: &Self::Block) -> usize {
        block.offset as usize * self.unit
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut Self::Block, _value: u8) {}

    fn touch(&mut self, _block: &mut Self::Block, _value: u8) -> bool {
        true
    }
}
