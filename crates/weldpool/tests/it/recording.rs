//! Queues whose work is recorded to be done later, as streams of CUDA's that are captured.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::device::{Device, DeviceQueue, Location, Timeline};
use weldpool::{Allocator, Buffer, Error, ErrorKind, Queue, Request, Result, StorageMode};
use weldpool_testkit::{block, in_time};

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

/// Where memory is out, other ways are tried, and holes would do.
#[test]
fn a_limit_has_no_holes_mapped_together() {
    for records in [false, true] {
        let (_device, allocator, recorder, queue, kept) = holes();
        let limit = Some(allocator.stats().reserved.value);
        allocator.set_reserved_bytes_max(limit).unwrap();
        recorder.records.store(records, Ordering::Relaxed);
        let request = Request::new(8 * HOLE).storage(StorageMode::Private);
        let before = allocator.stats().remaps;
        // What is free goes back, and new memory comes.
        let block = allocator.allocate_with(&request.queue(&queue)).unwrap();
        let remaps = allocator.stats().remaps - before;
        assert_eq!(remaps > 0, !records, "{remaps}");
        drop(block);
        recorder.records.store(false, Ordering::Relaxed);
        drop(kept);
    }
}

/// Memory that can be divided is mapped from the queue's own holes before more is obtained.
#[test]
fn a_queues_own_pages_stay_where_they_are() {
    for records in [false, true] {
        let device = Arc::new(HostDevice::new().unwrap());
        let recorder = Arc::new(Recorder {
            inner: device.create_queue().unwrap(),
            records: AtomicBool::new(false),
        });
        let allocator = Allocator::builder(device).build().unwrap();
        let queue = allocator.adopt_queue(Arc::clone(&recorder) as _);
        let of_queue = |bytes| {
            let request = Request::new(bytes).queue(&queue);
            allocator.allocate_with(&request).unwrap()
        };
        // The host allocates too.
        let mut kept = vec![allocator.allocate(100_000).unwrap()];
        let mut freed = Vec::new();
        for number in 0..64 {
            let block = of_queue(HOLE + 4096 * number);
            if number % 2 == 0 {
                freed.push(block);
            } else {
                kept.push(block);
            }
        }
        kept.push(allocator.allocate(300_000).unwrap());
        // What was freed waits for the queue.
        let (open, _) = block(&queue);
        freed.into_iter().for_each(|block| block.free_on(&queue));
        let _bytes = allocator.clear();
        let before = allocator.stats().remaps;
        recorder.records.store(records, Ordering::Relaxed);
        let large = of_queue(3 * HOLE);
        let remaps = allocator.stats().remaps - before;
        assert_eq!(remaps, u64::from(!records));
        recorder.records.store(false, Ordering::Relaxed);
        drop((open, large, kept));
    }
}

/// Nothing is submitted then, so no memory waits for it.
#[test]
fn writes_that_are_refused_leave_nothing_behind() {
    in_time(|| {
        let (_device, _allocator, recorder, queue, mut kept) = holes();
        let mut bytes = vec![0_u8; HOLE];
        recorder.records.store(true, Ordering::Relaxed);
        for _ in 0..20 {
            let refused = queue.write(&[1_u8; 4096], &mut kept[0]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy);
            let refused = queue.read(&kept[0], &mut bytes).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy);
        }
        recorder.records.store(false, Ordering::Relaxed);
        let written = queue.write(&[7_u8; 4096], &mut kept[0]).unwrap();
        written.wait(None).unwrap();
        queue.read(&kept[0], &mut bytes).unwrap();
        assert!(bytes[..4096].iter().all(|&byte| byte == 7));
    });
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
