//! Files that are mapped for reading, as a model's weights.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::ops::{Deref, Range};
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;

use rustix::fs::OFlags;

use super::StableBytes;
use super::mapping::{Access, FileMapping};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// A file, or a part of one, mapped for reading until the last value that is of the same mapping is dropped. Cloning and
/// slicing map nothing anew.
///
/// Registered memory of it is used by a device where it is: weights are neither read into memory of the program nor
/// copied. It may begin and end anywhere. A file that is longer than the device's longest buffer
/// ([`CopyReason::TooLong`](crate::CopyReason::TooLong)) is registered in slices; two slices may share a page, so they are
/// cut where a tensor ends, and none need overlap.
///
/// ```
/// use weldpool::{Allocator, MappedFile};
///
/// # fn main() -> weldpool::Result<()> {
/// # let file = tempfile::NamedTempFile::new().unwrap();
/// # std::fs::write(file.path(), vec![7_u8; 100_000]).unwrap();
/// # let path = file.path();
/// // SAFETY: nobody writes or truncates the file.
/// let weights = unsafe { MappedFile::open(path) }?;
/// let allocator = Allocator::host()?;
/// let first = allocator.register(weights.slice(10..50_000)?)?;
/// let second = allocator.register(weights.slice(50_000..100_000)?)?;
/// assert_eq!(first.read::<u8>()?[0], second.read::<u8>()?[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MappedFile {
    mapping: Arc<FileMapping>,
    range: Range<usize>,
}

const NONBLOCK: i32 = OFlags::NONBLOCK.bits().cast_signed();

impl MappedFile {
    /// Maps all of a file.
    ///
    /// # Safety
    ///
    /// As for [`map`](Self::map).
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for what is no file with bytes in it or cannot be read, or what the
    /// system says.
    pub unsafe fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let about = |error: Error| error.within(path.display());
        // A pipe is opened without waiting for who writes to it, and is no file then.
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(NONBLOCK);
        let file = options.open(path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                    ErrorKind::InvalidRequest
                }
                _ => ErrorKind::System,
            };
            about(Error::system(kind, "open of a file to map", &error))
        })?;
        let bytes = length_of(&file).map_err(about)?;
        // SAFETY: the caller's promise.
        unsafe { Self::map(&file, 0, bytes) }.map_err(about)
    }

    /// Maps `bytes` bytes of a file from `offset` on, neither of which need be a multiple of anything.
    ///
    /// # Safety
    ///
    /// While the mapping exists nobody, in no process, writes to that part of the file, or truncates the file before its
    /// end: what the host or the device reads there after that is gone is a bus error (SIGBUS), or a fault of the GPU.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and [`InvalidRequest`](ErrorKind::InvalidRequest) where the file has fewer bytes.
    pub unsafe fn map(file: &File, offset: u64, bytes: usize) -> Result<Self> {
        let length = length_of(file)? as u64;
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| end > length) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{bytes} bytes at {offset} of a file of {length}"),
            ));
        }
        Ok(Self {
            mapping: Arc::new(FileMapping::new(file, offset, bytes, Access::Read)?),
            range: 0..bytes,
        })
    }

    /// Maps all of a memory file (`memfd_create`) that is sealed against writing and shrinking, so that nobody has to
    /// vouch for anything.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for a descriptor of anything else, or what the system says.
    #[cfg(target_os = "linux")]
    pub fn sealed(file: impl AsFd) -> Result<Self> {
        use rustix::fs::SealFlags;

        let wanted = SealFlags::SHRINK | SealFlags::WRITE;
        let seals = rustix::fs::fcntl_get_seals(&file);
        if !seals.is_ok_and(|seals| seals.contains(wanted)) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the descriptor is of no memory file that is sealed against writing and shrinking (F_SEAL_WRITE, \
                 F_SEAL_SHRINK)",
            ));
        }
        let stat =
            rustix::fs::fstat(&file).map_err(|error| super::mapping::failed("fstat", error))?;
        let bytes = usize::try_from(stat.st_size).unwrap_or(0);
        Ok(Self {
            mapping: Arc::new(FileMapping::new(file, 0, bytes, Access::Sealed)?),
            range: 0..bytes,
        })
    }

    /// A part of it; `range` counts bytes from its start.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the range is empty or does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start >= range.end || range.end > self.len() {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "range {}..{} of {} bytes",
                    range.start,
                    range.end,
                    self.len()
                ),
            ));
        }
        Ok(Self {
            mapping: Arc::clone(&self.mapping),
            range: self.range.start + range.start..self.range.start + range.end,
        })
    }

    fn bytes(&self) -> NonNull<[u8]> {
        let first = self.mapping.contents().cast::<u8>();
        // SAFETY: the range lies inside of the mapping.
        let first = unsafe { first.add(self.range.start) };
        NonNull::slice_from_raw_parts(first, self.range.len())
    }
}

/// The contents; never empty.
impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is alive while `self` is, and whoever made it promised that nobody writes the file.
        unsafe { self.bytes().as_ref() }
    }
}

// SAFETY: the mapping stays where it is until the last owner is dropped, and is only read, by whomever.
unsafe impl StableBytes for MappedFile {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        self.bytes()
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

/// Bytes of a file, which has some.
fn length_of(file: &File) -> Result<usize> {
    let metadata = file
        .metadata()
        .map_err(|error| Error::system(ErrorKind::System, "stat of a file to map", &error))?;
    let bytes = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if !metadata.is_file() || bytes == 0 {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "what is to be mapped is no file, or has no bytes",
        ));
    }
    Ok(bytes)
}
