//! What is particular to a CUDA device.

use std::time::Duration;

use weldpool::device::cuda::CudaDevice;
use weldpool::{Allocator, ErrorKind, Request, Runtime, StorageMode};

use crate::cuda;

#[test]
fn the_runtime_lists_it() {
    let runtime = Runtime::open().unwrap();
    let kinds: Vec<_> = runtime
        .devices()
        .iter()
        .map(|device| device.properties().kind.name())
        .collect();
    assert!(kinds.starts_with(&["host", "cuda"]), "{kinds:?}");
    let absent: Vec<_> = runtime
        .absent()
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(absent, ["metal"], "{:?}", runtime.absent());
}

#[test]
fn there_is_no_device_beyond_the_last() {
    let count = CudaDevice::count().unwrap();
    let error = CudaDevice::open(count).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(
        error.to_string().contains(&format!("cuda:{count}")),
        "{error}"
    );
}

#[test]
fn its_memory_is_seen_in_the_budget() {
    let device = cuda();
    let bytes = 1 << 30;
    let before = device.budget().unwrap().available.unwrap();
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let request = Request::new(bytes).storage(StorageMode::Private);
    let buffer = allocator.allocate_with(&request).unwrap();
    let held = before.saturating_sub(device.budget().unwrap().available.unwrap());
    // Other tests run beside this one.
    assert!(held >= bytes as u64 / 2, "{held}");
    drop(buffer);
}

#[test]
fn managed_memory_is_never_more_than_is_free() {
    let device = cuda();
    let some = 64 << 20;
    let held = device.create_segment(some, StorageMode::Managed).unwrap();
    // Untouched by the device it takes nothing there, and counts all the same.
    let free = device.budget().unwrap().available.unwrap() as usize;
    let more = (free - some / 2).next_multiple_of(2 << 20);
    let refused = device.create_segment(more, StorageMode::Managed);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::OutOfMemory);
    device.release_segment(held).unwrap();
    let allocator = Allocator::builder(device).build().unwrap();
    let request = Request::new(2 * free).storage(StorageMode::Managed);
    let refused = allocator.allocate_with(&request);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::OutOfMemory);
}

#[test]
fn contents_go_there_and_back() {
    let allocator = Allocator::builder(cuda()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let bytes = 64 << 20;
    let mut source = allocator.allocate(bytes).unwrap();
    let mut state = 1_u64;
    for word in source.write::<u64>().unwrap().iter_mut() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *word = state;
    }
    let private = Request::new(bytes)
        .storage(StorageMode::Private)
        .queue(&queue);
    let mut middle = allocator.allocate_with(&private).unwrap();
    let mut target = allocator.allocate(bytes).unwrap();
    queue.copy(&source, &mut middle).unwrap();
    queue.copy(&middle, &mut target).unwrap();
    target.wait(Some(Duration::from_secs(60))).unwrap();
    assert!(*source.read::<u64>().unwrap() == *target.read::<u64>().unwrap());
}
