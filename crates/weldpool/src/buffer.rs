//! The unique owner of a block.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::Duration;

use crate::allocator::Pool;
use crate::binding::Binding;
use crate::block::Block;
use crate::device::StorageMode;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{BorrowToken, Element, ReadGuard, WriteGuard};
use crate::in_flight::{Access, InFlight};
use crate::name::Name;
use crate::queue::{Part, sealed};
use crate::sync::Arc;
use crate::view::BufferView;

/// A piece of device memory with one owner; dropping it returns the memory to its pool.
///
/// Moving a buffer moves a few words; the memory stays where it is. Contents start out undefined
/// but initialised (they are what the block held before) unless the request asked for zeroes.
pub struct Buffer {
    pool: Arc<Pool>,
    /// None only while the buffer is being dropped or detached.
    block: Option<Block>,
    requested: usize,
    alignment: usize,
    name: Name,
    in_flight: InFlight,
}

impl Buffer {
    pub(crate) fn new(
        pool: Arc<Pool>,
        block: Block,
        requested: usize,
        alignment: usize,
        name: Name,
        in_flight: InFlight,
    ) -> Self {
        Self {
            pool,
            block: Some(block),
            requested,
            alignment,
            name,
            in_flight,
        }
    }

    /// Length in bytes, as requested; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.requested
    }

    /// Bytes of the block behind it; the difference to [`len`](Self::len) is internal waste.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.bytes)
    }

    /// Alignment of its address that the request was given, in bytes.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// Its storage mode.
    #[must_use]
    pub fn storage_mode(&self) -> StorageMode {
        self.block
            .as_ref()
            .map_or(StorageMode::Shared, |block| block.entry.storage)
    }

    /// Where it is, for a driver call.
    #[must_use]
    pub fn binding(&self) -> Binding<'_> {
        self.binding_of(0..self.requested)
    }

    /// Read access to the contents.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when length or alignment do not suit `T`,
    /// [`Busy`](ErrorKind::Busy) while submitted work writes the buffer,
    /// [`Unsupported`](ErrorKind::Unsupported) for private storage.
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        let address = self.host_address()?;
        self.in_flight.check(Access::Read)?;
        // SAFETY: the block is ours for the borrow of `self`, a write guard needs `&mut self`, and
        // no work writes it.
        unsafe { ReadGuard::new(address, self.requested, None) }
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read), and [`Busy`](ErrorKind::Busy) while submitted work reads it.
    pub fn write<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        let address = self.host_address()?;
        self.in_flight.check(Access::Write)?;
        // SAFETY: the block is ours, the borrow of `self` is exclusive, and no work uses it.
        unsafe { WriteGuard::new(address, self.requested, None) }
    }

    /// Waits until no submitted work uses the buffer.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), or [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.in_flight.wait(timeout)
    }

    /// Makes the buffer shareable. This costs one allocation on the host; plain buffers pay nothing
    /// for it.
    #[must_use]
    pub fn share(self) -> BufferView {
        BufferView::new(self)
    }

    /// Gives up the owner and keeps the address, for callers that can carry only that. The memory
    /// stays live, and in the leak report, until [`Allocator::reclaim`](crate::Allocator::reclaim).
    ///
    /// # Errors
    ///
    /// The buffer itself, when it has no address for the host.
    #[expect(clippy::result_large_err, reason = "the buffer comes back unharmed")]
    pub fn into_raw(self) -> std::result::Result<NonNull<u8>, Self> {
        let Ok(address) = self.host_address() else {
            return Err(self);
        };
        let Some(block) = &self.block else {
            return Err(self);
        };
        let (entry, offset) = (Arc::clone(&block.entry), block.offset);
        let mut live = entry.live.lock();
        match live.get_mut(&offset) {
            Some(record) => record.detached = Some(Box::new(self)),
            None => return Err(self),
        }
        drop(live);
        Ok(address)
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    fn host_address(&self) -> Result<NonNull<u8>> {
        self.host_address_of(0..self.requested)
    }

    pub(crate) fn host_address_of(&self, range: Range<usize>) -> Result<NonNull<u8>> {
        self.binding_of(range).host.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the host cannot touch private storage; copy through a shared buffer on a queue",
            )
        })
    }

    pub(crate) fn binding_of(&self, range: Range<usize>) -> Binding<'_> {
        let bytes = range.end - range.start;
        match &self.block {
            Some(block) => Binding::new(
                &block.entry.base,
                block.offset + range.start,
                bytes,
                block.entry.storage != StorageMode::Private,
            ),
            None => unreachable!("a buffer without a block is being dropped"),
        }
    }

    pub(crate) fn part_of(&self, range: Range<usize>) -> Part<'_> {
        match &self.block {
            Some(block) => Part {
                location: block.entry.base.location(block.offset + range.start),
                bytes: range.end - range.start,
                in_flight: &self.in_flight,
                offset: range.start,
            },
            None => unreachable!("a buffer without a block is being dropped"),
        }
    }
}

impl sealed::Operand for Buffer {
    fn part(&self) -> Part<'_> {
        self.part_of(0..self.requested)
    }

    // A queue takes `&Buffer` to read and `&mut Buffer` to write, so the compiler has checked.
    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        Ok(None)
    }

    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        Ok(None)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.free(block, self.requested, self.in_flight.take());
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("name", &self.name)
            .field("len", &self.requested)
            .field("alignment", &self.alignment)
            .field("storage", &self.storage_mode())
            .finish_non_exhaustive()
    }
}
