//! Queues whose work is recorded to be done later, as streams of CUDA's that are captured.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::device::{Device, DeviceQueue, Location, Timeline};
use weldpool::{Allocator, Buffer, Error, ErrorKind, Queue, Request, Result, StorageMode};

const HOLE: usize = 6 << 20;

/// Refuses all work while it records.
#[derive(Debug)]
struct Recorder {
    inner: Arc<dyn DeviceQueue>,
    records: AtomicBool,
}

impl Recorder {
    fn check(&self) -> Result<()> {
        if self.is_recording() {
            return Err(Error::new(ErrorKind::Busy, "the queue records"));
        }
        Ok(())
    }
}

// SAFETY: the inner queue does what is not refused.
unsafe impl DeviceQueue for Recorder {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        self.check()?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(source, destination, bytes) }
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        self.check()?;
        // SAFETY: the caller's promise.
        unsafe { self.inner.fill(destination, bytes, value) }
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.check()?;
        self.inner.call(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.check()?;
        self.inner.wait_for(timeline, value)
    }

    fn is_recording(&self) -> bool {
        self.records.load(Ordering::Relaxed)
    }

    fn signal(&self) -> Result<u64> {
        self.check()?;
        self.inner.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        self.inner.timeline()
    }
}

/// A pool half of which is holes that the queue freed, none of them large enough.
fn holes() -> (
    Arc<FakeDiscrete>,
    Allocator,
    Arc<Recorder>,
    Queue,
    Vec<Buffer>,
) {
    let device = Arc::new(FakeDiscrete::builder().build().expect("a device"));
    let recorder = Arc::new(Recorder {
        inner: device.create_queue().expect("a queue"),
        records: AtomicBool::new(false),
    });
    let allocator = Allocator::builder(Arc::clone(&device) as _)
        .build()
        .expect("an allocator");
    let queue = allocator.adopt_queue(Arc::clone(&recorder) as _);
    let mut kept = Vec::new();
    for (number, block) in [(); 64]
        .map(|()| large(&allocator, &queue, HOLE))
        .into_iter()
        .enumerate()
    {
        if number % 2 == 0 {
            block.free_on(&queue);
        } else {
            kept.push(block);
        }
    }
    queue.fence().expect("done").wait(None).expect("done");
    (device, allocator, recorder, queue, kept)
}

fn large(allocator: &Allocator, queue: &Queue, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator
        .allocate_with(&request.queue(queue))
        .expect("done")
}

#[test]
fn holes_are_mapped_together_for_others_alone() {
    for records in [false, true] {
        let (device, allocator, recorder, queue, kept) = holes();
        let (reserved, unmapped) = (
            allocator.stats().reserved.value,
            device.control().calls(Call::Unmap),
        );
        recorder.records.store(records, Ordering::Relaxed);
        let block = large(&allocator, &queue, 8 * HOLE);
        let grown = allocator.stats().reserved.value - reserved;
        let moved = device.control().calls(Call::Unmap) - unmapped;
        // Held all the same is what a request of holes alone would have been served from.
        let small = large(&allocator, &queue, HOLE);
        assert_eq!(device.control().calls(Call::Unmap) - unmapped, moved);
        if records {
            assert_eq!(moved, 0);
            assert_eq!(grown, 8 * HOLE as u64, "it is new memory");
        } else {
            assert!(grown < 8 * HOLE as u64, "{grown}: some of it are holes");
        }
        recorder.records.store(false, Ordering::Relaxed);
        small.free_on(&queue);
        block.free_on(&queue);
        drop(kept);
        queue.fence().unwrap().wait(None).unwrap();
        let _bytes = allocator.clear();
        assert_eq!(allocator.stats().reserved.value, 0);
    }
}
