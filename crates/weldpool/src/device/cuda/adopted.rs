//! Queues over streams that somebody else made, found by the streams' handles.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;

use super::CudaDevice;
use crate::allocator::Allocator;
use crate::error::Result;
use crate::queue::Queue;
use crate::sync::{Arc, RwLock};

/// Most streams that are remembered; with more of them, those that nobody holds a queue of are forgotten.
const STREAMS_MAX: usize = 1024;

/// The queues of one allocator over streams of another library, such as PyTorch's. A stream is known by its
/// id, which the driver never uses again (`cuStreamGetId`), and not by its handle, which it does.
#[derive(Debug)]
pub struct AdoptedStreams {
    allocator: Allocator,
    device: Arc<CudaDevice>,
    queues: RwLock<HashMap<u64, Arc<Queue>>>,
}

impl AdoptedStreams {
    /// Streams of `device`, for memory of `allocator`, which is over that device.
    #[must_use]
    pub fn new(allocator: Allocator, device: Arc<CudaDevice>) -> Self {
        Self {
            allocator,
            device,
            queues: RwLock::default(),
        }
    }

    /// The queue over a stream (a `CUstream` or `cudaStream_t`; null is the legacy default stream), adopted
    /// when it is first seen. Complexity: a driver call of some 25 ns and a hash look-up.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](crate::ErrorKind::DeviceLost), or what the driver says.
    ///
    /// # Safety
    ///
    /// The stream is one of the device's primary context and alive, and stays so until the queue is not used
    /// any more.
    pub unsafe fn queue(&self, stream: *mut c_void) -> Result<Arc<Queue>> {
        // SAFETY: the caller's promise.
        let id = unsafe { self.device.stream_id(stream) }?;
        if let Some(queue) = self.queues.read().get(&id) {
            return Ok(Arc::clone(queue));
        }
        // SAFETY: the caller's promise.
        let adopted = unsafe { self.device.adopt_stream(stream) };
        let mut queues = self.queues.write();
        if queues.len() >= STREAMS_MAX {
            queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        }
        let queue = queues.entry(id);
        let queue = queue.or_insert_with(|| Arc::new(self.allocator.adopt_queue(adopted)));
        Ok(Arc::clone(queue))
    }

    /// Forgets a stream that is about to be destroyed; memory freed in its order is reusable once its work is
    /// done. Whether it was known.
    ///
    /// # Errors
    ///
    /// As for [`queue`](Self::queue).
    ///
    /// # Safety
    ///
    /// The stream is alive.
    pub unsafe fn forget(&self, stream: *mut c_void) -> Result<bool> {
        // SAFETY: the caller's promise.
        let id = unsafe { self.device.stream_id(stream) }?;
        let queue = self.queues.write().remove(&id);
        Ok(queue.is_some())
    }
}
