//! Rules of Metal that the device keeps, where a breach shows: docs/metal.md names these tests.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use weldpool::device::fake::{AppleGpu, FakeApple};
use weldpool::device::metal::ResidencyConfig;
use weldpool::{Allocator, Buffer, Device, ErrorKind, Request, StorageMode};

const MIB: usize = 1 << 20;

fn opened(device: FakeApple) -> (Arc<FakeApple>, Allocator) {
    let device = Arc::new(device);
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn private(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request).unwrap()
}

fn alive(device: &FakeApple, what: &str) -> usize {
    let objects = device.metal().live_objects();
    objects.iter().filter(|object| object.what == what).count()
}

/// Everything is committed before anything runs, so that only fences order the passes.
#[test]
fn passes_of_a_queue_run_in_their_order() {
    let (device, allocator) = opened(FakeApple::builder().manual(true).build().unwrap());
    let queue = allocator.create_queue().unwrap();
    let [mut first, mut second] = [(); 2].map(|()| allocator.allocate(4099).unwrap());
    for value in 1..=3 {
        queue.fill(&mut first, value).unwrap();
        queue.copy(&first, &mut second).unwrap();
    }
    let end = queue.fill(&mut first, 9).unwrap();
    device.control().run_all();
    assert_eq!(device.violations(), []);
    assert!(end.is_complete().unwrap());
    assert!(first.read::<u8>().unwrap().iter().all(|&byte| byte == 9));
    assert!(second.read::<u8>().unwrap().iter().all(|&byte| byte == 3));
}

#[test]
fn a_point_of_a_queue_stands_for_all_work_before_it() {
    let (device, allocator) = opened(FakeApple::new().unwrap());
    let queue = allocator.create_queue().unwrap();
    let mut buffer = allocator.allocate(4096).unwrap();
    assert!(device.control().hang(0));
    queue.fill(&mut buffer, 1).unwrap();
    let point = queue.fence().unwrap();
    assert!(!point.is_complete().unwrap(), "nothing has run");
    // Another queue waits for it on the GPU.
    let other = allocator.create_queue().unwrap();
    let mut copy = allocator.allocate(4096).unwrap();
    let copied = other.copy(&buffer, &mut copy).unwrap();
    let early = copied.wait(Some(Duration::from_millis(50)));
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(device.control().resume(0));
    point.wait(None).unwrap();
    copied.wait(None).unwrap();
    for buffer in [&buffer, &copy] {
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn no_segment_is_longer_than_a_buffer_may_be() {
    let most = 4 * MIB;
    let builder = FakeApple::builder().max_buffer_length(most as u64);
    let (device, allocator) = opened(builder.build().unwrap());
    for storage in [StorageMode::Shared, StorageMode::Private] {
        drop(device.create_segment(most, storage).unwrap());
        let longer = most + device.properties().granularity;
        let error = device.create_segment(longer, storage).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
        let request = Request::new(longer).storage(storage);
        assert!(allocator.allocate_with(&request).is_err());
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn managed_memory_lies_on_no_heap() {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    let device = builder.build().unwrap();
    let managed = device.create_segment(MIB, StorageMode::Managed).unwrap();
    assert_eq!(alive(&device, "heap"), 0);
    let private = device.create_segment(MIB, StorageMode::Private).unwrap();
    assert_eq!(alive(&device, "heap"), 1);
    drop((managed, private));
    assert_eq!(device.violations(), []);
}

#[test]
fn no_more_sets_are_made_than_a_queue_takes() {
    let builder = FakeApple::builder().residency(ResidencyConfig {
        share: 1.0,
        set_share: 0.0,
        ..ResidencyConfig::default()
    });
    let device = builder.build().unwrap();
    // A set takes 64 MiB, so no two of these share one while there may be more.
    let segments: Vec<_> = (0..40)
        .map(|_| {
            device
                .create_segment(40 * MIB, StorageMode::Private)
                .unwrap()
        })
        .collect();
    let queue = device.create_queue().unwrap();
    let value = queue.signal().unwrap();
    assert!(queue.timeline().wait(value, None).unwrap());
    assert_eq!(alive(&device, "residency set"), 32);
    drop(segments);
    assert_eq!(device.violations(), []);
}

/// Where the rule is strictest: kernels move what blits cannot.
#[test]
fn bytes_at_odd_places_of_private_memory_are_moved() {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    let (device, allocator) = opened(builder.build().unwrap());
    let queue = allocator.create_queue().unwrap();
    let bytes = 2000;
    let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let mut shared = allocator.allocate(bytes).unwrap();
    shared.write::<u8>().unwrap().copy_from_slice(&data);
    let [source, target] = [(); 2].map(|()| private(&allocator, bytes).share());
    let mut whole = source.slice(0..bytes).unwrap();
    queue.copy(&shared, &mut whole).unwrap();
    for (from, to, length) in [(1, 2, 77), (255, 257, 513), (1001, 3, 999)] {
        let part = source.slice(from..from + length).unwrap();
        let mut place = target.slice(to..to + length).unwrap();
        queue.copy(&part, &mut place).unwrap();
        let mut seen = allocator.allocate(length).unwrap();
        queue.copy(&place, &mut seen).unwrap().wait(None).unwrap();
        assert!(seen.read::<u8>().unwrap()[..] == data[from..from + length]);
        queue.fill(&mut place, 5).unwrap();
        queue.copy(&place, &mut seen).unwrap().wait(None).unwrap();
        assert!(seen.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn buffers_over_blocks_lie_inside_their_heap() {
    let device = FakeApple::new().unwrap();
    let segment = device.create_segment(MIB, StorageMode::Private).unwrap();
    assert!(segment.object(MIB - 4096, 4096).is_ok());
    for (offset, bytes) in [
        (0, MIB + 1),
        (MIB - 4096, 4097),
        (MIB, 256),
        (128, 256),
        (usize::MAX - 255, 256),
    ] {
        let error = segment.object(offset, bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    drop(segment);
    assert_eq!(device.violations(), []);
}

#[test]
fn a_virtual_machine_has_neither_heaps_nor_sets() {
    let builder = FakeApple::builder().gpu(AppleGpu::Paravirtual);
    let (device, allocator) = opened(builder.build().unwrap());
    let queue = allocator.create_queue().unwrap();
    let mut shared = allocator.allocate(MIB).unwrap();
    let mut private = private(&allocator, MIB);
    queue.fill(&mut private, 3).unwrap();
    queue.copy(&private, &mut shared).unwrap();
    shared.wait(None).unwrap();
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 3));
    assert_eq!(alive(&device, "heap"), 0);
    assert_eq!(alive(&device, "residency set"), 0);
    assert_eq!(device.violations(), []);
}

#[test]
fn work_waits_for_the_function_before_it() {
    let (device, allocator) = opened(FakeApple::new().unwrap());
    let queue = allocator.create_queue().unwrap();
    let (begin, has_begun) = channel();
    let (end, may_end) = channel::<()>();
    queue
        .call(move || {
            begin.send(()).unwrap();
            let _ended = may_end.recv();
        })
        .unwrap();
    let mut buffer = allocator.allocate(4096).unwrap();
    let filled = queue.fill(&mut buffer, 1).unwrap();
    has_begun.recv().unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(!filled.is_complete().unwrap(), "the function is not back");
    end.send(()).unwrap();
    filled.wait(None).unwrap();
    assert_eq!(device.violations(), []);
}
