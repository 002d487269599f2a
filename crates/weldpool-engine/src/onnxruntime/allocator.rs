//! Where onnxruntime's memory comes from when the pool replaces its arena.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use weldpool::{Allocator, ErrorKind, Request};

use super::NAME;

/// How far the library's kernels may read past the end of a block, in bytes: its own allocator
/// adds as much on this processor family.
const OVERREAD_BYTES: usize = if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
    64
} else {
    0
};

/// A pool, and what went wrong when the library last asked it for memory.
#[derive(Debug)]
pub(super) struct PoolMemory {
    allocator: Allocator,
    refusals: AtomicU64,
    last_refusal: Mutex<Option<weldpool::Error>>,
}

impl PoolMemory {
    pub(super) fn new(allocator: Allocator) -> PoolMemory {
        PoolMemory {
            allocator,
            refusals: AtomicU64::new(0),
            last_refusal: Mutex::new(None),
        }
    }

    pub(super) fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The address of a block for the library, which owns it until it is reclaimed; `None` is
    /// remembered with its reason.
    pub(super) fn allocate(&self, bytes: usize) -> Option<NonNull<u8>> {
        match self.allocate_block(bytes) {
            Ok(address) => Some(address),
            Err(error) => {
                *self.last() = Some(error);
                self.refusals.fetch_add(1, Ordering::Release);
                None
            }
        }
    }

    fn allocate_block(&self, bytes: usize) -> weldpool::Result<NonNull<u8>> {
        let padded = bytes.saturating_add(OVERREAD_BYTES);
        let buffer = self
            .allocator
            .allocate_with(&Request::new(padded).name(NAME))?;
        buffer.into_raw().map_err(|_| {
            weldpool::Error::new(
                ErrorKind::Unsupported,
                "onnxruntime runs on the host, which cannot touch this device's memory",
            )
        })
    }

    /// Whether a block of the pool that was given to the library starts here.
    pub(super) fn owns(&self, address: NonNull<u8>) -> bool {
        self.allocator.find(address.as_ptr()).is_some_and(|block| {
            block.address == address.as_ptr().addr() && block.name.as_str() == NAME
        })
    }

    /// Whether a live block of the pool contains this address.
    pub(super) fn knows(&self, address: NonNull<u8>) -> bool {
        self.allocator.find(address.as_ptr()).is_some()
    }

    /// How often the pool has refused the library so far.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Acquire)
    }

    /// The reason of the last refusal, if there was one after the first `seen` of them.
    pub(super) fn refusal_since(&self, seen: u64) -> Option<weldpool::Error> {
        if self.refusals() == seen {
            return None;
        }
        self.last().clone()
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<weldpool::Error>> {
        // Only whole values are ever stored, so what a panicking thread left behind is good.
        self.last_refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
