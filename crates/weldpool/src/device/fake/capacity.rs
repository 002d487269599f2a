//! How much memory a fake device has, and how much of it is taken.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Ordering};

/// Bytes that a kind of memory has in all and has given out.
#[derive(Debug)]
pub(super) struct Capacity {
    total: u64,
    used: AtomicU64,
}

impl Capacity {
    pub(super) fn new(total: u64) -> Self {
        Self {
            total,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// A claim to nothing, for memory that is counted elsewhere.
    #[cfg(target_os = "linux")]
    pub(super) fn claim_none() -> Claim {
        Claim {
            capacity: Arc::new(Self::new(0)),
            bytes: 0,
        }
    }

    /// Takes `bytes` bytes until the claim is dropped.
    pub(super) fn claim(this: &Arc<Self>, bytes: usize) -> Result<Claim> {
        let bytes = bytes as u64;
        this.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= this.total)
            })
            .map_err(|used| {
                Error::with_message(
                    ErrorKind::OutOfMemory,
                    format!(
                        "the fake device has {} of {} bytes left, and its next piece takes {bytes}",
                        this.total - used,
                        this.total
                    ),
                )
            })?;
        Ok(Claim {
            capacity: Arc::clone(this),
            bytes,
        })
    }
}

/// Part of a [`Capacity`], given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    capacity: Arc<Capacity>,
    bytes: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.capacity.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
