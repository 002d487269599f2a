//! Why memory is not used where it is.

#![forbid(unsafe_code)]

use std::fmt;

/// Why memory of the program cannot be used where it is, so that it has to be copied. The text of the error that carries
/// it has the addresses and lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CopyReason {
    /// It has no bytes. There is nothing to copy either.
    Empty,
    /// It is shorter than [`AdoptOptions::zero_copy_bytes_min`](crate::AdoptOptions::zero_copy_bytes_min).
    Small,
    /// The device uses no memory that it did not give.
    NotOffered,
    /// The device uses whole pages of its own size alone, and those that the memory begins or ends in are not mapped
    /// whole.
    PartialPages,
    /// With the pages that it begins and ends in it is longer than the longest buffer of the device.
    TooLong,
    /// It must not be written, and the device uses no such memory.
    ReadOnly,
    /// The device knows it already, or part of it: it is registered, or a buffer of the allocator.
    AlreadyKnown,
    /// As much memory is registered, or as many objects of the driver are alive, as there may be.
    LimitReached,
    /// The driver took it and gave an object of another length.
    WrappedInPart,
    /// The driver refused it for a reason of its own.
    Refused,
}

impl CopyReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Empty,
        Self::Small,
        Self::NotOffered,
        Self::PartialPages,
        Self::TooLong,
        Self::ReadOnly,
        Self::AlreadyKnown,
        Self::LimitReached,
        Self::WrappedInPart,
        Self::Refused,
    ];
}

impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Small => "it is shorter than what is used where it is",
            Self::NotOffered => "the device uses no memory that it did not give",
            Self::PartialPages => "its first or last page is not mapped whole",
            Self::TooLong => "it is longer than the device's longest buffer",
            Self::ReadOnly => "the device uses no memory that must not be written",
            Self::AlreadyKnown => "the device knows it, or part of it, already",
            Self::LimitReached => "the device knows as much as it may",
            Self::WrappedInPart => "the driver wrapped only part of it",
            Self::Refused => "the driver refused it",
        })
    }
}
