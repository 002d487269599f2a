//! Page mappings: ranges of one memory file on Linux, anonymous memory elsewhere. Both have the same
//! shape: a `Mapper` hands out `Mapping`s, which are unmapped when dropped.

#[cfg(all(target_os = "linux", feature = "cuda"))]
mod aligned;
#[cfg(not(target_os = "linux"))]
mod anonymous;
#[cfg(target_os = "linux")]
mod memory_file;
mod probe;
#[cfg(target_os = "linux")]
mod sealed;

#[cfg(all(target_os = "linux", feature = "cuda"))]
pub(in crate::device) use aligned::AlignedMapping;
#[cfg(not(target_os = "linux"))]
pub(in crate::device) use anonymous::{Mapper, Mapping};
#[cfg(target_os = "linux")]
pub(in crate::device) use memory_file::{Apart, FILE_BYTES_MAX, Mapper, Mapping};
#[cfg(target_os = "linux")]
pub(in crate::device) use sealed::SealedMapping;

pub(in crate::device) use probe::is_mapped;

use crate::error::{Error, ErrorKind};

/// An error of a system call for memory.
pub(in crate::device) fn failed(call: &'static str, error: rustix::io::Errno) -> Error {
    let kind = match error {
        rustix::io::Errno::NOMEM | rustix::io::Errno::NOSPC => ErrorKind::OutOfMemory,
        _ => ErrorKind::System,
    };
    Error::system(kind, call, &error.into())
}
