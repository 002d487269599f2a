//! What a pool of pinned memory hands out.

use std::fmt;
use std::ops::Deref;

use super::ledger::Slot;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::guard::{BorrowToken, Element, WriteGuard};
use crate::pool::Pool;
use crate::queue::{Operand, Part, Queue, sealed};
use crate::sync::Arc;

/// A buffer of a [`PinnedPool`](super::PinnedPool), with one owner; dropping it returns the memory, and its place
/// among the allocations that may be out. What can be done with a shared [`Buffer`] can be done with it.
pub struct PinnedBuffer {
    // The memory goes back first, so that whoever waits finds it.
    buffer: Buffer,
    slot: Slot,
}

impl PinnedBuffer {
    pub(super) fn pinned(buffer: Buffer, slot: Slot) -> Self {
        let slot = slot.fill(buffer.len(), false);
        Self { buffer, slot }
    }

    pub(super) fn pageable(buffer: Buffer, slot: Slot) -> Self {
        let slot = slot.fill(buffer.len(), true);
        Self { buffer, slot }
    }

    /// Whether the memory is the device's shared memory. Otherwise it is pageable memory of the host, because none
    /// was pinned in time.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        !self.slot.is_pageable()
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::write`].
    pub fn write<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        self.buffer.write()
    }

    /// Frees the buffer in the order of `queue`, as [`Buffer::free_on`] does.
    pub fn free_on(self, queue: &Queue) {
        let Self { buffer, slot } = self;
        buffer.free_on(queue);
        drop(slot);
    }
}

impl Deref for PinnedBuffer {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.buffer
    }
}

impl Operand for PinnedBuffer {}

impl sealed::Operand for PinnedBuffer {
    fn part(&self) -> Part<'_> {
        self.buffer.part()
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        sealed::Operand::pool(&self.buffer)
    }

    fn is_visible_to_peers(&self) -> bool {
        sealed::Operand::is_visible_to_peers(&self.buffer)
    }

    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        self.buffer.borrow_shared()
    }

    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        self.buffer.borrow_exclusive()
    }
}

impl fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedBuffer")
            .field("name", &self.name())
            .field("len", &self.len())
            .field("is_pinned", &self.is_pinned())
            .finish_non_exhaustive()
    }
}
