//! Weldpool on a CUDA device, each thread on a queue of its own.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;
use weldpool::device::cuda::{AdoptedStreams, CudaDevice};
use weldpool::{Allocator, Buffer, Queue, Request, StorageMode};

use crate::alloc::heap::Heap;
use crate::error::{Error, ErrorKind, Result};

/// Where a thread's queue comes from.
pub(super) trait QueueSource {
    fn with<R>(&self, call: impl FnOnce(&Queue) -> R) -> Option<R>;
}

/// A handle to one pool of device memory, and a queue; clones share the pool and have queues of their own.
#[derive(Debug)]
pub(super) struct Ours<S> {
    allocator: Allocator,
    source: S,
}

impl QueueSource for Queue {
    #[inline]
    fn with<R>(&self, call: impl FnOnce(&Queue) -> R) -> Option<R> {
        Some(call(self))
    }
}

impl Ours<Queue> {
    pub(super) fn new() -> Result<Self> {
        let open = || {
            let device = Arc::new(CudaDevice::open(0)?);
            let allocator = Allocator::builder(device).build()?;
            let source = allocator.create_queue()?;
            Ok(Self { allocator, source })
        };
        open().map_err(opening)
    }
}

impl Clone for Ours<Queue> {
    #[allow(clippy::expect_used, reason = "the driver made a stream just before")]
    fn clone(&self) -> Self {
        Self {
            allocator: self.allocator.clone(),
            source: self.allocator.create_queue().expect("a further stream"),
        }
    }
}

/// A stream that somebody else made, whose handle is all that a call is given.
#[derive(Debug)]
pub(super) struct Adopted {
    streams: Arc<AdoptedStreams>,
    stream: *mut c_void,
}

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Adopted {}

impl QueueSource for Adopted {
    #[inline]
    fn with<R>(&self, call: impl FnOnce(&Queue) -> R) -> Option<R> {
        // SAFETY: the stream is of the device and never destroyed.
        let queue = unsafe { self.streams.queue(self.stream) }.ok()?;
        Some(call(&queue))
    }
}

impl Ours<Adopted> {
    pub(super) fn adopting() -> Result<Self> {
        let open = || {
            let device = Arc::new(CudaDevice::open(0)?);
            let allocator = Allocator::builder(device.clone()).build()?;
            let streams = Arc::new(AdoptedStreams::new(allocator.clone(), device));
            Ok((allocator, streams))
        };
        let (allocator, streams) = open().map_err(opening)?;
        let stream = stream()?;
        Ok(Self {
            allocator,
            source: Adopted { streams, stream },
        })
    }
}

impl Clone for Ours<Adopted> {
    #[allow(clippy::expect_used, reason = "the driver made a stream just before")]
    fn clone(&self) -> Self {
        Self {
            allocator: self.allocator.clone(),
            source: Adopted {
                streams: Arc::clone(&self.source.streams),
                stream: stream().expect("a further stream"),
            },
        }
    }
}

fn opening(error: weldpool::Error) -> Error {
    Error::caused(ErrorKind::Environment, "opening the GPU", error)
}

/// A stream of the primary context that is never destroyed.
fn stream() -> Result<*mut c_void> {
    let mut context = std::ptr::null_mut();
    let mut stream = std::ptr::null_mut();
    // SAFETY: the place is writable; the device was opened before, so the driver is there.
    let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, 0) };
    // SAFETY: the context is retained, and stays so.
    let current = retained
        .result()
        .and_then(|()| unsafe { sys::cuCtxSetCurrent(context) }.result());
    // SAFETY: the place is writable; 1 is CU_STREAM_NON_BLOCKING.
    let created =
        current.and_then(|()| unsafe { sys::cuStreamCreate(&raw mut stream, 1) }.result());
    match created {
        Ok(()) => Ok(stream.cast()),
        Err(error) => Err(Error::new(
            ErrorKind::Environment,
            format!("making a stream: {error:?}"),
        )),
    }
}

impl<S: QueueSource> Heap for Ours<S> {
    type Block = Buffer;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        let allocate = |queue: &Queue| {
            let request = Request::new(bytes)
                .storage(StorageMode::Private)
                .queue(queue);
            self.allocator.allocate_with(&request).ok()
        };
        self.source.with(allocate)?
    }

    #[inline]
    fn free(&mut self, block: Buffer) {
        // A block whose queue is not to be had is freed as it is dropped.
        let _ = self.source.with(|queue| block.free_on(queue));
    }

    fn start(&mut self, block: &Buffer) -> usize {
        block
            .binding()
            .device_address
            .map_or(0, |address| address as usize)
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut Buffer, _value: u8) {}

    fn touch(&mut self, _block: &mut Buffer, _value: u8) -> bool {
        false
    }
}
