//! The rules of the allocator for Triton that this project started from.

#![forbid(unsafe_code)]

use super::{Asked, Choice, Strategy, Surroundings};
use crate::device::StorageMode;
use crate::request::DEFAULT_ALIGNMENT;

/// Pools everything, and has large buffers in memory that host and device share where the device's memory
/// is unified. Together with [`SizeClasses::seed`](crate::SizeClasses::seed) it is the preset `seed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedDocument {
    /// Whether unified memory is used. Default: it is.
    pub unified: bool,
    /// Bytes from which a buffer is shared although private storage was asked for. Default: 16 MiB.
    pub unified_bytes_min: usize,
    /// Least alignment in bytes. Default: 256.
    pub alignment: usize,
}

impl Default for SeedDocument {
    fn default() -> Self {
        Self {
            unified: true,
            unified_bytes_min: 16 << 20,
            alignment: DEFAULT_ALIGNMENT,
        }
    }
}

impl Strategy for SeedDocument {
    fn choose(&self, asked: &Asked, surroundings: &Surroundings<'_>) -> Choice {
        let large = asked.bytes >= self.unified_bytes_min;
        let share = self.unified && large && surroundings.device().unified;
        Choice {
            pool: true,
            storage: if share {
                StorageMode::Shared
            } else {
                asked.storage
            },
            alignment: asked.alignment.max(self.alignment),
        }
    }
}
