//! What copies from and to the pool's memory go through.

#![forbid(unsafe_code)]

use super::Pool;
use crate::device::DeviceQueue;
use crate::error::Result;
use crate::sync::Arc;
use crate::transfer::Room;

impl Pool {
    /// A queue of the device that nobody else submits to; refused where the driver must not be called.
    pub(crate) fn take_queue(&self) -> Result<Arc<dyn DeviceQueue>> {
        self.means.take_queue(&self.device)
    }

    /// Takes such a queue back, with its work over.
    pub(crate) fn put_queue(&self, queue: Arc<dyn DeviceQueue>) {
        self.means.put_queue(queue);
    }

    /// Room for chunks of so many bytes.
    pub(crate) fn take_room(&self, chunk_bytes: usize) -> Result<Room> {
        self.means.take_room(&self.device, chunk_bytes)
    }

    /// Room for chunks of so many bytes, or of fewer where memory is short.
    pub(crate) fn take_room_within(&self, chunk_bytes: usize) -> Result<Room> {
        self.means.take_room_within(&self.device, chunk_bytes)
    }

    pub(crate) fn put_room(&self, room: Room) {
        self.means.put_room(&self.device, room);
    }

    /// Returns the memory of idle rooms to the device; says how many bytes it were.
    pub(super) fn clear_rooms(&self) -> usize {
        self.means.clear(&self.device)
    }

    pub(super) fn close_means(&self) {
        self.means.close(&self.device);
    }
}
