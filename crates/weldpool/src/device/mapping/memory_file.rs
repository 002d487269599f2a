//! Mappings of one memory file (memfd_create(2)), so that a page can be mapped at several addresses.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags};

use super::failed;
use crate::device::raw::{self, Address};
use crate::error::{Error, ErrorKind, Result};
use crate::range_allocator::{Position, RangeAllocator};
use crate::sync::{Arc, Mutex};

/// Offsets the memory file may have. Only touched pages take memory.
const FILE_BYTES_MAX: usize = 1 << 46;

/// Hands out mappings.
#[derive(Debug)]
pub(in crate::device) struct Mapper {
    file: OwnedFd,
    state: Mutex<FileState>,
}

/// Which parts of the memory file are in use.
#[derive(Debug)]
struct FileState {
    offsets: RangeAllocator,
    length: usize,
}

impl Mapper {
    pub(in crate::device) fn new() -> Result<Self> {
        let file = rustix::fs::memfd_create("weldpool", MemfdFlags::CLOEXEC)
            .map_err(|error| failed("memfd_create", error))?;
        let mut offsets = RangeAllocator::default();
        offsets.add_segment(0, 0, FILE_BYTES_MAX);
        Ok(Self {
            file,
            state: Mutex::new(FileState { offsets, length: 0 }),
        })
    }

    /// Maps `bytes` zeroed bytes, a multiple of the page size.
    pub(in crate::device) fn map(this: &Arc<Self>, bytes: usize) -> Result<Mapping> {
        let mut state = this.state.lock();
        let page = rustix::param::page_size();
        let Some(position) = state.offsets.allocate(bytes, page) else {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                "the host's memory file has no range of this length left",
            ));
        };
        match this.map_at(&mut state, position.offset, bytes) {
            Ok(address) => Ok(Mapping {
                address,
                bytes,
                offset: position.offset,
                mapper: Arc::clone(this),
            }),
            Err(error) => {
                state.offsets.release(position, bytes);
                Err(error)
            }
        }
    }

    fn map_at(&self, state: &mut FileState, offset: usize, bytes: usize) -> Result<Address> {
        let end = offset + bytes;
        if end > state.length {
            rustix::fs::ftruncate(&self.file, end as u64)
                .map_err(|error| failed("ftruncate", error))?;
            state.length = end;
        }
        raw::map_file(&self.file, offset as u64, bytes).map_err(|error| failed("mmap", error))
    }

    /// Frees the pages of a range that is mapped nowhere any more.
    fn give_back(&self, offset: usize, bytes: usize) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, hole, offset as u64, bytes as u64) {
            Ok(()) => {
                let position = Position { segment: 0, offset };
                self.state.lock().offsets.release(position, bytes);
            }
            // The range is not used again, so its stale contents can never be seen.
            Err(error) => tracing::error!(%error, offset, bytes, "fallocate could not free pages"),
        }
    }

    /// Bytes that are mapped or could not be freed.
    #[cfg(test)]
    pub(in crate::device) fn mapped_bytes(&self) -> usize {
        FILE_BYTES_MAX - self.state.lock().offsets.free_bytes()
    }
}

/// Memory that is mapped until the value is dropped.
#[derive(Debug)]
pub(in crate::device) struct Mapping {
    address: Address,
    bytes: usize,
    offset: usize,
    mapper: Arc<Mapper>,
}

impl Mapping {
    pub(in crate::device) fn address(&self) -> NonNull<u8> {
        self.address.0
    }

    pub(in crate::device) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the end of the mapping's only owner, and `Segment` lets no reference outlive it.
        let unmapped = unsafe { raw::unmap(&self.address, self.bytes) };
        match unmapped {
            Ok(()) => self.mapper.give_back(self.offset, self.bytes),
            Err(error) => tracing::error!(%error, bytes = self.bytes, "munmap failed"),
        }
    }
}
