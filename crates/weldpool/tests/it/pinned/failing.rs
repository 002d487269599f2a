//! A driver that gives no memory any more, however often it is asked.

use std::thread;
use std::time::{Duration, Instant};

use weldpool::ErrorKind;
use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::pinned::{PinnedConfig, PinnedPool};

use super::{MIB, OBTAINING, eventually, faulty};

const WAIT: Duration = Duration::from_millis(200);
/// What a call may take beyond the wait on a busy machine.
const LATE: Duration = Duration::from_secs(5);
/// Calls of the driver that one request may cause: steps for it, each with what recovery asks besides.
const CALLS_MAX: u64 = 16;

#[test]
fn callers_get_pageable_memory_in_time_and_nobody_asks_in_vain() {
    for on_host in [true, false] {
        for kind in [ErrorKind::Busy, ErrorKind::OutOfMemory] {
            for reserve_bytes in [0, 8 * MIB as u64] {
                let what = format!("host {on_host}, {kind:?}, {reserve_bytes} ahead");
                let (device, allocator) = match on_host {
                    true => faulty(HostDevice::new().unwrap()),
                    false => faulty(FakeDiscrete::new().unwrap()),
                };
                for call in OBTAINING {
                    device.fail(call, kind, usize::MAX);
                }
                let pool = PinnedPool::builder(&allocator)
                    .config(PinnedConfig {
                        wait_max: WAIT,
                        reserve_bytes,
                        ..PinnedConfig::default()
                    })
                    .build()
                    .unwrap();
                let before = device.calls();
                let mut out = Vec::new();
                for number in 1..=20_u64 {
                    let start = Instant::now();
                    let mut buffer = pool.allocate(MIB).unwrap();
                    let took = start.elapsed();
                    assert!(took < WAIT + LATE, "{what}: {took:?}");
                    assert!(!buffer.is_pinned(), "{what}");
                    buffer.write::<u8>().unwrap().fill(1);
                    out.push(buffer);
                    let stats = pool.stats();
                    assert_eq!((stats.pageable.value, stats.growths), (number, 0), "{what}");
                    assert_eq!(stats.waits, number, "{what}");
                    assert!(stats.wait_longest < WAIT + LATE, "{what}: {stats}");
                }
                // Nobody wants anything, so the thread is to rest; what it is at comes to an end.
                let mut calls = device.calls();
                eventually("the thread rests", || {
                    thread::sleep(Duration::from_millis(50));
                    calls == std::mem::replace(&mut calls, device.calls())
                });
                let made = device.calls() - before;
                assert!(made <= 20 * CALLS_MAX, "{what}: {made} calls of the driver");
                thread::sleep(Duration::from_millis(100));
                assert_eq!(device.calls(), calls, "{what}: it asks and asks");
                let failures = pool.stats().growth_failures;
                assert!((1..=60).contains(&failures), "{what}: {failures} steps");

                // The end is waited for by nobody, with memory out and with somebody who waits.
                let start = Instant::now();
                drop(pool);
                assert!(start.elapsed() < LATE, "{what}: {:?}", start.elapsed());
                drop(out);
                assert_eq!(device.held().bytes(), 0, "{what}");
            }
        }
    }
}

/// A driver that takes longer than anybody waits, and fails then.
#[test]
fn a_slow_failure_is_waited_for_no_longer_than_a_slow_success() {
    let wait_max = Duration::from_millis(5);
    let (device, allocator) = faulty(HostDevice::new().unwrap());
    for call in OBTAINING {
        device.before(call, || thread::sleep(Duration::from_millis(40)));
        device.fail(call, ErrorKind::OutOfMemory, usize::MAX);
    }
    let pool = PinnedPool::builder(&allocator)
        .config(PinnedConfig {
            wait_max,
            ..PinnedConfig::default()
        })
        .build()
        .unwrap();
    let out: Vec<_> = (0..10).map(|_| pool.allocate(MIB).unwrap()).collect();
    assert!(out.iter().all(|buffer| !buffer.is_pinned()));
    let stats = pool.stats();
    assert_eq!((stats.waits, stats.pageable.value), (10, 10), "{stats}");
    assert!(stats.wait_longest < wait_max + LATE, "{stats}");
    eventually("what is owed is given up", || {
        pool.stats().growing_bytes == 0
    });
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < LATE, "{:?}", start.elapsed());
}

/// The same driver, later: what it gives then is pinned again.
#[test]
fn when_the_driver_gives_memory_again_it_is_used() {
    for kind in [ErrorKind::Busy, ErrorKind::OutOfMemory] {
        let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
        for call in OBTAINING {
            device.fail(call, kind, usize::MAX);
        }
        let pool = PinnedPool::builder(&allocator)
            .config(PinnedConfig {
                wait_max: Duration::from_secs(30),
                ..PinnedConfig::default()
            })
            .build()
            .unwrap();
        for _ in 0..5 {
            assert!(!pool.allocate(MIB).unwrap().is_pinned(), "{kind:?}");
        }
        device.clear_faults();
        assert!(pool.allocate(MIB).unwrap().is_pinned(), "{kind:?}");
    }
}
