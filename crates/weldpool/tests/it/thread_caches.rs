//! Thread caches: bounded, given back, and emptied by others when memory is short.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::device::{Device, DeviceKind};
use weldpool::{Allocator, Buffer, Config, ErrorKind, Request};
use weldpool_testkit::FaultyDevice;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn allocator(reserved_bytes_max: Option<u64>) -> Allocator {
    let config = Config {
        reserved_bytes_max,
        ..Config::default()
    };
    let device = HostDevice::new().unwrap();
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
fn what_a_cache_could_serve_is_validated() {
    let allocator = Allocator::host().unwrap();
    for number in [0, 3, 48, 192, 300] {
        // The first one is cached from here on.
        drop(allocator.allocate(64).unwrap());
        let request = Request::new(64).alignment(number);
        let error = allocator.allocate_with(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{number}: {error}");
    }
    for number in [1, 2, 128, 256] {
        let request = Request::new(64).alignment(number);
        drop(allocator.allocate_with(&request).unwrap());
    }
}

/// What the peak may be above the truth for each thread or queue besides the one that made it.
fn tolerance(peak: u64) -> u64 {
    (peak / 64).clamp(64 << 10, MIB as u64)
}

/// Threads take turns, so that the true peak is what one of them holds.
#[test]
fn threads_in_turns_do_not_add_to_the_peak() {
    const THREADS: u64 = 8;
    let cases = [
        vec![MIB; 8],
        vec![64 * MIB],
        vec![200_000; 16],
        vec![4000; 100],
        vec![100_000, MIB, 300, 9000],
    ];
    for sizes in cases {
        for on_queues in [false, true] {
            let allocator = Allocator::host().unwrap();
            let turn = Arc::new(AtomicU64::new(0));
            let threads: Vec<_> = (0..THREADS)
                .map(|number| {
                    let (allocator, sizes, turn) =
                        (allocator.clone(), sizes.clone(), Arc::clone(&turn));
                    thread::spawn(move || {
                        let queue = allocator.create_queue().unwrap();
                        for round in 0..25 {
                            while turn.load(Ordering::Acquire) != round * THREADS + number {
                                thread::yield_now();
                            }
                            let request = |&bytes| match on_queues {
                                true => Request::new(bytes).queue(&queue),
                                false => Request::new(bytes),
                            };
                            let allocate =
                                |bytes| allocator.allocate_with(&request(bytes)).unwrap();
                            let held: Vec<Buffer> = sizes.iter().map(allocate).collect();
                            for buffer in held {
                                match on_queues {
                                    true => buffer.free_on(&queue),
                                    false => drop(buffer),
                                }
                            }
                            turn.fetch_add(1, Ordering::Release);
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
            let stats = allocator.stats();
            let held: u64 = sizes.iter().map(|&bytes| bytes as u64).sum();
            let most = held + 2 * THREADS * tolerance(held);
            let peak = stats.live.peak;
            assert!(
                (held..=most).contains(&peak),
                "{sizes:?} {on_queues}: {peak} of {held}"
            );
            assert!(peak <= stats.reserved.peak);
            assert_eq!(stats.live.value, 0);
        }
    }
}

/// Threads that free what others allocate, all at once: the peak is between what was surely live at one time and
/// what may have been, but for what it may be too high.
#[test]
fn threads_at_once_do_not_add_to_the_peak() {
    const THREADS: u64 = 4;
    const LARGEST: usize = 2 * MIB;
    for round in 0..3 {
        let allocator = Allocator::host().unwrap();
        // Live before calls began or after they ended, and its peak; and likewise of what surely was.
        let [may, was] = [(); 2].map(|()| Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let came = |of: &[AtomicU64; 2], bytes: usize| {
            let now = of[0].fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
            of[1].fetch_max(now, Ordering::SeqCst);
        };
        let went = |of: &[AtomicU64; 2], bytes: usize| {
            of[0].fetch_sub(bytes as u64, Ordering::SeqCst);
        };
        let shared: Mutex<Vec<Buffer>> = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (allocator, shared, may, was) = (&allocator, &shared, &may, &was);
                scope.spawn(move || {
                    let mut random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
                    for _ in 0..3000 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let bytes = 1 + (random >> 32) as usize % (LARGEST >> (random % 12));
                        came(may, bytes);
                        let buffer = allocator.allocate(bytes).unwrap();
                        came(was, bytes);
                        let other = {
                            let mut shared = shared.lock().unwrap();
                            shared.push(buffer);
                            let keep = (random >> 20) as usize % 32;
                            (shared.len() > keep).then(|| shared.swap_remove(keep))
                        };
                        if let Some(other) = other {
                            let bytes = other.len();
                            went(was, bytes);
                            drop(other);
                            went(may, bytes);
                        }
                    }
                });
            }
        });
        let [least, most] = [&was, &may].map(|of| of[1].load(Ordering::SeqCst));
        // Calls under way do not see each other.
        let most = most + THREADS * (tolerance(most) + LARGEST as u64);
        let stats = allocator.stats();
        let peak = stats.live.peak;
        assert!(
            (least..=most).contains(&peak),
            "{peak} of {least} to {most}"
        );
        assert_eq!(stats.live.value, was[0].load(Ordering::SeqCst));
    }
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

/// The thread of a queue whose function gives the pool's last buffers back has a cache of the pool, which must not keep
/// the pool, whose queues keep the thread.
#[test]
fn the_last_free_on_a_queues_own_thread_keeps_nothing() {
    let fake = || Arc::new(FakeDiscrete::builder().build().unwrap());
    // Like CUDA, whose driver must not be called there: the pool ends on a thread of its own.
    let apart = FaultyDevice::new(fake()).without_calls_from_functions();
    let devices: [Arc<dyn Device>; 3] = [
        Arc::new(HostDevice::new().unwrap()),
        fake(),
        Arc::new(apart),
    ];
    for device in devices {
        let (released, is_released) = channel::<()>();
        let given = Arc::clone(&device);
        // A thread of its own, whose caches are gone with it.
        let submit = thread::spawn(move || {
            let allocator = Allocator::builder(given).build().unwrap();
            let queue = allocator.create_queue().unwrap();
            let buffers = [KIB, MIB].map(|bytes| allocator.allocate(bytes).unwrap());
            let function = move || {
                is_released.recv().unwrap();
                drop(buffers);
            };
            queue.call(function).unwrap();
        });
        submit.join().unwrap();
        released.send(()).unwrap();
        let start = std::time::Instant::now();
        while Arc::strong_count(&device) > 1 {
            assert!(
                start.elapsed().as_secs() < 20,
                "{:?}: the pool is still there",
                device.properties().kind
            );
            thread::yield_now();
        }
        let budget = device.budget().unwrap();
        if device.properties().kind != DeviceKind::Host {
            assert_eq!(budget.available, Some(budget.total), "memory stays");
        }
    }
}

/// What a queue's thread cached keeps the pool, which keeps the queue, with which its thread ends.
#[test]
fn a_queues_thread_that_cached_something_does_not_keep_a_closed_pool() {
    let device: Arc<dyn Device> = Arc::new(HostDevice::new().unwrap());
    let allocator = Allocator::builder(Arc::clone(&device)).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let last = allocator.allocate(MIB).unwrap();
    let ((cached, is_cached), (end, may_end)) = (channel(), channel::<()>());
    let handle = allocator.clone();
    let function = move || {
        drop(handle.allocate(KIB).unwrap());
        drop(handle);
        cached.send(()).unwrap();
        may_end.recv().unwrap();
    };
    let over = queue.call(function).unwrap();
    is_cached.recv().unwrap();
    // Its work goes on, so it is not forgotten.
    drop((queue, allocator));
    end.send(()).unwrap();
    over.wait(None).unwrap();
    drop((over, last));
    let start = std::time::Instant::now();
    while Arc::strong_count(&device) > 1 {
        assert!(start.elapsed().as_secs() < 20, "the pool is still there");
        thread::yield_now();
    }
}

/// Small blocks that lie idle in threads' caches stay there while large ones are wanted only as long as they are little
/// beside what is live.
#[test]
fn much_idle_small_memory_serves_large_requests() {
    let allocator = allocator(None);
    let mut live: Vec<Buffer> = (0..1024)
        .map(|number| allocator.allocate(MIB + number % 7 * 4 * KIB).unwrap())
        .collect();
    // What threads may keep is divided anew.
    let other = allocator.clone();
    thread::spawn(move || drop(other.allocate(1000).unwrap()))
        .join()
        .unwrap();
    let sizes = (0..200).flat_map(|step| [13 * KIB + step * 256; 100]);
    let small: Vec<Buffer> = sizes
        .map(|bytes| allocator.allocate(bytes).unwrap())
        .collect();
    drop(small);
    live.extend((0..700).map(|number| {
        let bytes = MIB + 64 * KIB + number % 13 * 4 * KIB;
        allocator.allocate(bytes).unwrap()
    }));
    let stats = allocator.stats();
    let beyond = stats.reserved.value - stats.live.value;
    assert!(beyond <= stats.live.value / 25, "{stats}");
}
