//! Mappings of memory files of their own (memfd_create(2)), for other processes to map too. The file is sealed
//! against shrinking, so that nobody who has it makes an access of another fail.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FsWord, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::failed;
use crate::device::raw::{self, Address};
use crate::error::{Error, ErrorKind, Result};

/// The type of the file system of memory files of huge pages (statfs(2)).
const HUGETLBFS_MAGIC: FsWord = 0x9584_58F6;

/// A memory file, mapped until the value is dropped. Its pages stay as long as anybody has the file.
#[derive(Debug)]
pub(in crate::device) struct SealedMapping {
    address: Address,
    bytes: usize,
    /// None for what others made.
    file: Option<OwnedFd>,
}

impl SealedMapping {
    /// A new file of `bytes` zeroed bytes, a multiple of the page size.
    pub(in crate::device) fn create(bytes: usize) -> Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("weldpool-exported", flags)
            .map_err(|error| failed("memfd_create", error))?;
        rustix::fs::ftruncate(&file, bytes as u64).map_err(|error| failed("ftruncate", error))?;
        // Growing it would take memory that nobody here accounts for.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(|error| failed("fcntl", error))?;
        let address = raw::map_file(&file, 0, bytes).map_err(|error| failed("mmap", error))?;
        Ok(Self {
            address,
            bytes,
            file: Some(file),
        })
    }

    /// The first `bytes` bytes of a file that somebody else made, if it has so many and keeps them.
    pub(in crate::device) fn import(file: BorrowedFd<'_>, bytes: usize) -> Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|error| match error {
            Errno::INVAL | Errno::BADF => wrong("the descriptor is of no memory file".into()),
            error => failed("fcntl", error),
        })?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(wrong(
                "the memory file is not sealed against shrinking (F_SEAL_SHRINK), so that its owner could \
                 make accesses fail"
                    .into(),
            ));
        }
        let system = rustix::fs::fstatfs(file).map_err(|error| failed("fstatfs", error))?;
        if system.f_type == HUGETLBFS_MAGIC {
            return Err(wrong(
                "the memory file is of huge pages (MFD_HUGETLB), whose lengths are no multiples of the device's \
                 granularity"
                    .into(),
            ));
        }
        let stat = rustix::fs::fstat(file).map_err(|error| failed("fstat", error))?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        if bytes as u64 > length {
            return Err(wrong(format!(
                "the memory file has {length} bytes, and {bytes} were claimed"
            )));
        }
        let address = raw::map_file(file, 0, bytes).map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => {
                wrong("the memory file is not open for reading and writing".into())
            }
            error => failed("mmap", error),
        })?;
        Ok(Self {
            address,
            bytes,
            file: None,
        })
    }

    pub(in crate::device) fn address(&self) -> NonNull<u8> {
        self.address.0
    }

    pub(in crate::device) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A descriptor of the file, for another process.
    pub(in crate::device) fn descriptor(&self) -> Result<OwnedFd> {
        let file = self.file.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "imported memory is not exported again; send on what was received",
            )
        })?;
        rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 0).map_err(|error| failed("fcntl", error))
    }

    /// Says on which nodes its pages are to be; see [`raw::bind`].
    pub(in crate::device) fn bind(&self, mode: libc::c_int, nodes: &[u64]) -> std::io::Result<()> {
        // SAFETY: the mapping is this value's.
        unsafe { raw::bind(self.address.0, self.bytes, mode, nodes) }
    }
}

fn wrong(text: String) -> Error {
    Error::with_message(ErrorKind::InvalidRequest, text)
}

impl Drop for SealedMapping {
    fn drop(&mut self) {
        // SAFETY: this is the end of the mapping's only owner, and `Segment` lets no reference outlive it.
        let unmapped = unsafe { raw::unmap(&self.address, self.bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.bytes, "munmap failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn nobody_shrinks_or_grows_what_is_shared() {
        let mapping = SealedMapping::create(2 * PAGE).unwrap();
        let file = mapping.descriptor().unwrap();
        for bytes in [0, PAGE, 3 * PAGE] {
            let error = rustix::fs::ftruncate(&file, bytes as u64).unwrap_err();
            assert_eq!(error, Errno::PERM, "{bytes}");
        }
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).unwrap_err();
    }

    #[test]
    fn only_files_that_keep_their_length_are_imported() {
        let import = |file: &dyn AsFd, bytes| {
            let imported = SealedMapping::import(file.as_fd(), bytes);
            imported
                .map(|one| one.bytes())
                .map_err(|error| error.kind())
        };
        let refused = Err(ErrorKind::InvalidRequest);
        let mapping = SealedMapping::create(2 * PAGE).unwrap();
        let file = mapping.descriptor().unwrap();
        assert_eq!(import(&file, 2 * PAGE), Ok(2 * PAGE));
        assert_eq!(import(&file, 2 * PAGE + 1), refused, "longer than it is");
        assert_eq!(import(&file, usize::MAX), refused);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let loose = rustix::fs::memfd_create("loose", flags).unwrap();
        rustix::fs::ftruncate(&loose, 2 * PAGE as u64).unwrap();
        assert_eq!(import(&loose, PAGE), refused, "it may be shrunk");
        assert_eq!(import(&tempfile::tempfile().unwrap(), PAGE), refused);
        assert_eq!(import(&std::io::stdin(), PAGE), refused);
        let flags = flags | MemfdFlags::HUGETLB;
        // Not every kernel has them.
        if let Ok(huge) = rustix::fs::memfd_create("huge", flags) {
            rustix::fs::ftruncate(&huge, 1 << 30).unwrap();
            rustix::fs::fcntl_add_seals(&huge, SealFlags::SHRINK).unwrap();
            assert_eq!(import(&huge, PAGE), refused, "its pages are huge");
        }
        // A mapping outlives the descriptor.
        let imported = SealedMapping::import(file.as_fd(), PAGE).unwrap();
        imported.descriptor().unwrap_err();
        drop((file, mapping));
        // SAFETY: the mapping is alive, and nobody else has it.
        assert_eq!(unsafe { imported.address().read() }, 0);
    }
}
