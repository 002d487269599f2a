//! How a Metal device is used.

#![forbid(unsafe_code)]

use std::fmt;

use super::residency::ResidencyConfig;
use crate::error::Error;

/// Settings of a Metal device.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MetalConfig {
    /// What is kept resident.
    pub residency: ResidencyConfig,
    /// Whether private memory is mapped into placement sparse buffers (Metal 4, macOS 26) instead of coming as segments, so
    /// that free memory in several places serves a large request without more being obtained. Default: off.
    ///
    /// Where it cannot be had, segments are used, and the device says why ([`PlacementSparse`]). What to know before:
    ///
    /// * Only private storage, since what the host sees of such a buffer is not documented.
    /// * A mapping is made on the GPU's timeline: each queue waits for it on the GPU before its next work.
    /// * The memory must be resident while work uses it, so what [`ResidencyConfig::share`] leaves no room for is refused
    ///   as [`OutOfMemory`](crate::ErrorKind::OutOfMemory).
    /// * Nothing of it was run on a Mac, and what its calls cost was not measured.
    pub placement_sparse: bool,
}

/// What became of [`MetalConfig::placement_sparse`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum PlacementSparse {
    /// It was not asked for.
    Off,
    /// Private memory is mapped.
    On {
        /// Bytes of the pages that are mapped.
        page_bytes: usize,
    },
    /// It was asked for and cannot be had: private memory comes as segments.
    Unavailable(NoPlacementSparse),
}

/// Why there are no placement sparse buffers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum NoPlacementSparse {
    /// The system has no such calls: macOS before 26.
    System,
    /// The GPU is not of the family Metal 4.
    Family,
    /// The GPU is one of a virtual machine, whose heaps are no use.
    Virtual,
    /// Nothing is kept resident, which the memory behind such buffers must be: the system has no residency sets, or
    /// [`ResidencyConfig::enabled`] is off.
    Residency,
    /// Metal did not make what it takes.
    Refused(Error),
}

impl fmt::Display for NoPlacementSparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("the system has none; macOS 26 does"),
            Self::Family => f.write_str("the GPU is not of the family Metal 4"),
            Self::Virtual => f.write_str("the GPU is one of a virtual machine"),
            Self::Residency => f.write_str("no memory is kept resident, as theirs must be"),
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for PlacementSparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("no placement sparse buffers were asked for"),
            Self::On { page_bytes } => {
                write!(
                    f,
                    "placement sparse buffers with pages of {page_bytes} bytes"
                )
            }
            Self::Unavailable(why) => write!(f, "no placement sparse buffers: {why}"),
        }
    }
}
