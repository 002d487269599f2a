//! The least that an allocator can do: a stack of numbers that belongs to one thread.
//!
//! It is no peer. It shows what the loops cost by themselves and how far this machine's processors scale.

use crate::alloc::heap::Heap;

/// A stack of free numbers; a clone has a stack of its own.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    free: Vec<usize>,
    made: usize,
}

impl Clone for Reference {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Heap for Reference {
    type Block = usize;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<usize> {
        self.free.pop().or_else(|| {
            let start = self.made;
            self.made += bytes;
            Some(start)
        })
    }

    #[inline]
    fn free(&mut self, block: usize) {
        self.free.push(block);
    }

    fn start(&mut self, block: &usize) -> usize {
        *block
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut usize, _value: u8) {}

    fn touch(&mut self, _block: &mut usize, _value: u8) -> bool {
        true
    }
}
