//! The warm path takes nothing from the host's heap. A binary of its own, since it counts all of the
//! process's allocations.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Buffer, Config, Request, SizeClasses, StorageMode};

/// The system's heap, counting what each thread asks of it.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending is counted no more.
    let _ended = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is passed on to the system's heap unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(address, layout) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(address, layout, bytes) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Runs until lists have the length that they keep.
const WARM_UPS: usize = 4;

/// Calls of the host's heap, and of the driver, that a run makes after some others.
fn calls_when_warm(allocator: &Allocator, mut run: impl FnMut()) -> (u64, u64) {
    for _ in 0..WARM_UPS {
        run();
    }
    let driver = allocator.stats().driver_calls;
    let before = CALLS.get();
    run();
    let calls = CALLS.get() - before;
    (calls, allocator.stats().driver_calls - driver)
}

/// By default a quarter of the machine's memory is kept idle, and 64 of the largest take 4 GiB; and an
/// allocation that is a sample leaves the warm path, which is not what is looked at here.
fn allocator() -> Allocator {
    let config = Config {
        cached_bytes_max: Some(u64::MAX),
        sample_interval_bytes: 0,
        ..Config::default()
    };
    let device = Arc::new(HostDevice::new().unwrap());
    let built = Allocator::builder(device).config(config).build();
    built.unwrap()
}

/// Every class of the default preset, in steps: all of the large ones, since each is a size of its own.
fn sizes() -> Vec<usize> {
    let classes = SizeClasses::fine();
    let sizes = classes.as_slice().iter().map(|class| class.bytes);
    let sizes: Vec<usize> = sizes.collect();
    assert_eq!(sizes.last(), Some(&(256 << 20)));
    sizes
}

// Each class has an allocator of its own: one that just emptied its caches for another class, time and
// again, rests from caching for a while, which is not what is looked at here.

#[test]
fn a_warm_pair_takes_nothing_from_the_heap() {
    for bytes in sizes() {
        let allocator = allocator();
        let queue = allocator.create_queue().unwrap();
        let request = Request::new(bytes);
        let plain = calls_when_warm(&allocator, || {
            drop(allocator.allocate_with(&request).unwrap());
        });
        assert_eq!(plain, (0, 0), "{bytes} bytes");
        let request = request.queue(&queue);
        let queued = calls_when_warm(&allocator, || {
            allocator.allocate_with(&request).unwrap().free_on(&queue);
        });
        assert_eq!(queued, (0, 0), "{bytes} bytes on a queue");
    }
}

#[test]
fn sixty_four_live_buffers_take_nothing_from_the_heap() {
    let mut live: Vec<Buffer> = Vec::with_capacity(64);
    for bytes in sizes().into_iter().filter(|bytes| *bytes <= 64 << 20) {
        let allocator = allocator();
        let request = Request::new(bytes).storage(StorageMode::Shared);
        let plain = calls_when_warm(&allocator, || {
            for _ in 0..64 {
                live.push(allocator.allocate_with(&request).unwrap());
            }
            live.clear();
        });
        assert_eq!(plain, (0, 0), "{bytes} bytes");
        let queue = allocator.create_queue().unwrap();
        let request = request.queue(&queue);
        let queued = calls_when_warm(&allocator, || {
            for _ in 0..64 {
                live.push(allocator.allocate_with(&request).unwrap());
            }
            for buffer in live.drain(..) {
                buffer.free_on(&queue);
            }
        });
        assert_eq!(queued, (0, 0), "{bytes} bytes on a queue");
    }
}

/// Statistics cost the same whatever is live: they add up counters and walk nothing.
#[test]
fn statistics_cost_the_same_whatever_is_live() {
    let allocator = allocator();
    let mut live: Vec<Buffer> = Vec::new();
    let mut cost = |count: usize| {
        live.clear();
        live.extend((0..count).map(|number| allocator.allocate(1000 + number % 5000).unwrap()));
        let (heap, driver) = calls_when_warm(&allocator, || drop(allocator.stats()));
        assert_eq!(driver, 0);
        heap
    };
    let few = cost(10);
    assert_eq!(cost(20_000), few);
    assert!(few < 10, "{few}: a list of classes, and not much else");
}
