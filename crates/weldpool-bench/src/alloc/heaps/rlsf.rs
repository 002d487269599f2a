//! The crate `rlsf`: two-level segregated fit over memory that we map for it.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::alloc::heap::Heap;
use crate::error::{Error, Result};

/// One mapping, given to the allocator as a whole.
pub(in crate::alloc) struct Rlsf {
    // Declared, and so dropped, before the memory that it owns.
    ranges: rlsf::Tlsf<'static, u32, u32, 32, 32>,
    alignment: usize,
    _memory: Mapping,
}

impl Rlsf {
    /// Memory of `capacity` bytes whose blocks are aligned to `alignment`.
    pub(in crate::alloc) fn new(capacity: usize, alignment: usize) -> Result<Self> {
        let memory = Mapping::new(capacity)?;
        let mut ranges = rlsf::Tlsf::new();
        let whole = NonNull::slice_from_raw_parts(memory.address, memory.bytes);
        // SAFETY: the mapping is used by nobody else and lives as long as `ranges`.
        unsafe { ranges.insert_free_block_ptr(whole) };
        Ok(Self {
            ranges,
            alignment,
            _memory: memory,
        })
    }
}

impl Heap for Rlsf {
    type Block = NonNull<u8>;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(bytes, self.alignment).ok()?;
        self.ranges.allocate(layout)
    }

    #[inline]
    fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: `allocate` returned the block, with this alignment, and it is used up here.
        unsafe { self.ranges.deallocate(block, self.alignment) }
    }

    fn start(&mut self, block: &NonNull<u8>) -> usize {
        block.as_ptr().addr()
    }

    // It has memory; no case asks it to be written, because the other range allocators have none.
    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut NonNull<u8>, _value: u8) {}

    fn touch(&mut self, _block: &mut NonNull<u8>, _value: u8) -> bool {
        true
    }
}

/// Anonymous memory, committed when touched.
struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> Result<Self> {
        let (protection, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        );
        // SAFETY: no address is asked for, so no mapping in use is replaced.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags) };
        let failed = |error: std::io::Error| Error::io(format!("mapping {bytes} bytes"), error);
        let address = address.map_err(|error| failed(error.into()))?;
        NonNull::new(address.cast())
            .map(|address| Self { address, bytes })
            .ok_or_else(|| failed(std::io::ErrorKind::OutOfMemory.into()))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and its user is dropped before it. Unmapping what is mapped
        // does not fail.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}
