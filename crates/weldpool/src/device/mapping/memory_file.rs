//! Mappings of one memory file (memfd_create(2)), so that a page can be mapped at several addresses.

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags};

use super::failed;
use crate::device::raw::{self, Address};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Range, Space};
use crate::sync::{Arc, Mutex};

/// Offsets the memory file may have. Only touched pages take memory.
pub(in crate::device) const FILE_BYTES_MAX: usize = 1 << 46;

/// The file's length grows by this much at once; untouched pages take no memory.
const FILE_STEP: usize = 1 << 30;

/// Hands out mappings.
#[derive(Debug)]
pub(in crate::device) struct Mapper {
    file: OwnedFd,
    state: Mutex<FileState>,
    bytes_max: usize,
}

/// Which parts of the memory file are in use.
#[derive(Debug)]
struct FileState {
    offsets: Space<()>,
    length: usize,
    /// Bytes in files of their own.
    apart: usize,
}

/// Bytes that lie elsewhere and count for a mapper, until the value is dropped.
#[derive(Debug)]
pub(in crate::device) struct Apart {
    bytes: usize,
    mapper: Arc<Mapper>,
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.mapper.state.lock().apart -= self.bytes;
    }
}

impl Mapper {
    pub(in crate::device) fn new() -> Result<Self> {
        Self::with_limit(None)
    }

    /// One that hands out at most `bytes_max` bytes.
    pub(in crate::device) fn with_limit(bytes_max: Option<u64>) -> Result<Self> {
        let bytes_max = bytes_max.map_or(FILE_BYTES_MAX, |most| {
            usize::try_from(most).map_or(FILE_BYTES_MAX, |most| most.min(FILE_BYTES_MAX))
        });
        let file = rustix::fs::memfd_create("weldpool", MemfdFlags::CLOEXEC)
            .map_err(|error| failed("memfd_create", error))?;
        let mut offsets = Space::default();
        offsets.add(Range {
            start: 0,
            bytes: FILE_BYTES_MAX,
        });
        Ok(Self {
            file,
            state: Mutex::new(FileState {
                offsets,
                length: 0,
                apart: 0,
            }),
            bytes_max,
        })
    }

    pub(in crate::device) fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Finds `bytes` zeroed bytes of the file, a multiple of the page size; returns their offset.
    pub(in crate::device) fn create(&self, bytes: usize) -> Result<usize> {
        let mut state = self.state.lock();
        let page = rustix::param::page_size();
        self.check(&state, bytes)?;
        let Some((free, offset)) = state.offsets.find_clean(bytes, page) else {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                "the host's memory file has no range of this length left",
            ));
        };
        let end = offset + bytes;
        if end > state.length {
            let length = end.next_multiple_of(FILE_STEP).min(FILE_BYTES_MAX);
            if let Err(error) = rustix::fs::ftruncate(&self.file, length as u64) {
                return Err(failed("ftruncate", error));
            }
            state.length = length;
        }
        state.offsets.cut(
            free.start,
            Range {
                start: offset,
                bytes,
            },
        );
        Ok(offset)
    }

    /// Whether it may hand out so many bytes more.
    fn check(&self, state: &FileState, bytes: usize) -> Result<()> {
        let used = FILE_BYTES_MAX - state.offsets.clean_bytes() + state.apart;
        if bytes > self.bytes_max.saturating_sub(used) {
            return Err(Error::with_message(
                ErrorKind::OutOfMemory,
                format!("{used} of {} bytes are in use", self.bytes_max),
            ));
        }
        Ok(())
    }

    /// Counts `bytes` bytes, less than half of all addresses, of another file as if they were handed out here.
    pub(in crate::device) fn count_apart(this: &Arc<Self>, bytes: usize) -> Result<Apart> {
        let mut state = this.state.lock();
        this.check(&state, bytes)?;
        state.apart += bytes;
        Ok(Apart {
            bytes,
            mapper: Arc::clone(this),
        })
    }

    /// Frees the pages of a range of the file; whoever still maps it sees zeroes.
    pub(in crate::device) fn release(&self, offset: usize, bytes: usize) -> Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, hole, offset as u64, bytes as u64)
            .map_err(|error| failed("fallocate", error))?;
        let freed = Range {
            start: offset,
            bytes,
        };
        self.state.lock().offsets.add(freed);
        Ok(())
    }

    /// Maps `bytes` zeroed bytes, a multiple of the page size.
    pub(in crate::device) fn map(this: &Arc<Self>, bytes: usize) -> Result<Mapping> {
        let offset = this.create(bytes)?;
        match raw::map_file(&this.file, offset as u64, bytes) {
            Ok(address) => Ok(Mapping {
                address,
                bytes,
                offset,
                mapper: Arc::clone(this),
            }),
            Err(error) => {
                this.give_back(offset, bytes);
                Err(failed("mmap", error))
            }
        }
    }

    fn give_back(&self, offset: usize, bytes: usize) {
        // The range is not used again then, so its stale contents can never be seen.
        if let Err(error) = self.release(offset, bytes) {
            tracing::error!(%error, offset, bytes, "pages could not be freed");
        }
    }

    /// Bytes that are mapped or could not be freed.
    #[cfg(test)]
    pub(in crate::device) fn mapped_bytes(&self) -> usize {
        FILE_BYTES_MAX - self.state.lock().offsets.clean_bytes()
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

    /// Says on which nodes its pages are to be; see [`raw::bind`].
    pub(in crate::device) fn bind(&self, mode: libc::c_int, nodes: &[u64]) -> std::io::Result<()> {
        // SAFETY: the mapping is this value's.
        unsafe { raw::bind(self.address.0, self.bytes, mode, nodes) }
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
