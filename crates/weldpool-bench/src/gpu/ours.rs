//! Weldpool on a CUDA device, each thread on a queue of its own.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys;
use weldpool::device::cuda::{AdoptedStreams, CudaDevice};
use weldpool::{Allocator, Buffer, Queue, Request, StorageMode};

use crate::alloc::heap::Heap;
use crate::error::{Error, ErrorKind, Result};

/// A handle to one pool of device memory, and a queue; clones share the pool and have queues of their own.
#[derive(Debug)]
pub(super) struct Ours {
    allocator: Allocator,
    queue: Queue,
}

impl Ours {
    pub(super) fn new() -> Result<Self> {
        let open = || {
            let device = Arc::new(CudaDevice::open(0)?);
            let allocator = Allocator::builder(device).build()?;
            let queue = allocator.create_queue()?;
            Ok(Self { allocator, queue })
        };
        open().map_err(|error: weldpool::Error| {
            Error::caused(ErrorKind::Environment, "opening the GPU", error)
        })
    }
}

impl Clone for Ours {
    #[allow(clippy::expect_used, reason = "the driver made a stream just before")]
    fn clone(&self) -> Self {
        Self {
            allocator: self.allocator.clone(),
            queue: self.allocator.create_queue().expect("a further stream"),
        }
    }
}

/// The same on a stream that somebody else made, whose handle is all that a call is given.
#[derive(Debug)]
pub(super) struct Adopted {
    allocator: Allocator,
    streams: Arc<AdoptedStreams>,
    stream: *mut c_void,
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

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Adopted {}

impl Adopted {
    pub(super) fn new() -> Result<Self> {
        let open = || {
            let device = Arc::new(CudaDevice::open(0)?);
            let allocator = Allocator::builder(device.clone()).build()?;
            let streams = AdoptedStreams::new(allocator.clone(), device);
            Ok((allocator, Arc::new(streams)))
        };
        let (allocator, streams) = open().map_err(|error: weldpool::Error| {
            Error::caused(ErrorKind::Environment, "opening the GPU", error)
        })?;
        Ok(Self {
            stream: stream()?,
            streams,
            allocator,
        })
    }

    fn queue(&self) -> Option<Arc<Queue>> {
        // SAFETY: the stream is of the device and never destroyed.
        unsafe { self.streams.queue(self.stream) }.ok()
    }
}

impl Clone for Adopted {
    #[allow(clippy::expect_used, reason = "the driver made a stream just before")]
    fn clone(&self) -> Self {
        Self {
            stream: stream().expect("a further stream"),
            streams: Arc::clone(&self.streams),
            allocator: self.allocator.clone(),
        }
    }
}

impl Heap for Adopted {
    type Block = Buffer;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        let queue = self.queue()?;
        let request = Request::new(bytes)
            .storage(StorageMode::Private)
            .queue(&queue);
        self.allocator.allocate_with(&request).ok()
    }

    #[inline]
    fn free(&mut self, block: Buffer) {
        if let Some(queue) = self.queue() {
            block.free_on(&queue);
        }
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

impl Heap for Ours {
    type Block = Buffer;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Buffer> {
        let request = Request::new(bytes)
            .storage(StorageMode::Private)
            .queue(&self.queue);
        self.allocator.allocate_with(&request).ok()
    }

    #[inline]
    fn free(&mut self, block: Buffer) {
        block.free_on(&self.queue);
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
