//! Sequences of allocations and frees, which an allocator or a rule can be given.

use std::collections::HashMap;

use weldpool::{Allocator, Buffer, Result, StorageMode};

use super::allocate;

/// One of a sequence; numbers are given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Allocate { number: u32, bytes: usize },
    Free { number: u32 },
}

/// Writes a sequence.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) operations: Vec<Operation>,
    next: u32,
}

impl Writer {
    pub(super) fn allocate(&mut self, bytes: usize) -> u32 {
        let number = self.next;
        self.next += 1;
        self.operations.push(Operation::Allocate { number, bytes });
        number
    }

    pub(super) fn free(&mut self, number: u32) {
        self.operations.push(Operation::Free { number });
    }
}

/// The most bytes that are live at once.
pub(super) fn peak_live(operations: &[Operation]) -> usize {
    let mut sizes = HashMap::new();
    let (mut live, mut peak) = (0, 0);
    for operation in operations {
        match *operation {
            Operation::Allocate { number, bytes } => {
                sizes.insert(number, bytes);
                live += bytes;
                peak = peak.max(live);
            }
            Operation::Free { number } => live -= sizes.remove(&number).unwrap_or(0),
        }
    }
    peak
}

/// Does it all on an allocator, whose statistics say what it came to.
///
/// # Errors
///
/// As for [`Allocator::allocate_with`].
pub(super) fn replay(
    operations: &[Operation],
    allocator: &Allocator,
    storage: StorageMode,
) -> Result<()> {
    let mut live: HashMap<u32, Buffer> = HashMap::new();
    for operation in operations {
        match *operation {
            Operation::Allocate { number, bytes } => {
                live.insert(number, allocate(allocator, bytes, storage)?);
            }
            Operation::Free { number } => drop(live.remove(&number)),
        }
    }
    Ok(())
}
