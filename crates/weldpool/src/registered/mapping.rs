//! Files and shared memory, mapped in whole pages as any device counts them.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, ErrorKind, Result};

/// Pages of Apple silicon, which are the largest that a device wants whole. Elsewhere only the model of such a device
/// does.
const PAGE_BYTES: usize = 16 << 10;

/// What a mapping begins and ends at a multiple of. On macOS no more than a page: a shared object is not mapped beyond
/// its last page there.
fn unit() -> usize {
    let page = rustix::param::page_size();
    if cfg!(target_os = "macos") {
        page
    } else {
        page.max(PAGE_BYTES)
    }
}

/// How a file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// For reading, what others write.
    Read,
    /// For reading what nobody writes. Linux maps what is sealed against writing privately alone (before 6.7).
    #[cfg(target_os = "linux")]
    Sealed,
    /// For reading and writing, shared with whoever else maps it.
    Write,
}

/// Bytes of a file, mapped until the value is dropped.
#[derive(Debug)]
pub(super) struct FileMapping {
    /// All addresses that are taken, and how many.
    reserved: NonNull<c_void>,
    reserved_bytes: usize,
    /// What was asked for.
    contents: NonNull<[u8]>,
}

// SAFETY: a mapping belongs to the process, not to the thread that made it.
unsafe impl Send for FileMapping {}
// SAFETY: the addresses never change; who may touch the contents is settled by the owners.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// Maps `bytes` bytes, one at least, from `offset` on, neither of which need be a multiple of anything. The file has
    /// as many.
    pub(super) fn new(file: impl AsFd, offset: u64, bytes: usize, access: Access) -> Result<Self> {
        let unit = unit();
        let begin = offset / unit as u64 * unit as u64;
        let lead = usize::try_from(offset - begin).unwrap_or(0);
        let whole = lead
            .checked_add(bytes)
            .and_then(|end| end.checked_next_multiple_of(unit))
            .and_then(|whole| Some((whole, whole.checked_add(unit)?)))
            .filter(|_| bytes > 0);
        let Some((whole, reserved_bytes)) = whole else {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{bytes} bytes at {offset} of a file cannot be mapped"),
            ));
        };
        let reserved = reserve(reserved_bytes).map_err(|error| failed("mmap", error))?;
        let skip = reserved.as_ptr().addr().next_multiple_of(unit) - reserved.as_ptr().addr();
        // SAFETY: the reservation is longer than what is wanted by as much as may be skipped.
        let start = unsafe { reserved.byte_add(skip) };
        // SAFETY: the lead is less than the length mapped from the start.
        let first = unsafe { start.byte_add(lead) };
        let mapping = Self {
            reserved,
            reserved_bytes,
            contents: NonNull::slice_from_raw_parts(first.cast(), bytes),
        };
        // SAFETY: the addresses are part of the reservation, which nobody else has.
        let mapped = unsafe { map_at(start, file, begin, whole, access) };
        match mapped {
            Ok(()) => Ok(mapping),
            Err(error) => Err(failed("mmap", error)),
        }
    }

    /// The bytes, readable, and writable if they were mapped so, until the drop.
    pub(super) fn contents(&self) -> NonNull<[u8]> {
        self.contents
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the addresses are this value's, and whoever uses them keeps it.
        let unmapped = unsafe { rustix::mm::munmap(self.reserved.as_ptr(), self.reserved_bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.reserved_bytes, "munmap failed");
        }
    }
}

/// Takes addresses that cannot be touched and cost no memory.
fn reserve(bytes: usize) -> rustix::io::Result<NonNull<c_void>> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: with a null hint and without `MAP_FIXED` the system picks free addresses.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)
    }?;
    NonNull::new(address).ok_or(Errno::INVAL)
}

/// # Safety
///
/// The addresses are the caller's, and nothing uses them.
unsafe fn map_at(
    start: NonNull<c_void>,
    file: impl AsFd,
    offset: u64,
    bytes: usize,
    access: Access,
) -> rustix::io::Result<()> {
    let (protection, sharing) = match access {
        Access::Write => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
        Access::Read => (ProtFlags::READ, MapFlags::SHARED),
        #[cfg(target_os = "linux")]
        Access::Sealed => (ProtFlags::READ, MapFlags::PRIVATE),
    };
    let flags = sharing | MapFlags::FIXED;
    // SAFETY: `MAP_FIXED` replaces only what is the caller's.
    unsafe { rustix::mm::mmap(start.as_ptr(), bytes, protection, flags, file, offset) }?;
    Ok(())
}

/// An error of a system call.
pub(super) fn failed(call: &'static str, error: Errno) -> Error {
    let kind = match error {
        Errno::NOMEM | Errno::NOSPC => ErrorKind::OutOfMemory,
        Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::EXIST => ErrorKind::InvalidRequest,
        _ => ErrorKind::System,
    };
    Error::system(kind, call, &error.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    fn file(bytes: usize) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        let contents: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        file.write_all(&contents).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    #[test]
    fn any_part_is_mapped_in_whole_pages() {
        let file = file(100_000);
        for (offset, bytes) in [
            (0_u64, 100_000_usize),
            (1, 1),
            (16_384, 16_384),
            (99_999, 1),
            (40_000, 50_000),
        ] {
            let mapping = FileMapping::new(&file, offset, bytes, Access::Read).unwrap();
            let contents = mapping.contents();
            assert_eq!(contents.len(), bytes);
            let start = contents.cast::<u8>().as_ptr().addr();
            assert_eq!(start % unit(), offset as usize % unit());
            // SAFETY: the mapping is alive and nobody writes the file.
            let contents = unsafe { contents.as_ref() };
            let expected = (offset as usize..).map(|at| (at % 251) as u8);
            assert!(contents.iter().copied().eq(expected.take(bytes)));
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let file = file(10);
        for bytes in [0, usize::MAX, usize::MAX - 20_000] {
            let error = FileMapping::new(&file, 0, bytes, Access::Read).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{bytes}");
        }
        let error = FileMapping::new(&file, 0, 1 << 60, Access::Read).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        let read_only = std::fs::File::open("/dev/zero").unwrap();
        let error = FileMapping::new(&read_only, 0, 10, Access::Write).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}
