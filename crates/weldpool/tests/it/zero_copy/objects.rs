//! Objects of the driver's for single buffers.

use std::collections::BTreeSet;
use std::sync::Arc;

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete, LiveObject};
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Device, ErrorKind, Request, Resource, StorageMode};

/// An address, to be compared.
fn address(resource: Resource) -> usize {
    resource.as_ptr().addr().get()
}

fn fake() -> (Arc<FakeApple>, Allocator) {
    limited(1000)
}

fn limited(buffers: usize) -> (Arc<FakeApple>, Allocator) {
    let device = Arc::new(FakeApple::builder().buffers_max(buffers).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn buffers_alive(device: &FakeApple) -> usize {
    let objects: Vec<LiveObject> = device.metal().live_objects();
    let buffers = objects.iter().filter(|object| object.what == "buffer");
    buffers.count()
}

#[test]
fn each_buffer_on_a_heap_has_one_where_it_lies() {
    let (device, allocator) = fake();
    for storage in [StorageMode::Shared, StorageMode::Private] {
        for bytes in [1, 1000, 70_000, 5 << 20] {
            let request = Request::new(bytes).storage(storage);
            let buffers = [0; 3].map(|_| allocator.allocate_with(&request).unwrap());
            let before = buffers_alive(&device);
            let mut seen = BTreeSet::new();
            for buffer in &buffers {
                let object = buffer.object().unwrap();
                assert_eq!(object.bytes(), bytes);
                assert!(seen.insert(address(object.resource())));
                let found = device.metal().buffer(object.resource()).unwrap();
                assert_eq!(found.length(), bytes);
                assert_eq!(Some(found.gpu_address()), buffer.binding().device_address);
                assert_eq!(found.heap_offset(), buffer.binding().resource.unwrap().1);
                let again = buffer.object().unwrap();
                assert_eq!(address(again.resource()), address(object.resource()));
            }
            assert_eq!(buffers_alive(&device), before + 3, "made once each");
        }
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn a_view_has_one_where_the_driver_allows() {
    let (device, allocator) = fake();
    let view = allocator.allocate(4096).unwrap().share();
    let part = view.slice(256..1000).unwrap();
    let object = part.object().unwrap();
    assert_eq!(object.bytes(), 744);
    let found = device.metal().buffer(object.resource()).unwrap();
    assert_eq!(Some(found.gpu_address()), part.binding().device_address);
    for range in [100..200, 1..2, 10..10] {
        let error = view.slice(range).unwrap().object().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
    assert_eq!(
        device.violations(),
        [],
        "the device refuses before Metal does"
    );
}

#[test]
fn the_last_ones_are_kept_and_who_holds_one_keeps_it() {
    let (device, allocator) = fake();
    let buffers: Vec<_> = (0..100)
        .map(|_| allocator.allocate(4096).unwrap())
        .collect();
    let before = buffers_alive(&device);
    let held = buffers[0].object().unwrap();
    for buffer in &buffers[1..] {
        drop(buffer.object().unwrap());
    }
    assert_eq!(buffers_alive(&device), before + 64 + 1);
    assert!(device.metal().buffer(held.resource()).is_some());
    // It made way, so the next is another.
    let other = buffers[0].object().unwrap();
    assert_ne!(address(other.resource()), address(held.resource()));
    drop((held, other));
    // The memory of a buffer that was freed has the same object for the next.
    let last = address(buffers[99].object().unwrap().resource());
    drop(buffers);
    let buffers: Vec<_> = (0..100)
        .map(|_| allocator.allocate(4096).unwrap())
        .collect();
    assert!(
        buffers
            .iter()
            .any(|buffer| address(buffer.object().unwrap().resource()) == last)
    );
    drop(buffers);
    // None outlives its heap.
    assert!(allocator.clear() > 0);
    assert_eq!(buffers_alive(&device), 0);
    assert_eq!(device.metal().current_allocated_size(), 0);
    assert_eq!(device.violations(), []);
}

#[test]
fn no_more_are_made_than_the_system_allows_buffers() {
    let (device, allocator) = limited(11);
    let buffers: Vec<_> = (0..40)
        .map(|_| allocator.allocate(100_000).unwrap())
        .collect();
    let segments = buffers_alive(&device);
    let room = 11 - segments;
    assert!(room > 3, "{segments} segments");
    // Those that nobody holds make way.
    for buffer in &buffers {
        drop(buffer.object().unwrap());
    }
    let mut held: Vec<_> = Vec::new();
    let error = buffers.iter().find_map(|buffer| match buffer.object() {
        Ok(object) => {
            held.push(object);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(error.unwrap().kind(), ErrorKind::LimitExceeded);
    assert!(held.len() <= room, "{} of {room}", held.len());
    drop(held);
    drop(buffers[39].object().unwrap());
    assert_eq!(device.violations(), []);
}

#[test]
fn where_there_are_none_it_says_so() {
    let devices: [Arc<dyn Device>; 2] = [
        Arc::new(HostDevice::new().unwrap()),
        Arc::new(FakeDiscrete::new().unwrap()),
    ];
    for device in devices {
        let allocator = Allocator::builder(device).build().unwrap();
        for storage in [StorageMode::Shared, StorageMode::Private] {
            let request = Request::new(5000).storage(storage);
            let buffer = allocator.allocate_with(&request).unwrap();
            let error = buffer.object().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}

/// Memory above a heap's sense is a buffer of its own.
#[test]
fn memory_on_no_heap_has_its_own_buffer_and_no_others() {
    let (device, allocator) = fake();
    let request = Request::new((1 << 30) + 4096).storage(StorageMode::Private);
    let view = allocator.allocate_with(&request).unwrap().share();
    let before = buffers_alive(&device);
    let object = view.object().unwrap();
    assert!(object.bytes() >= view.len());
    let (resource, offset) = view.binding().resource.unwrap();
    assert_eq!((address(object.resource()), 0), (address(resource), offset));
    let error = view.slice(4096..8192).unwrap().object().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(buffers_alive(&device), before);
    assert_eq!(device.violations(), []);
}

#[test]
fn one_that_cannot_be_made_costs_nothing() {
    use weldpool::device::fake::{Fault, When};

    let (device, allocator) = fake();
    let buffer = allocator.allocate(4096).unwrap();
    for (when, kind) in (1..).zip([ErrorKind::OutOfMemory, ErrorKind::System]) {
        device.control().inject(Fault {
            call: Call::Object,
            when: When::Nth(when),
            error: kind,
        });
        let before = buffers_alive(&device);
        assert_eq!(buffer.object().unwrap_err().kind(), kind);
        assert_eq!(buffers_alive(&device), before);
    }
    assert_eq!(buffer.object().unwrap().bytes(), 4096);
    device.control().lose();
    // It is there already; the next would have to be made.
    assert!(buffer.object().is_ok());
    drop(buffer);
}
