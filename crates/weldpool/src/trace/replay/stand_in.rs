//! Adopted queues and frees in stream order, by means that work for queues without work.

#![forbid(unsafe_code)]

use crate::allocator::Allocator;
use crate::buffer::Buffer;
use crate::device::DeviceQueue;
use crate::in_flight::{Access, Use};
use crate::queue::Queue;
use crate::sync::Arc;

pub(super) trait AdoptQueue {
    /// A queue over a stream that was not made by the allocator's device.
    fn adopt_queue(&self, queue: Arc<dyn DeviceQueue>) -> Queue;
}

impl AdoptQueue for Allocator {
    fn adopt_queue(&self, queue: Arc<dyn DeviceQueue>) -> Queue {
        Queue::new(queue)
    }
}

pub(super) trait FreeOn {
    /// Frees in the order of `queue`.
    fn free_on(self, queue: &Queue);
}

impl FreeOn for Buffer {
    fn free_on(self, queue: &Queue) {
        // Without a fence the queue is lost, and nothing of it still runs.
        if let Ok(fence) = queue.fence() {
            self.in_flight().add(Use {
                fence,
                access: Access::Write,
            });
        }
    }
}
