//! The rules of Metal's memory objects, as the Apple fake keeps them.

#![allow(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use weldpool::device::fake::{
    AppleCosts, Buffer, FakeApple, Heap, HeapDescriptor, PurgeableState, Rule,
};
use weldpool::device::{DeviceQueue, Location};
use weldpool::{Allocator, Device, ErrorKind, Result, StorageMode};

use super::broken;

const PAGE: usize = 16 << 10;

fn heap(device: &FakeApple, bytes: usize, storage: StorageMode) -> Heap {
    let descriptor = HeapDescriptor { bytes, storage };
    device.metal().new_heap(&descriptor).unwrap()
}

fn fill(queue: &dyn DeviceQueue, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
    let place = Location {
        host: None,
        device: None,
        resource: Some((buffer.resource(), offset)),
    };
    // SAFETY: the fake looks every buffer up before it touches memory.
    unsafe { queue.fill(place, bytes, 0x21) }
}

fn finish(queue: &dyn DeviceQueue) {
    let value = queue.signal().unwrap();
    let timeout = Some(Duration::from_secs(60));
    assert!(queue.timeline().wait(value, timeout).unwrap());
}

fn byte(buffer: &Buffer, offset: usize) -> u8 {
    let contents = buffer.contents().unwrap();
    // SAFETY: the offset is inside the buffer.
    let place = unsafe { contents.add(offset) };
    // SAFETY: contents are mapped and initialised, and no work is under way.
    unsafe { place.read() }
}

#[test]
fn a_segment_is_a_heap_with_one_buffer_over_it() {
    let device = FakeApple::new().unwrap();
    assert!(device.properties().unified);
    assert!(device.virtual_memory(StorageMode::Private).is_none());
    for storage in [StorageMode::Shared, StorageMode::Private] {
        let segment = device.create_segment(3 * PAGE, storage).unwrap();
        assert_eq!(device.metal().current_allocated_size(), 3 * PAGE as u64);
        assert_eq!(
            segment.host_address().is_some(),
            storage == StorageMode::Shared
        );
        assert!(segment.resource().is_some());
        assert_eq!(segment.device_address().unwrap() % PAGE as u64, 0);
        device.release_segment(segment).unwrap();
    }
    assert_eq!(device.metal().current_allocated_size(), 0);
    let error = device
        .create_segment(PAGE, StorageMode::Managed)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(device.violations().is_empty());
    assert!(
        device
            .create_segment(PAGE + 256, StorageMode::Shared)
            .is_err()
    );
    assert_eq!(broken(device.control()), [Rule::Granularity]);
}

#[test]
fn heaps_round_up_and_refuse_managed_storage() {
    let device = FakeApple::new().unwrap();
    assert_eq!(heap(&device, 1, StorageMode::Private).size(), PAGE);
    for (bytes, storage, rule) in [
        (PAGE, StorageMode::Managed, Rule::HeapStorage),
        (0, StorageMode::Shared, Rule::Granularity),
        (usize::MAX, StorageMode::Shared, Rule::Granularity),
    ] {
        let descriptor = HeapDescriptor { bytes, storage };
        let error = device.metal().new_heap(&descriptor).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!(broken(device.control()).last(), Some(&rule));
    }
    assert_eq!(device.metal().current_allocated_size(), 0);
}

#[test]
fn buffers_lie_inside_their_heap_at_their_alignment() {
    let device = FakeApple::builder()
        .max_buffer_length(PAGE as u64)
        .build()
        .unwrap();
    let heap = heap(&device, 2 * PAGE, StorageMode::Shared);
    assert_eq!(device.metal().heap_buffer_size_and_align(257), (512, 256));
    for (length, offset, rule) in [
        (0, 0, Rule::BufferLength),
        (PAGE + 1, 0, Rule::BufferLength),
        (PAGE, PAGE + 256, Rule::InsideHeap),
        (256, 128, Rule::InsideHeap),
        (256, usize::MAX - 255, Rule::InsideHeap),
    ] {
        let error = heap.new_buffer(length, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert_eq!(broken(device.control()).last(), Some(&rule), "{error}");
    }
    let first = heap.new_buffer(PAGE, PAGE).unwrap();
    let alias = heap.new_buffer(PAGE, PAGE).unwrap();
    assert_eq!(first.gpu_address(), alias.gpu_address());
    assert_eq!((first.length(), first.heap_offset()), (PAGE, PAGE));
    // A buffer keeps its heap alive.
    drop((heap, alias));
    assert_eq!(device.metal().current_allocated_size(), 2 * PAGE as u64);
    drop(first);
    assert_eq!(device.metal().current_allocated_size(), 0);
}

#[test]
fn work_stays_inside_a_buffer_that_is_alive() {
    let device = FakeApple::new().unwrap();
    let queue = device.create_queue().unwrap();
    let heap = heap(&device, 2 * PAGE, StorageMode::Shared);
    let buffer = heap.new_buffer(PAGE, 0).unwrap();
    fill(queue.as_ref(), &buffer, 0, PAGE).unwrap();
    finish(queue.as_ref());
    assert_eq!((byte(&buffer, 0), byte(&buffer, PAGE - 1)), (0x21, 0x21));
    assert!(device.violations().is_empty());
    assert!(fill(queue.as_ref(), &buffer, 256, PAGE).is_err());
    assert_eq!(broken(device.control()).last(), Some(&Rule::InsideBuffer));
    // A bare address is nothing that an encoder takes, nor is a buffer of another device.
    let bare = Location {
        host: buffer.contents(),
        device: Some(buffer.gpu_address()),
        resource: None,
    };
    // SAFETY: the fake refuses it.
    let error = unsafe { queue.fill(bare, 1, 0) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let other = FakeApple::new().unwrap();
    let foreign = other.create_queue().unwrap();
    assert!(fill(foreign.as_ref(), &buffer, 0, 1).is_err());
    assert_eq!(broken(other.control()), [Rule::OwnMemory]);
    let refused = other.release_segment(device.create_segment(PAGE, StorageMode::Shared).unwrap());
    device
        .release_segment(refused.unwrap_err().segment)
        .unwrap();
}

#[test]
fn volatile_heaps_are_discarded_under_pressure_only() {
    use PurgeableState::{Empty, KeepCurrent, NonVolatile, Volatile};

    let device = FakeApple::new().unwrap();
    let metal = device.metal();
    let queue = device.create_queue().unwrap();
    let heaps = [0; 3].map(|_| heap(&device, PAGE, StorageMode::Shared));
    let buffers = heaps
        .each_ref()
        .map(|heap| heap.new_buffer(PAGE, 0).unwrap());
    for buffer in &buffers {
        fill(queue.as_ref(), buffer, 0, PAGE).unwrap();
    }
    finish(queue.as_ref());
    assert_eq!(metal.purge_volatile(u64::MAX), 0, "nothing is volatile");
    assert_eq!(heaps[0].set_purgeable_state(KeepCurrent), NonVolatile);
    for heap in &heaps[..2] {
        assert_eq!(heap.set_purgeable_state(Volatile), NonVolatile);
    }
    // Volatile memory is not to be touched, though its contents may still be there.
    assert!(fill(queue.as_ref(), &buffers[1], 0, 1).is_err());
    assert_eq!(broken(device.control()), [Rule::NotVolatile]);
    assert_eq!(metal.purge_volatile(1), PAGE as u64, "one heap is enough");
    assert_eq!(
        heaps[0].set_purgeable_state(NonVolatile),
        Empty,
        "contents are gone"
    );
    assert_eq!(
        heaps[1].set_purgeable_state(NonVolatile),
        Volatile,
        "contents are kept"
    );
    assert_eq!(byte(&buffers[0], 100), 0xDB);
    assert_eq!(
        (byte(&buffers[1], 100), byte(&buffers[2], 100)),
        (0x21, 0x21)
    );
    // Both can be used again.
    for buffer in &buffers {
        fill(queue.as_ref(), buffer, 0, PAGE).unwrap();
    }
    finish(queue.as_ref());
    assert_eq!(byte(&buffers[0], 100), 0x21);
    // Discarding by hand; volatile does not bring contents back.
    assert_eq!(heaps[2].set_purgeable_state(Empty), NonVolatile);
    assert_eq!(heaps[2].set_purgeable_state(Volatile), Empty);
    assert_eq!(heaps[2].set_purgeable_state(KeepCurrent), Empty);
    assert_eq!(heaps[2].set_purgeable_state(NonVolatile), Empty);
    assert_eq!(byte(&buffers[2], 0), 0xDB);
    // A queue has a page of its own.
    assert_eq!(metal.current_allocated_size(), 4 * PAGE as u64);
}

#[test]
fn work_on_a_heap_made_volatile_too_early_is_found_when_it_runs() {
    let device = FakeApple::builder().manual(true).build().unwrap();
    let queue = device.create_queue().unwrap();
    let heap = heap(&device, PAGE, StorageMode::Private);
    let buffer = heap.new_buffer(PAGE, 0).unwrap();
    fill(queue.as_ref(), &buffer, 0, 1).unwrap();
    let _prior = heap.set_purgeable_state(PurgeableState::Volatile);
    assert!(device.violations().is_empty());
    device.control().run_all();
    assert_eq!(broken(device.control()), [Rule::NotVolatile]);
}

#[test]
fn host_functions_run_on_foreign_threads_in_order() {
    let device = FakeApple::new().unwrap();
    let queue = device.create_queue().unwrap();
    let calls = Arc::new(Mutex::new(Vec::<(usize, ThreadId)>::new()));
    for number in 0..10 {
        let calls = Arc::clone(&calls);
        let call = move || {
            let thread = std::thread::current().id();
            calls.lock().unwrap().push((number, thread));
        };
        queue.call(Box::new(call)).unwrap();
    }
    finish(queue.as_ref());
    let calls = calls.lock().unwrap();
    assert!(calls.iter().map(|(number, _)| *number).eq(0..10));
    let own = std::thread::current().id();
    assert!(calls.iter().all(|(_, thread)| *thread != own));
    assert!(calls.windows(2).all(|pair| pair[0].1 != pair[1].1));
}

#[test]
fn budget_follows_the_allocated_size() {
    let device = FakeApple::builder()
        .memory(1 << 20)
        .recommended_max_working_set_size(700_000)
        .max_buffer_length(1 << 20)
        .build()
        .unwrap();
    let budget = device.budget().unwrap();
    assert_eq!((budget.total, budget.ceiling()), (1 << 20, 700_000));
    let segment = device
        .create_segment(48 * PAGE, StorageMode::Private)
        .unwrap();
    let available = device.budget().unwrap().available;
    assert_eq!(available, Some((1 << 20) - 48 * PAGE as u64));
    let error = device
        .create_segment(17 * PAGE, StorageMode::Shared)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    drop(segment);
    drop(
        device
            .create_segment(17 * PAGE, StorageMode::Shared)
            .unwrap(),
    );
    assert!(device.violations().is_empty());
}

#[test]
fn heaps_and_buffers_are_charged() {
    let costs = AppleCosts::assumed();
    let whole = 1 << 20;
    let expected = costs.heap.ns(whole) + costs.buffer.ns(whole) + costs.release.ns(whole);
    let device = Arc::new(FakeApple::new().unwrap());
    drop(
        device
            .create_segment(whole as usize, StorageMode::Shared)
            .unwrap(),
    );
    assert_eq!(device.charged_ns(), expected);
    let free = Arc::new(
        FakeApple::builder()
            .costs(AppleCosts::free())
            .build()
            .unwrap(),
    );
    let allocator = Allocator::builder(free.clone()).build().unwrap();
    drop(allocator.allocate(10 << 20).unwrap());
    drop(allocator);
    assert_eq!(free.charged_ns(), 0);
}

#[test]
fn requests_above_the_largest_class_go_to_heaps_of_their_own_those_there_are_first() {
    const MIB: usize = 1 << 20;
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let held = |mib: u64| assert_eq!(device.metal().current_allocated_size(), mib << 20);
    drop(allocator.allocate(300 * MIB).unwrap());
    held(300);
    let first = allocator.allocate(300 * MIB).unwrap();
    assert_eq!(allocator.stats().growths, 1);
    // A heap is made when none has room.
    let second = allocator.allocate(300 * MIB).unwrap();
    assert_eq!(allocator.stats().growths, 2);
    held(600);
    drop((first, second));
    // A smaller one goes there as well, and what it leaves serves further ones.
    let small = [290, 299].map(|mib| allocator.allocate(mib * MIB).unwrap());
    assert_eq!(allocator.stats().growths, 2);
    held(600);
    drop(small);
    assert_eq!(allocator.clear(), 600 * MIB);
    held(0);
}
