//! Systems and GPUs that lack something, and heaps of which buffers take more than they are long.

use std::sync::Arc;

use weldpool::device::fake::{AppleGpu, FakeApple, FakeAppleBuilder, HeapDescriptor, Rule};
use weldpool::{Allocator, Device, ErrorKind, Request, StorageMode};

use super::{assert_all_returned, broken};

const PAGE: usize = 16 << 10;

/// Uses memory of every storage mode in each way there is; the residency sets that were alive meanwhile.
fn sets_of_work(builder: FakeAppleBuilder) -> usize {
    let device = Arc::new(builder.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let of = |bytes, storage| {
        let request = Request::new(bytes).storage(storage);
        allocator.allocate_with(&request).unwrap()
    };
    let registered = allocator.register(vec![7_u8; 4 * PAGE]);
    let mut shared = of(3 * PAGE, StorageMode::Shared);
    for bytes in [100, 64 << 10, 40 << 20] {
        let mut private = of(bytes, StorageMode::Private);
        queue.fill(&mut private, 3).unwrap();
        let part = shared.len().min(bytes);
        let mut copy = of(bytes, StorageMode::Shared);
        let fence = queue.copy(&private, &mut copy).unwrap();
        fence.wait(None).unwrap();
        assert!(
            copy.read::<u8>().unwrap()[..part]
                .iter()
                .all(|&byte| byte == 3)
        );
    }
    shared.write::<u8>().unwrap().fill(1);
    let mut private = of(3 * PAGE, StorageMode::Private);
    queue.copy(&shared, &mut private).unwrap();
    queue.call(|| ()).unwrap();
    queue.fill(&mut shared, 0).unwrap();
    let copied = queue.copy(&private, &mut shared).unwrap();
    copied.wait(None).unwrap();
    drop(copied);
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    let objects = device.metal().live_objects();
    let sets = objects.iter().filter(|one| one.what == "residency set");
    let sets = sets.count();
    drop((registered, private, shared, queue, allocator));
    assert_all_returned(device.as_ref(), "work");
    assert_eq!(broken(device.control()), []);
    sets
}

#[test]
fn residency_sets_are_made_where_there_are_such() {
    for version in [13, 14] {
        assert_eq!(sets_of_work(FakeApple::builder().macos(version)), 0);
    }
    assert!(sets_of_work(FakeApple::builder().macos(15)) > 0);
    assert!(sets_of_work(FakeApple::builder()) > 0);
}

#[test]
fn no_residency_sets_are_made_in_a_virtual_machine() {
    let builder = FakeApple::builder().gpu(AppleGpu::Paravirtual);
    assert_eq!(sets_of_work(builder), 0);
}

#[test]
fn what_a_buffer_takes_of_a_heap_is_there_for_it() {
    for (padding, alignment) in [
        (0, 256),
        (1, 256),
        (4096, 256),
        (PAGE, PAGE),
        (100_000, 1 << 16),
    ] {
        let builder = FakeApple::builder().heap_padding(padding);
        sets_of_work(builder.heap_alignment(alignment));
        let builder = FakeApple::builder().heap_padding(padding);
        let device = builder.heap_alignment(alignment).build().unwrap();
        for storage in [StorageMode::Shared, StorageMode::Private] {
            let segment = device.create_segment(2 * PAGE, storage).unwrap();
            assert_eq!(segment.bytes(), 2 * PAGE);
            device.release_segment(segment).unwrap();
        }
        assert_eq!(broken(device.control()), []);
    }
}

#[test]
fn a_buffer_lies_where_the_heap_has_what_it_takes() {
    let builder = FakeApple::builder().heap_padding(512);
    let device = builder.heap_alignment(1024).build().unwrap();
    let metal = device.metal();
    assert_eq!(metal.heap_buffer_size_and_align(1000), (1536, 1024));
    let descriptor = HeapDescriptor {
        bytes: PAGE,
        storage: StorageMode::Shared,
    };
    let heap = metal.new_heap(&descriptor).unwrap();
    heap.new_buffer(1024, PAGE - 2048).unwrap();
    assert_eq!(broken(device.control()), []);
    for (length, offset) in [(1024, PAGE - 1024), (PAGE, 0), (1024, 256)] {
        let refused = heap.new_buffer(length, offset).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
    }
    assert_eq!(broken(device.control()), [Rule::InsideHeap; 3]);
    let refused = FakeApple::builder().heap_alignment(48).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}
