//! Queues over streams that somebody else made, found by the streams' ids.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;

use super::CudaDevice;
use super::queue::CudaQueue;
use crate::allocator::Allocator;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Queue;
use crate::sync::{Arc, RwLock};

/// Most streams that are known at once.
const STREAMS_MAX: usize = 4096;

/// The queues of one allocator over streams of another library, such as PyTorch's. A stream is known by its
/// id, which the driver never uses again (`cuStreamGetId`), and not by its handle, which it does.
#[derive(Debug)]
pub struct AdoptedStreams {
    allocator: Allocator,
    device: Arc<CudaDevice>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By their ids.
    streams: HashMap<u64, Adopted>,
    /// The ids that handles had when they were last adopted.
    ids: HashMap<usize, u64>,
}

#[derive(Debug, Clone)]
struct Adopted {
    queue: Arc<Queue>,
    stream: Arc<CudaQueue>,
}

impl Known {
    fn queue(&self, id: u64) -> Option<Arc<Queue>> {
        let adopted = self.streams.get(&id)?;
        Some(Arc::clone(&adopted.queue))
    }
}

impl AdoptedStreams {
    /// Streams of `device`, for memory of `allocator`, which is over that device.
    #[must_use]
    pub fn new(allocator: Allocator, device: Arc<CudaDevice>) -> Self {
        Self {
            allocator,
            device,
            known: RwLock::default(),
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<CudaDevice> {
        &self.device
    }

    /// The queue over a stream (a `CUstream` or `cudaStream_t`; null is the legacy default stream), adopted
    /// when it is first seen. Complexity: two driver calls of some 25 ns each and a hash look-up.
    ///
    /// While a stream records a graph the driver does not tell its id, so then it is the one that was adopted under
    /// the same handle last.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for `CU_STREAM_PER_THREAD`,
    /// [`Busy`](ErrorKind::Busy) for one that records a graph and was not adopted before,
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) when 4,096 streams are known,
    /// [`DeviceLost`](ErrorKind::DeviceLost), or what the driver says.
    ///
    /// # Safety
    ///
    /// The stream is one of the device's primary context and alive, and stays so until it is
    /// [forgotten](Self::forget) here or the allocator is gone.
    pub unsafe fn queue(&self, stream: *mut c_void) -> Result<Arc<Queue>> {
        let handle = stream.addr();
        // SAFETY: the caller's promise.
        let id = match unsafe { self.device.stream_id(stream) } {
            Err(error) if error.kind() == ErrorKind::Busy => {
                let known = self.known.read();
                let id = known.ids.get(&handle);
                return id.and_then(|&id| known.queue(id)).ok_or(error);
            }
            id => id?,
        };
        if let Some(queue) = self.known.read().queue(id) {
            return Ok(queue);
        }
        // SAFETY: the caller's promise.
        let stream = unsafe { self.device.adopt(stream) }?;
        let mut known = self.known.write();
        if let Some(queue) = known.queue(id) {
            return Ok(queue);
        }
        if known.streams.len() >= STREAMS_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "4096 streams are adopted; forget those that are destroyed",
            ));
        }
        let queue = Arc::new(self.allocator.adopt_queue(Arc::clone(&stream) as _));
        let returned = Arc::clone(&queue);
        known.streams.insert(id, Adopted { queue, stream });
        known.ids.insert(handle, id);
        Ok(returned)
    }

    /// Forgets a stream that is about to be destroyed: it is used no more, also by those who still hold its
    /// queue, and memory freed in its order is reusable once its work is done. Whether it was known.
    ///
    /// # Errors
    ///
    /// As for [`queue`](Self::queue), and [`Busy`](ErrorKind::Busy) while the stream records a graph; it is still
    /// known then.
    ///
    /// # Safety
    ///
    /// The stream is alive.
    pub unsafe fn forget(&self, stream: *mut c_void) -> Result<bool> {
        // SAFETY: the caller's promise.
        let id = unsafe { self.device.stream_id(stream) }?;
        let known = self.known.read().streams.get(&id).cloned();
        let Some(Adopted { queue, stream: own }) = known else {
            return Ok(false);
        };
        // With the list free: the driver may wait for a function that looks a stream up. It covers everything submitted
        // and freed so far.
        let _fence = queue.fence()?;
        own.retire();
        // Calls of the stream are made under the queue's lock: after this, nobody is at one that began before.
        let _past = queue.fence();
        let mut known = self.known.write();
        let forgotten = known.streams.remove(&id);
        if known.ids.get(&stream.addr()) == Some(&id) {
            known.ids.remove(&stream.addr());
        }
        drop(known);
        Ok(forgotten.is_some())
    }
}
