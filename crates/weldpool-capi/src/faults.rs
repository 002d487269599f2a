//! Drivers that fail, seen through the interface for C: errors have the right code, and nothing is lost.

#![forbid(unsafe_code)]

use std::ptr::null_mut;
use std::sync::Arc;

use memory::device::fake::{Call, FakeDiscrete, Fault, When};
use memory::{Allocator, Config, ErrorKind};

use crate::abi::pointer::Owned;
use crate::allocator::{
    AllocatorHandle, weldpool_allocator_allocate, weldpool_allocator_pre_allocate,
    weldpool_allocator_reserve,
};
use crate::buffer::weldpool_buffer_free_on;
use crate::failure::{
    ErrorObject, WELDPOOL_ERROR_DEVICE_LOST, WELDPOOL_ERROR_OUT_OF_MEMORY, WELDPOOL_ERROR_SYSTEM,
    weldpool_error_advice, weldpool_error_code,
};
use crate::queue::{weldpool_queue_create, weldpool_queue_fill, weldpool_queue_synchronize};

fn allocator() -> (Arc<FakeDiscrete>, AllocatorHandle) {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let config = Config {
        wait_max: std::time::Duration::ZERO,
        ..Config::default()
    };
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn memory::Device>);
    let handle = AllocatorHandle {
        allocator: allocator.config(config).build().unwrap(),
        streams: None,
    };
    (device, handle)
}

fn fail(device: &FakeDiscrete, calls: &[Call], error: ErrorKind) {
    for &call in calls {
        let when = When::From(0);
        device.control().inject(Fault { call, when, error });
    }
}

/// What a function gave its caller.
fn owned<T>(given: *mut T) -> Box<T> {
    Box::new(Owned::new(given, "what was given").unwrap().take())
}

fn code(error: Option<Box<ErrorObject>>) -> u32 {
    weldpool_error_code(error.as_deref())
}

#[test]
fn memory_that_the_driver_has_not_is_an_error_of_that_code_and_nothing_stays() {
    let (device, handle) = allocator();
    let obtaining = [Call::CreateSegment, Call::CreatePhysical];
    fail(&device, &obtaining, ErrorKind::OutOfMemory);
    for _ in 0..20 {
        let mut buffer = null_mut();
        let error = weldpool_allocator_allocate(Some(&handle), 1 << 20, None, &raw mut buffer);
        assert!(buffer.is_null());
        assert!(!weldpool_error_advice(error.as_deref()).is_null());
        assert_eq!(code(error), WELDPOOL_ERROR_OUT_OF_MEMORY);
        let error = weldpool_allocator_pre_allocate(Some(&handle), 1 << 20, 3, null_mut());
        assert_eq!(code(error), WELDPOOL_ERROR_OUT_OF_MEMORY);
        let error = weldpool_allocator_reserve(Some(&handle), 1 << 20, 0, null_mut());
        assert_eq!(code(error), WELDPOOL_ERROR_OUT_OF_MEMORY);
    }
    let stats = handle.allocator.stats();
    assert_eq!((stats.live.value, stats.reserved.value), (0, 0));
    device.control().clear_faults();
    let mut buffer = null_mut();
    let error = weldpool_allocator_allocate(Some(&handle), 1 << 20, None, &raw mut buffer);
    assert_eq!(code(error), 0);
    assert_eq!(owned(buffer).view.len(), 1 << 20);
    assert!(device.violations().is_empty());
}

#[test]
fn a_driver_that_refuses_work_leaves_buffer_and_queue_usable() {
    let (device, handle) = allocator();
    let (mut queue, mut buffer) = (null_mut(), null_mut());
    fail(&device, &[Call::CreateQueue], ErrorKind::System);
    let error = weldpool_queue_create(Some(&handle), &raw mut queue);
    assert_eq!(
        (code(error), queue.is_null()),
        (WELDPOOL_ERROR_SYSTEM, true)
    );
    device.control().clear_faults();
    assert!(weldpool_queue_create(Some(&handle), &raw mut queue).is_none());
    assert!(weldpool_allocator_allocate(Some(&handle), 4096, None, &raw mut buffer).is_none());
    let (queue, filled) = (owned(queue), owned(buffer));

    fail(&device, &[Call::Fill], ErrorKind::System);
    let mut fence = null_mut();
    let error = weldpool_queue_fill(Some(&queue), Some(&filled), 1, &raw mut fence);
    assert_eq!(
        (code(error), fence.is_null()),
        (WELDPOOL_ERROR_SYSTEM, true)
    );
    device.control().clear_faults();
    assert!(weldpool_queue_fill(Some(&queue), Some(&filled), 1, null_mut()).is_none());

    // With a second handle, the use has to be noted, which the driver refuses: the handle stays the caller's.
    let second = filled.clone();
    fail(&device, &[Call::Signal], ErrorKind::System);
    let given_up = Box::into_raw(filled);
    let error = weldpool_buffer_free_on(given_up, Some(&queue));
    assert_eq!(code(error), WELDPOOL_ERROR_SYSTEM);
    device.control().clear_faults();
    assert!(weldpool_buffer_free_on(given_up, Some(&queue)).is_none());
    drop(second);
    assert!(weldpool_queue_synchronize(Some(&queue), u64::MAX).is_none());
    assert_eq!(handle.allocator.stats().live.value, 0);

    device.control().lose();
    let error = weldpool_queue_synchronize(Some(&queue), u64::MAX);
    assert_eq!(code(error), WELDPOOL_ERROR_DEVICE_LOST);
    drop(queue);
    assert!(device.violations().is_empty());
}
