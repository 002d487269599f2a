//! Shared ownership of a buffer, and ranges of it.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::binding::Binding;
use crate::buffer::Buffer;
use crate::device::StorageMode;
use crate::driver_object::ObjectGuard;
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{Borrow, BorrowToken, Element, ReadGuard, WriteGuard, Written};
use crate::in_flight::Access;
use crate::pool::Pool;
use crate::queue::{Part, sealed};
use crate::sync::Arc;

#[derive(Debug)]
struct Shared {
    buffer: Buffer,
    borrow: Borrow,
}

/// A range of a shared buffer that keeps it alive. Cloning and slicing allocate nothing.
///
/// Guards on views of one buffer exclude each other at run time as `&` and `&mut` do at compile
/// time, whatever their ranges.
#[derive(Clone)]
pub struct BufferView {
    shared: Arc<Shared>,
    start: usize,
    end: usize,
}

impl BufferView {
    pub(crate) fn new(buffer: Buffer) -> Self {
        let end = buffer.len();
        Self {
            shared: Arc::new(Shared {
                buffer,
                borrow: Borrow::default(),
            }),
            start: 0,
            end,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the range is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Name of the buffer.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.buffer.name()
    }

    /// A part of this view; `range` counts bytes from its start.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the range does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "range {}..{} of {} bytes",
                    range.start,
                    range.end,
                    self.len()
                ),
            ));
        }
        let (start, end) = (self.start + range.start, self.start + range.end);
        Ok(Self {
            shared: Arc::clone(&self.shared),
            start,
            end,
        })
    }

    /// Where the range is, for a driver call.
    #[must_use]
    pub fn binding(&self) -> Binding<'_> {
        self.shared.buffer.binding_of(self.start..self.end)
    }

    /// The driver's object for the range alone; see [`Buffer::object`].
    ///
    /// # Errors
    ///
    /// As for [`Buffer::object`], and [`InvalidRequest`](ErrorKind::InvalidRequest) for a range that is empty or does not
    /// begin at a multiple of what the driver wants (256 bytes on Apple silicon).
    pub fn object(&self) -> Result<ObjectGuard<'_>> {
        self.shared.buffer.object_of(self.start..self.end)
    }

    /// Read access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::read`], and [`Busy`](ErrorKind::Busy) while a write guard is held.
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        let buffer = &self.shared.buffer;
        let address = buffer.host_address_of(self.start..self.end)?;
        let token = self.shared.borrow.shared()?;
        buffer.in_flight().check(Access::Read)?;
        // SAFETY: the range lies inside the block, which `self` keeps alive; the token keeps writers
        // away and no submitted work writes it.
        unsafe { ReadGuard::new(address, self.len(), Some(token)) }
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::write`], and [`Busy`](ErrorKind::Busy) while any other guard is held.
    pub fn write<T: Element>(&self) -> Result<WriteGuard<'_, T>> {
        let buffer = &self.shared.buffer;
        let address = buffer.host_address_of(self.start..self.end)?;
        let mut token = self.shared.borrow.exclusive()?;
        buffer.in_flight().check(Access::Write)?;
        if buffer.storage_mode() == StorageMode::Managed {
            token = token.telling(self);
        }
        // SAFETY: the range lies inside the block, which `self` keeps alive; the token keeps every
        // other guard away and no submitted work uses it.
        unsafe { WriteGuard::new(address, self.len(), Some(token)) }
    }

    /// Waits until no submitted work uses the buffer.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), or [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.shared.buffer.wait(timeout)
    }

    /// Whether this is the only view of its buffer.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    /// The whole buffer back, when this is its only view.
    ///
    /// # Errors
    ///
    /// The view itself, while there are others.
    pub fn try_into_buffer(self) -> std::result::Result<Buffer, Self> {
        let (start, end) = (self.start, self.end);
        Arc::try_unwrap(self.shared)
            .map(|shared| shared.buffer)
            .map_err(|shared| Self { shared, start, end })
    }
}

impl Written for BufferView {
    fn note_host_write(&self) {
        self.shared.buffer.tell_written(self.start..self.end);
    }
}

impl sealed::Operand for BufferView {
    fn part(&self) -> Part<'_> {
        self.shared.buffer.part_of(self.start..self.end)
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        sealed::Operand::pool(&self.shared.buffer)
    }

    fn is_visible_to_peers(&self) -> bool {
        sealed::Operand::is_visible_to_peers(&self.shared.buffer)
    }

    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        self.shared.borrow.shared().map(Some)
    }

    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        self.shared.borrow.exclusive().map(Some)
    }
}

impl fmt::Debug for BufferView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferView")
            .field("name", &self.name())
            .field("range", &(self.start..self.end))
            .finish_non_exhaustive()
    }
}
