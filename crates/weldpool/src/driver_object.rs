//! The driver's object of one buffer alone.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use crate::binding::Resource;
use crate::block::{Block, ListId};
use crate::device::DriverObject;
use crate::error::{Error, ErrorKind, Result};
use crate::pool::{Pool, pool_of};
use crate::sync::Arc;

/// An object of the driver's for a buffer, or a range of one, alone (Metal: an `MTLBuffer`): for calls that take an object
/// and no offset. It is alive while the guard is, and borrows the buffer, so that the memory is too.
///
/// Whoever uses the object takes over the duties of the guards, as with a [`Binding`](crate::Binding): work that he
/// submits is made known by [`Queue::note_read`](crate::Queue::note_read) or [`note_write`](crate::Queue::note_write), or by
/// [`Buffer::note_use`](crate::Buffer::note_use), before the buffer is freed.
pub struct ObjectGuard<'a> {
    object: Arc<dyn DriverObject>,
    buffer: PhantomData<&'a ()>,
}

impl ObjectGuard<'_> {
    /// The object of a range of a block, which lies inside.
    pub(crate) fn new(block: &Block, range: Range<usize>) -> Result<Self> {
        let pool = pool_of(block);
        let pool = pool.ok_or_else(|| Error::new(ErrorKind::System, "the pool is closed"))?;
        Ok(Self {
            object: pool.object_of(block, range)?,
            buffer: PhantomData,
        })
    }

    /// The driver's pointer, for calls while the guard lives. A driver that counts references keeps the object longer for
    /// who retains it; its contents are the buffer's no longer than the buffer lives.
    #[must_use]
    pub fn resource(&self) -> Resource {
        self.object.resource()
    }

    /// Length of the object in bytes: that of the buffer, or more where a segment's own object serves.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.object.bytes()
    }
}

impl fmt::Debug for ObjectGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectGuard")
            .field("resource", &self.resource())
            .field("bytes", &self.bytes())
            .finish()
    }
}

impl Pool {
    fn object_of(&self, block: &Block, range: Range<usize>) -> Result<Arc<dyn DriverObject>> {
        if range.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "an object of no bytes",
            ));
        }
        if block.list() == ListId::EXPOSED {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "memory that others reach has no object for each buffer",
            ));
        }
        self.segments_of(block)
            .object_at(block.position() + range.start, range.len())
    }
}
