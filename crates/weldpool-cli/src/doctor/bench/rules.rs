//! The rules by which others reuse memory, as pure arithmetic: what they would hold.
//!
//! Neither returns anything while memory is not short, which is when a program's footprint is seen to grow.

use std::collections::{BTreeMap, HashMap};

use super::operations::Operation;
use super::{KIB, MIB};

/// A page of Apple silicon.
const PAGE: usize = 16 * KIB;

/// An allocator's rule.
pub(super) trait Rule {
    fn allocate(&mut self, number: u32, bytes: usize);
    fn free(&mut self, number: u32);
    /// Bytes held from the driver.
    fn reserved(&self) -> usize;
}

/// The most that a rule holds in the course of a sequence. Nothing is ever returned, so it is what it holds at the end.
pub(super) fn peak_reserved(operations: &[Operation], rule: &mut dyn Rule) -> usize {
    for operation in operations {
        match *operation {
            Operation::Allocate { number, bytes } => rule.allocate(number, bytes),
            Operation::Free { number } => rule.free(number),
        }
    }
    rule.reserved()
}

/// Buffers by size, as both keep those that are free.
#[derive(Debug, Default)]
struct Free(BTreeMap<usize, u32>);

impl Free {
    fn add(&mut self, bytes: usize) {
        *self.0.entry(bytes).or_default() += 1;
    }

    /// The smallest of at least so many bytes, if it has fewer than `below`.
    fn take(&mut self, bytes: usize, below: usize) -> Option<usize> {
        let (&found, count) = self.0.range_mut(bytes..).next()?;
        if found >= below {
            return None;
        }
        *count -= 1;
        if *count == 0 {
            self.0.remove(&found);
        }
        Some(found)
    }
}

/// MLX (`backend/common/buffer_cache.h`): whole pages above one; a free buffer is used again for a request of more
/// than half its size, or of two pages less.
#[derive(Debug, Default)]
pub(super) struct Mlx {
    free: Free,
    live: HashMap<u32, usize>,
    reserved: usize,
}

impl Rule for Mlx {
    fn allocate(&mut self, number: u32, bytes: usize) {
        let bytes = if bytes > PAGE {
            bytes.next_multiple_of(PAGE)
        } else {
            bytes
        };
        let below = (2 * bytes).min(bytes + 2 * PAGE);
        let found = self.free.take(bytes, below);
        if found.is_none() {
            self.reserved += bytes;
        }
        self.live.insert(number, found.unwrap_or(bytes));
    }

    fn free(&mut self, number: u32) {
        if let Some(bytes) = self.live.remove(&number) {
            self.free.add(bytes);
        }
    }

    fn reserved(&self) -> usize {
        self.reserved
    }
}

/// PyTorch on MPS (`ATen/mps/MPSAllocator.h`): up to 1 MiB in heaps of 8 MiB, below 10 MiB in heaps of 32 MiB, below
/// 512 MiB in heaps of 1 GiB, else in heaps of their own of 2 MiB granules. A free buffer of the same pool is used
/// again for requests of up to 32 MiB less; it is not divided, and its heap keeps it.
#[derive(Debug, Default)]
pub(super) struct Bands {
    /// Of small ones, and of large ones.
    free: [Free; 2],
    live: HashMap<u32, usize>,
    /// By the size of a heap, what is left in each.
    heaps: BTreeMap<usize, Vec<usize>>,
    reserved: usize,
}

const SMALL: usize = MIB;
const MEDIUM: usize = 10 * MIB;
const LARGE: usize = 512 * MIB;
const OVERSIZE: usize = 32 * MIB;

impl Bands {
    fn pool(bytes: usize) -> usize {
        usize::from(bytes > SMALL)
    }

    fn heap_bytes(bytes: usize) -> usize {
        if bytes <= SMALL {
            8 * MIB
        } else if bytes < MEDIUM {
            32 * MIB
        } else if bytes < LARGE {
            1024 * MIB
        } else {
            bytes.next_multiple_of(2 * MIB)
        }
    }
}

impl Rule for Bands {
    fn allocate(&mut self, number: u32, bytes: usize) {
        let bytes = bytes.next_multiple_of(PAGE);
        let found = self.free[Self::pool(bytes)].take(bytes, bytes + OVERSIZE + 1);
        if found.is_none() {
            let heap_bytes = Self::heap_bytes(bytes);
            let heaps = self.heaps.entry(heap_bytes).or_default();
            match heaps.iter_mut().find(|left| **left >= bytes) {
                Some(left) => *left -= bytes,
                None => {
                    heaps.push(heap_bytes - bytes);
                    self.reserved += heap_bytes;
                }
            }
        }
        self.live.insert(number, found.unwrap_or(bytes));
    }

    fn free(&mut self, number: u32) {
        if let Some(bytes) = self.live.remove(&number) {
            self.free[Self::pool(bytes)].add(bytes);
        }
    }

    fn reserved(&self) -> usize {
        self.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mlx_reuses_what_is_not_much_larger() {
        let mut rule = Mlx::default();
        rule.allocate(0, 10 * PAGE);
        rule.free(0);
        // Two pages less is too much; one is not.
        rule.allocate(1, 8 * PAGE);
        assert_eq!(rule.reserved(), 18 * PAGE);
        rule.allocate(2, 9 * PAGE);
        assert_eq!(rule.reserved(), 18 * PAGE);
        // More than the largest is new.
        rule.free(2);
        rule.allocate(3, 10 * PAGE + 1);
        assert_eq!(rule.reserved(), 29 * PAGE);
        // Below a page, sizes are exact.
        rule.allocate(4, 4);
        assert_eq!(rule.reserved(), 29 * PAGE + 4);
    }

    #[test]
    fn pytorch_takes_a_heap_per_band() {
        let mut rule = Bands::default();
        for (number, bytes, reserved) in [
            (0, 4, 8 * MIB),
            (1, MIB, 8 * MIB),
            (2, MIB + 1, 40 * MIB),
            (3, 10 * MIB, 1064 * MIB),
            (4, 511 * MIB, 1064 * MIB),
            (5, 513 * MIB, 1578 * MIB),
        ] {
            rule.allocate(number, bytes);
            assert_eq!(rule.reserved(), reserved, "{bytes}");
        }
        // A large free buffer serves one that is 32 MiB smaller, and no smaller one.
        rule.free(4);
        rule.allocate(6, 479 * MIB);
        assert_eq!(rule.reserved(), 1578 * MIB);
        rule.free(6);
        rule.allocate(7, 478 * MIB);
        assert_eq!(rule.reserved(), 1578 * MIB, "the heap has room beside");
        rule.allocate(8, 478 * MIB);
        assert_eq!(rule.reserved(), 2602 * MIB);
    }
}
