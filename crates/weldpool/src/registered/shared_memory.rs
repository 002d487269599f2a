//! POSIX shared memory (`shm_open`): regions that processes know by a name.

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use rustix::fs::Mode;
use rustix::shm::OFlags;

use super::StableBytes;
use super::mapping::{Access, FileMapping, failed};
use crate::error::{Error, ErrorKind, Result};

/// Longest name with its slash: PSHMNAMLEN of macOS (sys/posix_shm.h), NAME_MAX elsewhere (shm_open(3)).
const NAME_BYTES_MAX: usize = if cfg!(target_os = "macos") { 31 } else { 255 };

/// A region of shared memory, or a part of one, mapped until the value is dropped. The object itself stays until somebody
/// [unlinks](Self::unlink) its name and nobody maps it any more; on Linux it is a file in `/dev/shm`.
///
/// Registered, it is memory that several processes and their devices use where it is.
///
/// ```
/// use weldpool::{Allocator, SharedMemory};
///
/// # fn main() -> weldpool::Result<()> {
/// let name = format!("/weldpool-example-{}", std::process::id());
/// // SAFETY: nobody else knows the name.
/// let mut region = Allocator::host()?.register(unsafe { SharedMemory::create(&name, 65_536) }?)?;
/// region.write::<u8>()?.fill(3);
/// // SAFETY: the region above is touched by nobody meanwhile.
/// let part = unsafe { SharedMemory::open_read_only(&name, 100, 50) }?; // as another process would
/// assert_eq!(Allocator::host()?.register(part)?.read::<u8>()?[..], [3; 50]);
/// SharedMemory::unlink(&name)?;
/// # Ok(())
/// # }
/// ```
pub struct SharedMemory {
    mapping: FileMapping,
    read_only: bool,
}

impl SharedMemory {
    /// Makes an object of `bytes` bytes, all zero, that nobody but this user may open, and maps it.
    ///
    /// # Safety
    ///
    /// As for [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for zero bytes, a name that cannot be or an object that exists,
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) when there is no memory for it, or what the system says. Nothing stays
    /// behind then.
    pub unsafe fn create(name: &str, bytes: usize) -> Result<Self> {
        let path = path_of(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let object = rustix::shm::open(path.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| failed("shm_open of a new object", error).within(about(&path)))?;
        let made = allocate(&object, bytes)
            .and_then(|()| FileMapping::new(&object, 0, bytes, Access::Write))
            .map_err(|error| error.within(about(&path)));
        match made {
            Ok(mapping) => Ok(Self {
                mapping,
                read_only: false,
            }),
            Err(error) => {
                if let Err(error) = rustix::shm::unlink(path.as_str()) {
                    tracing::error!(%error, "a shared memory object stays behind");
                }
                Err(error)
            }
        }
    }

    /// Maps `bytes` bytes of an object from `offset` on, neither of which need be a multiple of anything.
    ///
    /// # Safety
    ///
    /// Whoever knows the name agrees with this process on who touches the memory when: while the value lives nobody else
    /// does, but in turns in which no guard is held here and no submitted work uses it. Nobody makes the object shorter;
    /// to touch what is gone is a bus error (SIGBUS).
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for a name that cannot be or that nobody made, or an object that has
    /// fewer bytes or may not be opened, or what the system says.
    pub unsafe fn open(name: &str, offset: u64, bytes: usize) -> Result<Self> {
        Self::mapped(name, offset, bytes, Access::Write)
    }

    /// As [`open`](Self::open), for reading alone.
    ///
    /// # Safety
    ///
    /// As for [`open`](Self::open), but others may read it too.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub unsafe fn open_read_only(name: &str, offset: u64, bytes: usize) -> Result<Self> {
        Self::mapped(name, offset, bytes, Access::Read)
    }

    fn mapped(name: &str, offset: u64, bytes: usize, access: Access) -> Result<Self> {
        let path = path_of(name)?;
        let flags = match access {
            Access::Write => OFlags::RDWR,
            _ => OFlags::RDONLY,
        };
        let object = rustix::shm::open(path.as_str(), flags, Mode::empty())
            .map_err(|error| failed("shm_open", error).within(about(&path)))?;
        let stat = rustix::fs::fstat(&object)
            .map_err(|error| failed("fstat", error).within(about(&path)))?;
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| end > length) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{}: {bytes} bytes at {offset} of {length}", about(&path)),
            ));
        }
        Ok(Self {
            mapping: FileMapping::new(&object, offset, bytes, access)
                .map_err(|error| error.within(about(&path)))?,
            read_only: access == Access::Read,
        })
    }

    /// Takes the name away. Whoever has the object mapped keeps it.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for a name that cannot be or that nobody made, or what the system
    /// says.
    pub fn unlink(name: &str) -> Result<()> {
        let path = path_of(name)?;
        rustix::shm::unlink(path.as_str())
            .map_err(|error| failed("shm_unlink", error).within(about(&path)))
    }

    /// Length in bytes; never zero.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a mapped region is never empty"
    )]
    pub fn len(&self) -> usize {
        self.mapping.contents().len()
    }
}

// SAFETY: the mapping stays where it is until the drop; who touches it when was promised by whoever made the value.
unsafe impl StableBytes for SharedMemory {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        self.mapping.contents()
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("len", &self.len())
            .field("read_only", &self.read_only)
            .finish()
    }
}

/// Gives a new object its length, and on Linux its memory, whose lack would be a bus error later.
fn allocate(object: &std::os::fd::OwnedFd, bytes: usize) -> Result<()> {
    if bytes == 0 {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "a shared memory object of zero bytes",
        ));
    }
    rustix::fs::ftruncate(object, bytes as u64).map_err(|error| failed("ftruncate", error))?;
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::FallocateFlags::empty();
        // Signals that come meanwhile interrupt it.
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(object, flags, 0, bytes as u64))
            .map_err(|error| failed("fallocate", error))?;
    }
    Ok(())
}

/// What errors are about.
fn about(path: &str) -> String {
    format!("shared memory {path:?}")
}

/// A name as the system wants it: a slash and no other. The first slash may be left out, as Triton's clients do.
fn path_of(name: &str) -> Result<String> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let wrong = match bare {
        "" | "." | ".." => true,
        _ => bare.contains(['/', '\0']) || bare.len() + 1 > NAME_BYTES_MAX,
    };
    if wrong {
        return Err(Error::with_message(
            ErrorKind::InvalidRequest,
            format!(
                "{name:?} is no name of shared memory: that is a slash, which may be left out, and up to {} bytes without one",
                NAME_BYTES_MAX - 1
            ),
        ));
    }
    Ok(format!("/{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_slash_in_front() {
        for (name, path) in [
            ("a", "/a"),
            ("/a", "/a"),
            ("/a.b c", "/a.b c"),
            ("...", "/..."),
        ] {
            assert_eq!(path_of(name).unwrap(), path);
        }
        let longest = "x".repeat(NAME_BYTES_MAX - 1);
        assert_eq!(path_of(&longest).unwrap().len(), NAME_BYTES_MAX);
        let long = format!("{longest}x");
        for name in [
            "", "/", ".", "/..", "//a", "a/b", "a/", "../a", "a\0b", &long,
        ] {
            let error = path_of(name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{name:?}");
        }
    }
}
