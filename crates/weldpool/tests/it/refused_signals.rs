//! Signals that the driver refuses: what the work before them uses is kept until the next, which whoever waits makes.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::{Allocator, Buffer, ErrorKind, Queue, Request, StorageMode};
use weldpool_testkit::{FaultyDevice, in_time};

const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn open() -> (Arc<FaultyDevice>, Allocator) {
    let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn private(allocator: &Allocator) -> Buffer {
    let request = Request::new(1 << 20).storage(StorageMode::Private);
    allocator.allocate_with(&request).unwrap()
}

/// Has the next signal refused behind work that was taken.
fn fill_without_signal(device: &FaultyDevice, queue: &Queue, buffer: &mut Buffer) {
    device.fail(Call::Signal, ErrorKind::System, 1);
    let refused = queue.fill(buffer, 1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::System);
}

#[test]
fn whoever_waits_for_a_buffer_makes_the_signal() {
    in_time(|| {
        let (device, allocator) = open();
        let queue = allocator.create_queue().unwrap();
        let mut buffer = private(&allocator);
        fill_without_signal(&device, &queue, &mut buffer);
        buffer.wait(LONG).unwrap();
    });
}

#[test]
fn whoever_gives_registered_memory_back_makes_it_on_another_pools_queue() {
    in_time(|| {
        let (device, allocator) = open();
        let queue = allocator.create_queue().unwrap();
        let other = Allocator::host().unwrap();
        let registered = other.register(vec![1_u8; 4096]).unwrap();
        // The second attempt too.
        device.fail(Call::Signal, ErrorKind::System, 2);
        let refused = registered.note_use(&queue).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::System);
        assert_eq!(registered.into_inner().unwrap().len(), 4096);
    });
}

/// What several queues use waits apart from all other memory.
#[test]
fn memory_of_several_queues_comes_back() {
    let (device, allocator) = open();
    let queues = [0; 2].map(|_| allocator.create_queue().unwrap());
    let buffer = private(&allocator);
    for queue in &queues {
        // The second attempt too.
        device.fail(Call::Signal, ErrorKind::System, 2);
        let refused = buffer.note_use(queue).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::System);
    }
    let start = std::time::Instant::now();
    drop(buffer);
    while allocator.stats().reserved.value > 0 {
        let _bytes = allocator.clear();
        assert!(start.elapsed().as_secs() < 20, "{}", allocator.stats());
    }
}
