//! Thread caches: bounded, given back, and emptied by others when memory is short.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use weldpool::{Allocator, Buffer, Config, Request};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn allocator(reserved_bytes_max: Option<u64>) -> Allocator {
    let config = Config {
        reserved_bytes_max,
        ..Config::default()
    };
    let device = weldpool::device::host::HostDevice::new().unwrap();
    let builder = Allocator::builder(Arc::new(device));
    builder.config(config).build().unwrap()
}

#[test]
fn a_thread_keeps_few_small_blocks_for_itself() {
    let allocator = allocator(None);
    let all: Vec<Buffer> = (0..4096)
        .map(|_| allocator.allocate(4 * KIB).unwrap())
        .collect();
    drop(all);
    let before = allocator.stats().reserved.value;
    assert!(before >= 16 << 20);
    // Everything but what this thread keeps can be returned, and after it is emptied, that too.
    let other = allocator.clone();
    let returned = thread::spawn(move || other.clear()).join().unwrap();
    let kept = before - returned as u64;
    assert!(kept <= 2 * MIB as u64, "{kept} bytes kept");
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
}

#[test]
fn a_parked_thread_gives_up_its_large_blocks() {
    let allocator = allocator(Some(64 << 20));
    let (parked, is_parked) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let other = allocator.clone();
    let idle = thread::spawn(move || {
        let cached: Vec<Buffer> = (0..60).map(|_| other.allocate(MIB).unwrap()).collect();
        drop(cached);
        parked.send(()).unwrap();
        may_go_on.recv().unwrap();
    });
    is_parked.recv().unwrap();
    let stats = allocator.stats();
    assert!(stats.cached_bytes >= 60 << 20, "{stats}");
    // Needs nearly all that the limit allows, while the other thread sleeps.
    let large = allocator.allocate(50 << 20).unwrap();
    drop(large);
    go_on.send(()).unwrap();
    idle.join().unwrap();
}

#[test]
fn what_a_thread_cached_serves_others_after_its_end() {
    const SIZES: [usize; 4] = [256, 4 * KIB, 64 * KIB, MIB];
    let allocator = allocator(None);
    let other = allocator.clone();
    thread::spawn(move || {
        let bytes = SIZES.into_iter().flat_map(|bytes| [bytes; 16]);
        let held: Vec<Buffer> = bytes.map(|bytes| other.allocate(bytes).unwrap()).collect();
        drop(held);
    })
    .join()
    .unwrap();
    let before = allocator.stats();
    assert_eq!(before.live.value, 0);
    let held: Vec<Buffer> = SIZES
        .into_iter()
        .flat_map(|bytes| [bytes; 16])
        .map(|bytes| allocator.allocate(bytes).unwrap())
        .collect();
    let after = allocator.stats();
    // Small blocks are cut anew, which may take a span more.
    let most = before.reserved.value + 128 * KIB as u64;
    assert!(after.reserved.value <= most, "{before}, then {after}");
    drop(held);
    let _bytes = allocator.clear();
    assert_eq!(
        allocator.stats().reserved.value,
        0,
        "nothing was left behind"
    );
}

#[test]
fn blocks_that_pass_between_threads_neither_pile_up_nor_thrash() {
    const IN_FLIGHT: usize = 32;
    for bytes in [256, 16 * KIB, MIB] {
        let allocator = allocator(None);
        let (send, receive) = sync_channel::<Buffer>(IN_FLIGHT);
        let consumer = thread::spawn(move || receive.into_iter().for_each(drop));
        let mut after_warm_up = None;
        for round in 0..20_000 {
            send.send(allocator.allocate(bytes).unwrap()).unwrap();
            if round == 4_000 {
                after_warm_up = Some(allocator.stats());
            }
        }
        drop(send);
        consumer.join().unwrap();
        let (before, after) = (after_warm_up.unwrap(), allocator.stats());
        // The producer, the channel and the consumer's cache may each hold so many blocks and twice.
        let most = (6 * 64 + 2 * IN_FLIGHT) * bytes + 4 * MIB;
        assert!(after.reserved.peak <= most as u64, "{bytes} bytes: {after}");
        let calls = after.driver_calls - before.driver_calls;
        assert!(calls <= 64, "{bytes} bytes: {calls} driver calls");
        assert_eq!(after.live.value, 0);
    }
}

/// A thread counts what it allocates of large blocks while somebody else takes those that lie in its cache.
#[test]
fn counters_stand_while_others_empty_a_threads_lists() {
    let allocator = Allocator::host().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (other, stopped) = (allocator.clone(), Arc::clone(&stop));
    let owner = thread::spawn(move || {
        // Never served by the warm path.
        let request = Request::new(12 << 10).zeroed(true);
        while !stopped.load(Ordering::Relaxed) {
            let held: Vec<Buffer> = (0..8)
                .map(|_| other.allocate_with(&request).unwrap())
                .collect();
            drop(held);
        }
    });
    for _ in 0..100_000 {
        let _bytes = allocator.clear();
    }
    stop.store(true, Ordering::Relaxed);
    owner.join().unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.frees, stats.allocations, "{stats}");
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0), "{stats}");
}

#[test]
fn threads_that_follow_each_other_do_not_add_to_the_peak() {
    let allocator = Allocator::host().unwrap();
    for _ in 0..8 {
        let allocator = allocator.clone();
        thread::spawn(move || {
            let held: Vec<Buffer> = (0..32).map(|_| allocator.allocate(MIB).unwrap()).collect();
            drop(held);
        })
        .join()
        .unwrap();
    }
    assert_eq!(allocator.stats().live.peak, 32 * MIB as u64);
}
