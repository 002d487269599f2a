//! Weldpool, by its public interface and with the default configuration.

use weldpool::{Allocator, Buffer};

use crate::alloc::heap::Heap;
use crate::error::{Error, ErrorKind, Result};

/// A handle to one pool of host memory; clones share the pool.
#[derive(Debug, Clone)]
pub(in crate::alloc) struct Ours(Allocator);

impl Ours {
    pub(in crate::alloc) fn new() -> Result<Self> {
        Allocator::host().map(Self).map_err(|error| {
            Error::caused(ErrorKind::Environment, "opening the host's memory", error)
        })
    }
}

impl Heap for Ours {
    type Block = Buffer;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        self.0.allocate(bytes).ok()
    }

    #[inline]
    fn free(&mut self, block: Buffer) {
        drop(block);
    }

    fn start(&mut self, block: &Buffer) -> usize {
        let host = block.binding().host;
        host.map_or(0, |address| address.as_ptr().addr())
    }

    fn has_memory(&self) -> bool {
        true
    }

    fn fill(&mut self, block: &mut Buffer, value: u8) {
        if let Ok(mut guard) = block.write::<u8>() {
            guard.fill(value);
        }
    }

    fn touch(&mut self, block: &mut Buffer, value: u8) -> bool {
        let Ok(mut guard) = block.write::<u8>() else {
            return false;
        };
        let ends = [0, guard.len() - 1];
        ends.into_iter().for_each(|end| guard[end] = value);
        ends.into_iter().all(|end| guard[end] == value)
    }
}
