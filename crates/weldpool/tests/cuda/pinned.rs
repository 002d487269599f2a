//! Memory that is pinned in the background, and memory of the program that the driver is made to know.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::cuda::CudaDevice;
use weldpool::pinned::PinnedPool;
use weldpool::{Allocator, Buffer, ErrorKind, RawBytes, Request, StorageMode};

use crate::gpu::Stream;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(60);
/// What the host may be late by on a busy machine.
const LATE: Duration = Duration::from_millis(10);

fn open() -> (Arc<CudaDevice>, Allocator) {
    let device = Arc::new(CudaDevice::open(0).unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn counter(allocator: &Allocator) -> Buffer {
    let request = Request::new(256).zeroed(true);
    allocator.allocate_with(&request).unwrap()
}

#[test]
fn a_caller_waits_ten_milliseconds_at_most_while_256_mb_are_pinned() {
    let (_device, allocator) = open();
    let pool = PinnedPool::builder(&allocator).build().unwrap();
    let wait_max = pool.config().wait_max;
    let start = Instant::now();
    let first = pool.allocate(1 << 28).unwrap();
    let waited = start.elapsed();
    assert!(waited < wait_max + LATE, "{waited:?}");
    // A small one meanwhile has to wait for the step under way, and one of its own at most.
    let start = Instant::now();
    let small = pool.allocate(MIB).unwrap();
    let waited = start.elapsed();
    assert!(waited < wait_max + LATE, "{waited:?}");
    let start = Instant::now();
    while pool.stats().growing_bytes > 0 {
        assert!(start.elapsed() < LONG, "{}", pool.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut second = pool.allocate(1 << 28).unwrap();
    let stats = pool.stats();
    println!("{stats}; the first is pinned: {}", first.is_pinned());
    assert!(second.is_pinned(), "{stats}");
    assert!(second.binding().device_address.is_some());
    assert!(small.is_pinned(), "{stats}");
    assert!(stats.wait_longest < wait_max + LATE, "{stats}");
    assert!(stats.growth_longest < wait_max, "a step is short: {stats}");
    // The memory of many steps is one.
    for (word, at) in second.write::<u32>().unwrap().iter_mut().zip(0..) {
        *word = at;
    }
    let queue = allocator.create_queue().unwrap();
    let private = Request::new(1 << 28).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
    queue.copy(&second, &mut middle).unwrap();
    second.wait(Some(LONG)).unwrap();
    second.write::<u8>().unwrap().fill(0);
    queue.copy(&middle, &mut second).unwrap();
    second.wait(Some(LONG)).unwrap();
    let words = second.read::<u32>().unwrap();
    assert!(words.iter().zip(0..).all(|(&word, at)| word == at));
}

#[test]
fn warm_pinned_memory_comes_without_a_driver_call() {
    let (_device, allocator) = open();
    let pool = PinnedPool::builder(&allocator).build().unwrap();
    let ready = |bytes| {
        let start = Instant::now();
        // What callers of before left wanting is pinned too.
        while !pool.allocate(bytes).unwrap().is_pinned() || pool.stats().growing_bytes > 0 {
            assert!(start.elapsed() < LONG, "{}", pool.stats());
        }
    };
    for bytes in [4096, 3 * MIB, 40 * MIB] {
        ready(bytes);
        let calls = allocator.stats().driver_calls;
        for _ in 0..1000 {
            assert!(pool.allocate(bytes).unwrap().is_pinned());
        }
        assert_eq!(allocator.stats().driver_calls, calls, "{bytes}");
    }
}

#[test]
fn kernels_read_and_write_a_registered_vector_where_it_is() {
    let (device, allocator) = open();
    let stream = Stream::new(&device, &allocator);
    let wrong = counter(&allocator);
    // No whole pages, and no address of one.
    let mut words = vec![7_u32; 1_000_003];
    words.remove(0);
    let expected = words.len();
    let memory = allocator.register(words).unwrap();
    assert_eq!(
        allocator.stats().registered.value,
        4 * expected as u64,
        "in no other figure"
    );
    let at = memory.binding().device_address.unwrap();
    stream.count_wrong_at(at, memory.len(), 7, &wrong);
    // Late, so that giving the memory back has to wait.
    stream.write_late_at(at, memory.len(), 9, 20_000_000);
    memory.note_use(&stream.queue).unwrap();
    assert_eq!(memory.read::<u32>().unwrap_err().kind(), ErrorKind::Busy);
    let words = memory.into_inner().unwrap();
    assert_eq!(words.len(), expected);
    assert!(words.iter().all(|&word| word == 9));
    assert_eq!(wrong.read::<u32>().unwrap()[0], 0);
    assert_eq!(allocator.stats().registered.value, 0);
}

#[test]
fn unaligned_memory_is_copied_both_ways() {
    let (_device, allocator) = open();
    let queue = allocator.create_queue().unwrap();
    let bytes: Vec<u8> = (0..5_000_011_u32).map(|at| (at * 31) as u8).collect();
    let expected = bytes.clone();
    let source = allocator.register(bytes).unwrap();
    let mut target = allocator.register(vec![0_u8; expected.len()]).unwrap();
    let private = Request::new(expected.len()).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
    queue.copy(&source, &mut middle).unwrap();
    queue.copy(&middle, &mut target).unwrap();
    drop(source);
    assert!(target.into_inner().unwrap() == expected);
}

#[test]
fn ranges_on_one_page_are_registered_apart_and_overlapping_ones_refused() {
    let (_device, allocator) = open();
    let mut page = vec![1_u8; 8192];
    let start = NonNull::new(page.as_mut_ptr()).unwrap();
    let part = |from: usize, bytes| {
        let start = NonNull::new(start.as_ptr().wrapping_add(from)).unwrap();
        // SAFETY: the parts lie inside of the vector, which is not touched while they are registered.
        unsafe { RawBytes::new(start, bytes) }
    };
    let first = allocator.register(part(100, 200)).unwrap();
    let second = allocator.register(part(300, 50)).unwrap();
    let error = allocator.register(part(299, 2)).unwrap_err().error;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    // Through another allocator it is the driver that says so.
    let other = Allocator::builder(allocator.device().clone())
        .build()
        .unwrap();
    let error = other.register(part(150, 20)).unwrap_err().error;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    drop((first, second));
    drop(allocator.register(part(0, 8192)).unwrap());
    drop(page);
}

#[test]
fn memory_that_is_read_only_is_read_or_refused() {
    let (_device, allocator) = open();
    let queue = allocator.create_queue().unwrap();
    let bytes = vec![5_u8; 100_000];
    let start = NonNull::new(bytes.as_ptr().cast_mut()).unwrap();
    // SAFETY: the vector outlives what is registered of it, and nobody writes to it.
    let memory = unsafe { RawBytes::read_only(start, bytes.len()) };
    match allocator.register(memory) {
        Ok(memory) => {
            let mut copy = allocator.allocate(bytes.len()).unwrap();
            queue.copy(&memory, &mut copy).unwrap();
            copy.wait(Some(LONG)).unwrap();
            assert!(copy.read::<u8>().unwrap()[..] == bytes[..]);
        }
        Err(failed) => assert_eq!(failed.error.kind(), ErrorKind::Unsupported, "{failed}"),
    }
    drop(bytes);
}
