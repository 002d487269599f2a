//! Queues and pinned memory for copies, lent to the threads that copy.

#![forbid(unsafe_code)]

use super::Pool;
use crate::error::Result;
use crate::transfer::Lane;

impl Pool {
    /// A lane with room for chunks of `chunk_bytes` bytes, or without any for 0.
    pub(crate) fn take_lane(&self, chunk_bytes: usize) -> Result<Lane> {
        self.lanes.take(&self.device, chunk_bytes)
    }

    /// Takes a lane back, with its work over.
    pub(crate) fn put_lane(&self, lane: Lane) {
        self.lanes.put(&self.device, lane);
    }

    /// Returns the memory of idle lanes to the device; says how many bytes it were.
    pub(super) fn clear_lanes(&self) -> usize {
        self.lanes.clear(&self.device)
    }

    pub(super) fn close_lanes(&self) {
        self.lanes.close(&self.device);
    }
}
