//! Buffers over parts of a segment's heap, for calls that take no offset: made when asked for, and the last ones kept.

#![allow(unsafe_code)]

use std::collections::BTreeMap;

use super::Shared;
use super::raw::{Buffer, Heap, Metal, Object};
use crate::binding::Resource;
use crate::device::{DriverObject, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Buffers that a segment keeps at most, so that a large heap of small blocks does not use up the number of buffers that
/// a device may have.
const KEPT_MAX: usize = 64;

/// A buffer over part of a heap, which it keeps alive.
#[derive(Debug)]
struct Part<M: Metal> {
    shared: Arc<Shared<M>>,
    buffer: Option<M::Buffer>,
    resource: Resource,
    bytes: usize,
    /// Goes after the buffer.
    heap: Option<M::Heap>,
}

impl<M: Metal> Drop for Part<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            self.shared.known.remove(self.resource);
            drop(self.buffer.take());
            drop(self.heap.take());
        });
    }
}

// SAFETY: the buffer is alive until the drop, and lies where it was made.
unsafe impl<M: Metal> DriverObject for Part<M> {
    fn resource(&self) -> Resource {
        self.resource
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The buffers over parts of one heap, by offset and length.
#[derive(Debug)]
pub(super) struct Parts<M: Metal>(Mutex<Kept<M>>);

#[derive(Debug)]
struct Kept<M: Metal> {
    parts: BTreeMap<(usize, usize), KeptPart<M>>,
    /// Times that one was asked for.
    asked: u64,
}

#[derive(Debug)]
struct KeptPart<M: Metal> {
    part: Arc<Part<M>>,
    /// When it was asked for last.
    asked: u64,
}

impl<M: Metal> Default for Parts<M> {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            parts: BTreeMap::new(),
            asked: 0,
        }))
    }
}

impl<M: Metal> Parts<M> {
    /// The buffer over `bytes` bytes at `offset` of a heap of `storage`. O(log n), and O(n) where one makes way.
    pub(super) fn get(
        &self,
        shared: &Arc<Shared<M>>,
        (heap, storage): (&M::Heap, StorageMode),
        offset: usize,
        bytes: usize,
    ) -> Result<Arc<dyn DriverObject>> {
        let mut kept = self.0.lock();
        kept.asked += 1;
        let now = kept.asked;
        if let Some(one) = kept.parts.get_mut(&(offset, bytes)) {
            one.asked = now;
            return Ok(Arc::clone(&one.part) as Arc<dyn DriverObject>);
        }
        let make = || make(shared, (heap, storage), offset, bytes);
        let mut made = make();
        let is_full = |error: &Error| error.kind() == ErrorKind::LimitExceeded;
        if made.as_ref().is_err_and(is_full) && !kept.parts.is_empty() {
            // Those that nobody holds make room.
            kept.parts.clear();
            made = make();
        }
        let part = Arc::new(made?);
        if kept.parts.len() >= KEPT_MAX {
            let oldest = kept.parts.iter().min_by_key(|(_, one)| one.asked);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                // Whoever holds it keeps it.
                kept.parts.remove(&key);
            }
        }
        let one = KeptPart {
            part: Arc::clone(&part),
            asked: now,
        };
        kept.parts.insert((offset, bytes), one);
        Ok(part)
    }

    /// Lets go of all of them, before their heap goes.
    pub(super) fn clear(&self) {
        let parts = std::mem::take(&mut self.0.lock().parts);
        drop(parts);
    }
}

/// `newBufferWithLength:options:offset:` leaves it undefined what comes of a place outside the heap, or not at a multiple
/// of `heapBufferSizeAndAlignWithLength:options:` (its documentation).
fn make<M: Metal>(
    shared: &Arc<Shared<M>>,
    (heap, storage): (&M::Heap, StorageMode),
    offset: usize,
    bytes: usize,
) -> Result<Part<M>> {
    let needed = shared.metal.heap_buffer_size_and_align(bytes, storage);
    let end = offset.checked_add(needed.size.max(bytes));
    if bytes == 0 || !offset.is_multiple_of(needed.align) || end.is_none_or(|end| end > heap.size())
    {
        return Err(Error::with_message(
            ErrorKind::InvalidRequest,
            format!(
                "a buffer of {bytes} bytes at {offset} of a heap of {}; it takes {} at a multiple of {}",
                heap.size(),
                needed.size,
                needed.align
            ),
        ));
    }
    let buffer = shared
        .known
        .make(0..bytes, || heap.new_buffer(bytes, offset))?;
    buffer.set_label("weldpool block");
    Ok(Part {
        shared: Arc::clone(shared),
        resource: buffer.resource(),
        buffer: Some(buffer),
        bytes,
        heap: Some(heap.clone()),
    })
}

/// A segment's own buffer, for what begins where it does.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) resource: Resource,
    pub(super) bytes: usize,
}

// SAFETY: whoever has it drops it before the segment goes, and until then the buffer is alive.
unsafe impl DriverObject for Whole {
    fn resource(&self) -> Resource {
        self.resource
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}
