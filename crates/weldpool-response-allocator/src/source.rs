//! Where the memory of outputs comes from.
#![forbid(unsafe_code)]

use std::fmt;

use weldpool::pinned::PinnedPool;
use weldpool::{Allocator, Name, Request, StorageMode};

use crate::block::{Line, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::place::{DISTANCES, Place, Wanted};

/// One place where memory comes from.
#[derive(Clone, Debug)]
pub struct Source {
    origin: Origin,
    place: Place,
}

#[derive(Clone, Debug)]
enum Origin {
    Pool {
        allocator: Allocator,
        storage: StorageMode,
    },
    Pinned(PinnedPool),
    Plain,
}

impl Source {
    /// A pool's memory of a storage mode: memory of the host, memory that a device shares with it, or a
    /// CUDA device's own.
    ///
    /// # Errors
    /// `Unsupported` for a storage mode that the device does not have, and for one that Triton has no name for
    /// (memory that only a Metal device reaches).
    pub fn pool(allocator: &Allocator, storage: StorageMode) -> Result<Source> {
        let device = allocator.device().properties();
        if !device.storage_modes.contains(&storage) {
            return Err(unsupported(
                allocator,
                storage,
                "the device has no such memory",
            ));
        }
        let place = Place::of(device, storage)
            .ok_or_else(|| unsupported(allocator, storage, "Triton has no type for such memory"))?;
        Ok(Source {
            origin: Origin::Pool {
                allocator: allocator.clone(),
                storage,
            },
            place,
        })
    }

    /// A pool of pinned memory. What it could not pin in time is told to Triton as what it is.
    ///
    /// # Errors
    /// As for [`pool`](Self::pool) with shared storage.
    pub fn pinned(pool: &PinnedPool) -> Result<Source> {
        let Source { place, .. } = Source::pool(pool.allocator(), StorageMode::Shared)?;
        Ok(Source {
            origin: Origin::Pinned(pool.clone()),
            place,
        })
    }

    /// Memory of the system's heap, which is in no pool and under no limit: to be asked last.
    #[must_use]
    pub fn plain() -> Source {
        Source {
            origin: Origin::Plain,
            place: Place::CPU,
        }
    }

    /// What its memory is for Triton.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// How far its memory is from what is wanted; plain memory is farther than any of a pool.
    pub(crate) fn distance(&self, wanted: Wanted) -> u8 {
        match self.origin {
            Origin::Plain => DISTANCES,
            Origin::Pool { .. } | Origin::Pinned(_) => wanted.distance(self.place),
        }
    }

    /// Memory of `bytes` bytes, which are not 0, and what it is: a strategy may choose another storage mode, and
    /// a pool of pinned memory has such that is not.
    pub(crate) fn allocate(&self, bytes: usize, name: Name) -> Result<(Memory, Place)> {
        let request = Request::new(bytes).name(name);
        match &self.origin {
            Origin::Pool { allocator, storage } => {
                let buffer = allocator.allocate_with(&request.storage(*storage))?;
                let place = if buffer.storage_mode() == *storage {
                    self.place
                } else {
                    Source::pool(allocator, buffer.storage_mode())?.place
                };
                Ok((Memory::Pool(buffer), place))
            }
            Origin::Pinned(pool) => {
                let buffer = pool.allocate_with(&request)?;
                let place = if buffer.is_pinned() {
                    self.place
                } else {
                    Place::CPU
                };
                Ok((Memory::Pinned(buffer), place))
            }
            Origin::Plain => {
                let lines = bytes.div_ceil(size_of::<Line>());
                let mut memory = Vec::new();
                memory.try_reserve_exact(lines).map_err(|_| {
                    let message = format!("the system's heap has no {bytes} bytes");
                    Error::new(ErrorKind::Unavailable, message)
                })?;
                Ok((Memory::Plain(memory), self.place))
            }
        }
    }

    /// Memory of a storage mode that no device of this machine's has, as if Triton knew it.
    #[cfg(test)]
    pub(crate) fn pretended(allocator: &Allocator, storage: StorageMode, place: Place) -> Source {
        Source {
            origin: Origin::Pool {
                allocator: allocator.clone(),
                storage,
            },
            place,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Pool { allocator, storage } => {
                write!(f, "{} ({storage}, {})", allocator.name(), self.place)
            }
            Origin::Pinned(pool) => write!(f, "{} ({})", pool.allocator().name(), self.place),
            Origin::Plain => write!(f, "the system's heap ({})", self.place),
        }
    }
}

fn unsupported(allocator: &Allocator, storage: StorageMode, why: &str) -> Error {
    let name = allocator.name();
    Error::new(
        ErrorKind::Unsupported,
        format!("{storage} storage of {name}: {why}"),
    )
}
