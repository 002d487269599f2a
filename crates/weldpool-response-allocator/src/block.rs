//! One buffer that is out.
#![forbid(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use weldpool::Buffer;
use weldpool::pinned::PinnedBuffer;
use weldpool_triton_sys::MemoryType;

use crate::counters::count;
use crate::functions::Functions;
use crate::place::Place;
use crate::state::State;

/// What plain memory is aligned to.
#[derive(Clone, Copy, Debug)]
#[repr(align(256))]
pub(crate) struct Line {
    _bytes: [u8; 256],
}

/// Memory, freed when it is dropped, on any thread.
#[derive(Debug)]
pub(crate) enum Memory {
    Pool(Buffer),
    Pinned(PinnedBuffer),
    /// Empty, for the sake of its capacity.
    Plain(Vec<Line>),
}

/// A buffer with all that is needed to free it, since Triton passes nothing else then.
#[derive(Debug)]
pub(crate) struct Block {
    memory: Memory,
    place: Place,
    bytes: usize,
    state: Arc<State>,
}

impl Block {
    pub(crate) fn new(memory: Memory, place: Place, bytes: usize, state: Arc<State>) -> Block {
        state.counters.begin(bytes);
        Block {
            memory,
            place,
            bytes,
            state,
        }
    }

    /// Where it begins, in the address space of its place; none if it is not there.
    pub(crate) fn address(&mut self) -> Option<NonNull<c_void>> {
        let binding = match &mut self.memory {
            Memory::Plain(lines) => return NonNull::new(lines.as_mut_ptr().cast()),
            Memory::Pool(buffer) => buffer.binding(),
            Memory::Pinned(buffer) => buffer.binding(),
        };
        match self.place.memory_type {
            MemoryType::Cpu | MemoryType::CpuPinned => binding.host.map(NonNull::cast),
            MemoryType::Gpu => {
                let address = usize::try_from(binding.device_address?).ok()?;
                NonNull::new(ptr::without_provenance_mut(address))
            }
        }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Triton's functions, as its allocator has them.
    pub(crate) fn functions(&self) -> Functions {
        self.state.functions
    }

    /// Triton gives it back.
    pub(crate) fn release(self) {
        count(&self.state.counters.releases);
    }

    /// Triton never learnt of it.
    pub(crate) fn reclaim(self) {
        count(&self.state.counters.reclaimed);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.state.counters.end(self.bytes);
    }
}
