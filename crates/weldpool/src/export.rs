//! Memory shared between processes: in which form, and what the other process is given.

use std::fmt;
use std::os::fd::OwnedFd;

use crate::error::{Error, ErrorKind, Result};

/// The form in which memory is given to another process.
///
/// | | `FileDescriptor` | `LegacyIpc` |
/// |---|---|---|
/// | `host` (Linux) | every storage mode | - |
/// | `cuda` | `Private`, where the device has virtual memory | `Private` |
/// | `fake:discrete` | `Private` (Linux) | `Private`, within the process |
///
/// [`Device::offers`](crate::Device::offers) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Export {
    /// A file descriptor: of a memory file on the host, of a handle (`cuMemExportToShareableHandle`) on an
    /// NVIDIA GPU. The memory stays as long as any process has it, whoever frees it first.
    FileDescriptor,
    /// The 64 bytes of `cudaIpcMemHandle_t` (`cuIpcGetMemHandle`), as Triton's extension for CUDA shared
    /// memory takes them. The exporter has to keep the buffer until every importer has dropped its own.
    LegacyIpc,
}

impl Export {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileDescriptor => "file descriptor",
            Self::LegacyIpc => "legacy IPC handle",
        }
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands for an exported object in another process.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExportedHandle {
    /// A descriptor of this process. Another gets its own through a Unix socket (`SCM_RIGHTS`), or as a
    /// child that inherits it.
    FileDescriptor(OwnedFd),
    /// Bytes that may travel in any way.
    LegacyIpc([u8; 64]),
}

impl ExportedHandle {
    /// Its form.
    #[must_use]
    pub const fn export(&self) -> Export {
        match self {
            Self::FileDescriptor(_) => Export::FileDescriptor,
            Self::LegacyIpc(_) => Export::LegacyIpc,
        }
    }
}

/// A buffer as [`Buffer::export`](crate::Buffer::export) gives it away and
/// [`Allocator::import`](crate::Allocator::import) takes it: the exported object, and where in it the
/// buffer lies.
///
/// ```
/// # #[cfg(target_os = "linux")]
/// # fn main() -> weldpool::Result<()> {
/// use weldpool::{Allocator, Export, Exported, Request};
///
/// let allocator = Allocator::host()?;
/// let request = Request::new(5000).exportable(Export::FileDescriptor);
/// let mut ours = allocator.allocate_with(&request)?;
/// ours.write::<u8>()?.fill(1);
/// // SAFETY: nobody writes while the other side reads, and the other way round.
/// let exported = unsafe { ours.export() }?;
/// let (object, offset, bytes) = (exported.object_bytes(), exported.offset(), exported.len());
/// let handle = exported.into_handle(); // goes to the other process, and these three numbers with it
///
/// let received = Exported::from_parts(handle, object, offset, bytes)?;
/// // SAFETY: as above.
/// let theirs = unsafe { allocator.import(&received, "input") }?;
/// assert_eq!(theirs.read::<u8>()?[4999], 1);
/// # Ok(())
/// # }
/// # #[cfg(not(target_os = "linux"))]
/// # fn main() {}
/// ```
#[derive(Debug)]
pub struct Exported {
    handle: ExportedHandle,
    object_bytes: usize,
    offset: usize,
    bytes: usize,
}

impl Exported {
    /// Puts together what was received from another process: the handle, the length of the whole object,
    /// and offset and length of the buffer in it, in bytes. What is claimed here is checked against the
    /// object when it is imported.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for no bytes, a buffer that does not lie in the object,
    /// or an offset that is no multiple of 256.
    pub fn from_parts(
        handle: ExportedHandle,
        object_bytes: usize,
        offset: usize,
        bytes: usize,
    ) -> Result<Self> {
        let end = offset.checked_add(bytes);
        if bytes == 0 || end.is_none_or(|end| end > object_bytes) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "{bytes} bytes at {offset} do not lie in an object of {object_bytes} bytes"
                ),
            ));
        }
        if !offset.is_multiple_of(crate::request::DEFAULT_ALIGNMENT) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("a buffer at {offset} of an exported object; it must be a multiple of 256"),
            ));
        }
        Ok(Self {
            handle,
            object_bytes,
            offset,
            bytes,
        })
    }

    /// The handle alone, for sending it on.
    #[must_use]
    pub fn into_handle(self) -> ExportedHandle {
        self.handle
    }

    /// What stands for the object.
    #[must_use]
    pub fn handle(&self) -> &ExportedHandle {
        &self.handle
    }

    /// Length of the whole object in bytes.
    #[must_use]
    pub fn object_bytes(&self) -> usize {
        self.object_bytes
    }

    /// Where in the object the buffer begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Length of the buffer in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_that_contradict_themselves_are_refused() {
        let claim = |object, offset, bytes| {
            let handle = ExportedHandle::LegacyIpc([7; 64]);
            Exported::from_parts(handle, object, offset, bytes).map_err(|error| error.kind())
        };
        let claimed = claim(4096, 256, 3840).unwrap();
        assert_eq!((claimed.offset(), claimed.len()), (256, 3840));
        assert_eq!(claimed.handle().export(), Export::LegacyIpc);
        for (object, offset, bytes) in [
            (4096, 0, 0),
            (4096, 0, 4097),
            (4096, 4096, 1),
            (usize::MAX, 256, usize::MAX),
            (4096, 100, 10),
            (0, 0, 1),
        ] {
            let refused = claim(object, offset, bytes).unwrap_err();
            assert_eq!(
                refused,
                ErrorKind::InvalidRequest,
                "{object} {offset} {bytes}"
            );
        }
    }
}
