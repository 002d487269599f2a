//! Page mappings: ranges of one memory file on Linux, anonymous memory elsewhere.

use std::ptr::NonNull;

use super::raw;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;
#[cfg(target_os = "linux")]
use crate::{
    range_allocator::{Position, RangeAllocator},
    sync::Mutex,
};

/// Hands out mappings.
#[derive(Debug)]
pub(super) struct Mapper {
    #[cfg(target_os = "linux")]
    file: std::os::fd::OwnedFd,
    #[cfg(target_os = "linux")]
    state: Mutex<FileState>,
}

/// Which parts of the memory file are in use.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct FileState {
    offsets: RangeAllocator,
    length: usize,
}

/// Offsets the memory file may have. Only touched pages take memory.
#[cfg(target_os = "linux")]
const FILE_BYTES_MAX: usize = 1 << 46;

impl Mapper {
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> Result<Self> {
        use rustix::fs::MemfdFlags;
        let file = rustix::fs::memfd_create("weldpool", MemfdFlags::CLOEXEC)
            .map_err(|error| Error::system(ErrorKind::System, "memfd_create", &error.into()))?;
        let mut offsets = RangeAllocator::default();
        offsets.add_segment(0, 0, FILE_BYTES_MAX);
        Ok(Self {
            file,
            state: Mutex::new(FileState { offsets, length: 0 }),
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> Result<Self> {
        Ok(Self {})
    }

    /// Maps `bytes` zeroed bytes, a multiple of the page size.
    #[cfg(target_os = "linux")]
    pub(super) fn map(this: &Arc<Self>, bytes: usize) -> Result<Mapping> {
        let mut state = this.state.lock();
        let page = rustix::param::page_size();
        let Some(position) = state.offsets.allocate(bytes, page) else {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                "the host's memory file has no range of this length left",
            ));
        };
        let end = position.offset + bytes;
        let result = if end > state.length {
            rustix::fs::ftruncate(&this.file, end as u64)
                .map_err(|error| failed("ftruncate", error))
                .map(|()| state.length = end)
        } else {
            Ok(())
        }
        .and_then(|()| {
            raw::map_file(&this.file, position.offset as u64, bytes)
                .map_err(|error| failed("mmap", error))
        });
        match result {
            Ok(address) => Ok(Mapping {
                address: Address(address),
                bytes,
                mapper: Arc::clone(this),
                offset: position.offset,
            }),
            Err(error) => {
                state.offsets.release(position, bytes);
                Err(error)
            }
        }
    }

    /// Maps `bytes` zeroed bytes, a multiple of the page size.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn map(this: &Arc<Self>, bytes: usize) -> Result<Mapping> {
        let address = raw::map_anonymous(bytes).map_err(|error| failed("mmap", error))?;
        Ok(Mapping {
            address: Address(address),
            bytes,
            mapper: Arc::clone(this),
        })
    }

    #[cfg(target_os = "linux")]
    fn give_back(&self, offset: usize, bytes: usize) {
        use rustix::fs::FallocateFlags;
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

    #[cfg(not(target_os = "linux"))]
    fn give_back(&self) {}

    /// Bytes that are mapped or could not be freed.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn mapped_bytes(&self) -> usize {
        FILE_BYTES_MAX - self.state.lock().offsets.free_bytes()
    }

    #[cfg(all(test, not(target_os = "linux")))]
    pub(super) fn mapped_bytes(&self) -> usize {
        0
    }
}

fn failed(call: &'static str, error: rustix::io::Errno) -> Error {
    let kind = match error {
        rustix::io::Errno::NOMEM | rustix::io::Errno::NOSPC => ErrorKind::OutOfMemory,
        _ => ErrorKind::System,
    };
    Error::system(kind, call, &error.into())
}

/// Memory that is mapped until the value is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    address: Address,
    bytes: usize,
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "keeps one shape everywhere")
    )]
    mapper: Arc<Mapper>,
    #[cfg(target_os = "linux")]
    offset: usize,
}

use raw::Address;

impl Mapping {
    pub(super) fn address(&self) -> NonNull<u8> {
        self.address.0
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match raw::unmap(&self.address, self.bytes) {
            #[cfg(target_os = "linux")]
            Ok(()) => self.mapper.give_back(self.offset, self.bytes),
            #[cfg(not(target_os = "linux"))]
            Ok(()) => {}
            Err(error) => tracing::error!(%error, bytes = self.bytes, "munmap failed"),
        }
    }
}
