//! How a queue's copies from and to host memory that its device does not know go.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::{Fence, Queue};
use crate::device::{DeviceQueue, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::{Access, InFlight};
use crate::transfer::{Room, SLOTS};

/// Pinned memory that a queue's copies from and to other host memory go through.
pub(super) struct QueueStaging<'a> {
    queue: &'a Queue,
    /// None only while it is given back.
    room: Option<Room>,
    pub(super) chunk_bytes: usize,
}

impl<'a> QueueStaging<'a> {
    pub(super) fn new(queue: &'a Queue, bytes: usize) -> Result<Self> {
        let most = queue.pool.device().staging().chunk_bytes.max(1);
        let chunk_bytes = most.min(bytes.max(1).next_power_of_two());
        let room = queue.pool.take_room_within(chunk_bytes)?;
        Ok(Self {
            chunk_bytes: chunk_bytes.min(room.slot_bytes()),
            room: Some(room),
            queue,
        })
    }

    fn room(&mut self) -> Result<&mut Room> {
        let none = || Error::new(ErrorKind::System, "memory for copies is gone");
        self.room.as_mut().ok_or_else(none)
    }

    /// The slot for a chunk of a number, once nothing uses it.
    pub(super) fn empty(&mut self, number: usize) -> Result<Location> {
        let room = self.room()?;
        room.await_slot(number % SLOTS)?;
        Ok(room.slot(number % SLOTS))
    }

    /// The slot for a chunk, with the chunk in it.
    pub(super) fn fill(&mut self, number: usize, chunk: &[u8]) -> Result<Location> {
        let slot = self.empty(number)?;
        let host = slot.host.ok_or_else(not_pinned)?;
        // SAFETY: a slot is as long as a chunk, this room's alone, and used by no work.
        unsafe { host.copy_from_nonoverlapping(NonNull::from(chunk).cast(), chunk.len()) };
        Ok(slot)
    }

    /// Submits work on a chunk's slot and other memory, and notes when the slot is free again, also where the driver
    /// took the work and refused the signal behind it.
    pub(super) fn submit(
        &mut self,
        number: usize,
        other: (&InFlight, Access),
        work: impl FnOnce(&dyn DeviceQueue) -> Result<()>,
    ) -> Result<Fence> {
        let mut taken = false;
        let submitted = self.queue.submit(&[other], |queue| {
            work(queue)?;
            taken = true;
            Ok(())
        });
        if taken {
            let fence = match &submitted {
                Ok(fence) => fence.clone(),
                Err(_) => self.queue.fence_or_next(),
            };
            self.room()?.occupy(number % SLOTS, fence);
        }
        submitted
    }

    /// Takes a chunk out of its slot once it is there.
    pub(super) fn drain(&mut self, number: usize, chunk: &mut [u8]) -> Result<()> {
        let slot = self.empty(number)?;
        let host = slot.host.ok_or_else(not_pinned)?;
        let bytes = chunk.len();
        // SAFETY: as in `fill`, and the bytes are initialised, as those of every segment are.
        unsafe {
            NonNull::from(chunk)
                .cast()
                .copy_from_nonoverlapping(host, bytes)
        };
        Ok(())
    }
}

impl Drop for QueueStaging<'_> {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.queue.pool.put_room(room);
        }
    }
}

fn not_pinned() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the device's shared memory has no address for the host",
    )
}
