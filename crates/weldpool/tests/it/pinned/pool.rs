//! What a pool of pinned memory does alone: reuse, growth in the background, waits, limits, fallback.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::pinned::{PinnedConfig, PinnedPool};
use weldpool::transfer::{Copier, CopyOptions, CopyPath};
use weldpool::{Allocator, ErrorKind, Export, Request, StorageMode};

use super::{Gate, LONG, MIB, OBTAINING, eventually, faulty};

const MIB_U64: u64 = MIB as u64;

fn pool(allocator: &Allocator, change: impl FnOnce(&mut PinnedConfig)) -> PinnedPool {
    let mut config = PinnedConfig::default();
    change(&mut config);
    PinnedPool::builder(allocator)
        .config(config)
        .build()
        .unwrap()
}

#[test]
fn memory_is_pinned_in_steps_and_reused_without_another() {
    let allocator = Allocator::host().unwrap();
    let pool = pool(&allocator, |config| {
        config.growth_bytes = 4 * MIB;
        config.wait_max = LONG;
    });
    let mut first = pool
        .allocate_with(&Request::new(18 * MIB).name("staging"))
        .unwrap();
    assert!(first.is_pinned());
    assert_eq!(
        (first.name(), first.storage_mode()),
        ("staging", StorageMode::Shared)
    );
    first.write::<u8>().unwrap().fill(3);
    assert_eq!(first.read::<u8>().unwrap()[18 * MIB - 1], 3);
    let grown = pool.stats();
    assert_eq!(
        (grown.growths, grown.waits),
        (5, 1),
        "four MiB at a time: {grown}"
    );
    assert!(grown.growth_bytes >= 18 * MIB_U64 && grown.growth_bytes <= 20 * MIB_U64);
    assert!(grown.growth_longest <= grown.growth_time && grown.growth_time <= grown.wait_time);
    drop(first);
    for _ in 0..100 {
        assert!(pool.allocate(18 * MIB).unwrap().is_pinned());
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.growths, stats.waits),
        (grown.growths, grown.waits),
        "{stats}"
    );
    assert_eq!(
        (stats.live.value, stats.live.peak, stats.live.total),
        (0, 1, 101)
    );
    assert_eq!(stats.live_bytes.peak, 18 * MIB_U64);
    assert_eq!((stats.pageable.total, stats.growing_bytes), (0, 0));
    assert!((stats.pinned_share() - 1.0).abs() < 1e-9);
}

/// A driver that does not come back: the caller waits no longer than it said, and gets pageable memory; what is
/// pinned then serves the next.
#[test]
fn a_slow_driver_costs_a_bounded_wait_and_the_next_is_served() {
    for on_host in [true, false] {
        let (device, allocator) = match on_host {
            true => faulty(HostDevice::new().unwrap()),
            false => faulty(FakeDiscrete::new().unwrap()),
        };
        let pool = pool(&allocator, |_| {});
        let gate = Gate::before(&device);
        let start = Instant::now();
        let mut pageable = pool.allocate(32 * MIB).unwrap();
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(10), "{waited:?}");
        assert!(waited < Duration::from_secs(5), "{waited:?}");
        assert!(!pageable.is_pinned());
        pageable.write::<u8>().unwrap().fill(1);
        let stats = pool.stats();
        assert_eq!((stats.waits, stats.growths), (1, 0), "{stats}");
        assert_eq!((stats.pageable.value, stats.live.value), (1, 1));
        assert_eq!(stats.pageable_bytes.value, 32 * MIB_U64);
        assert_eq!((stats.pinned(), stats.pinned_bytes()), (0, 0));
        assert!(stats.pinned_share() < 1e-9);
        assert!(stats.wait_longest >= Duration::from_millis(10) && stats.wait_longest <= waited);
        assert!(stats.growing_bytes >= 32 * MIB_U64);
        gate.open();
        eventually("it is pinned", || pool.stats().growing_bytes == 0);
        assert!(pool.allocate(32 * MIB).unwrap().is_pinned());
        drop(pageable);
        let stats = pool.stats();
        assert_eq!((stats.pageable.value, stats.pageable.total), (0, 1));
        assert_eq!(stats.growths, if on_host { 4 } else { 1 }, "{stats}");
    }
}

#[test]
fn whoever_asks_again_and_again_is_given_no_more_than_once() {
    let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
    let pool = pool(&allocator, |config| {
        config.wait_max = Duration::from_millis(1);
    });
    let gate = Gate::before(&device);
    for _ in 0..8 {
        assert!(!pool.allocate(32 * MIB).unwrap().is_pinned());
    }
    let owed = pool.stats().growing_bytes;
    assert!((32 * MIB_U64..40 * MIB_U64).contains(&owed), "{owed}");
    // Two at once need it twice.
    let both = [(); 2].map(|()| pool.allocate(32 * MIB).unwrap());
    let owed = pool.stats().growing_bytes;
    assert!((64 * MIB_U64..80 * MIB_U64).contains(&owed), "{owed}");
    gate.open();
    eventually("it is pinned", || pool.stats().growing_bytes == 0);
    drop(both);
    assert_eq!(pool.stats().growths, 2);
    let both = [(); 2].map(|()| pool.allocate(32 * MIB).unwrap());
    assert!(both.iter().all(|one| one.is_pinned()));
}

#[test]
fn without_fallback_a_slow_driver_is_an_error_that_passes() {
    let (device, allocator) = faulty(HostDevice::new().unwrap());
    let pool = pool(&allocator, |config| config.pageable_fallback = false);
    let gate = Gate::before(&device);
    let error = pool.allocate(MIB).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(pool.stats().live.value, 0);
    gate.open();
    eventually("it is pinned", || pool.stats().growing_bytes == 0);
    assert!(pool.allocate(MIB).unwrap().is_pinned());
}

#[test]
fn a_failing_driver_is_not_waited_for() {
    for fallback in [true, false] {
        let (device, allocator) = faulty(HostDevice::new().unwrap());
        let pool = pool(&allocator, |config| {
            config.wait_max = Duration::from_secs(60);
            config.pageable_fallback = fallback;
        });
        for call in OBTAINING {
            device.fail(call, ErrorKind::OutOfMemory, 3);
        }
        let start = Instant::now();
        for number in 1..=3 {
            let asked = pool.allocate(MIB);
            match asked {
                Ok(buffer) => assert!(fallback && !buffer.is_pinned()),
                Err(error) => {
                    assert!(!fallback);
                    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                }
            }
            let stats = pool.stats();
            assert_eq!((stats.growth_failures, stats.growing_bytes), (number, 0));
        }
        assert!(start.elapsed() < Duration::from_secs(30), "nobody waited");
        // It is tried again, and works.
        assert!(pool.allocate(MIB).unwrap().is_pinned());
        assert_eq!(pool.stats().live.value, 0);
    }
}

#[test]
fn no_more_are_out_than_allowed_and_none_is_larger() {
    let allocator = Allocator::host().unwrap();
    let pool = PinnedPool::builder(&allocator).build().unwrap();
    assert_eq!(pool.config().allocations_max, 64);
    let mut out: Vec<_> = (0..64).map(|_| pool.allocate(1000).unwrap()).collect();
    let error = pool.allocate(1000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let text = error.to_string();
    assert!(text.contains("64 pinned allocations are out"), "{text}");
    assert_eq!(error.requested_bytes(), Some(1000));
    out.pop();
    out.push(pool.allocate(1000).unwrap());
    let error = pool.allocate((1 << 28) + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(error.to_string().contains("268435456"), "{error}");
    // What fails for another reason gives its place back.
    drop(out);
    for _ in 0..100 {
        let error = pool.allocate(0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.refused, stats.live.value, stats.live.peak),
        (2, 0, 64)
    );
}

#[test]
fn wrong_configurations_are_refused_by_name() {
    type Change = fn(&mut PinnedConfig);
    let allocator = Allocator::host().unwrap();
    let build = |change: Change| {
        let mut config = PinnedConfig::default();
        change(&mut config);
        PinnedPool::builder(&allocator).config(config).build()
    };
    let wrong: [(&str, Change); 5] = [
        ("allocations_max", |config| config.allocations_max = 0),
        ("allocations_max", |config| config.allocations_max = 2 << 20),
        ("allocation_bytes_max", |config| {
            config.allocation_bytes_max = 0;
        }),
        ("growth_bytes", |config| config.growth_bytes = 0),
        ("wait_max", |config| {
            config.wait_max = Duration::from_secs(61);
        }),
    ];
    for (field, change) in wrong {
        let error = build(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(field), "{error}");
    }
}

/// A large request is pinned step by step; a small one that comes meanwhile waits for one step, not for all.
#[test]
fn a_small_request_does_not_wait_for_a_large_one() {
    let (device, allocator) = faulty(HostDevice::new().unwrap());
    let pool = pool(&allocator, |config| {
        config.growth_bytes = MIB;
        config.wait_max = Duration::from_secs(60);
    });
    device.before(OBTAINING[1], || {
        thread::sleep(Duration::from_millis(10));
    });
    let large = {
        let pool = pool.clone();
        thread::spawn(move || pool.allocate(128 * MIB).unwrap().is_pinned())
    };
    eventually("it grows", || pool.stats().growths > 1);
    let small = pool.allocate(600 << 10).unwrap();
    let left = pool.stats().growing_bytes;
    assert!(small.is_pinned());
    assert!(
        left > 32 * MIB_U64,
        "the large one is far from done: {left}"
    );
    assert!(large.join().unwrap());
}

#[test]
fn what_is_freed_serves_who_waits() {
    let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
    let pool = pool(&allocator, |config| {
        config.wait_max = Duration::from_secs(60);
        config.pageable_fallback = false;
    });
    let only = pool.allocate(8 * MIB).unwrap();
    let gate = Gate::before(&device);
    let waiting = {
        let pool = pool.clone();
        thread::spawn(move || {
            let start = Instant::now();
            let buffer = pool.allocate(8 * MIB);
            (
                buffer.is_ok_and(|buffer| buffer.is_pinned()),
                start.elapsed(),
            )
        })
    };
    gate.await_caller();
    drop(only);
    let (served, after) = waiting.join().unwrap();
    assert!(served && after < Duration::from_secs(30), "{after:?}");
    gate.open();
}

#[test]
fn a_pool_may_be_dropped_while_it_grows() {
    let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
    let pool = pool(&allocator, |config| {
        config.wait_max = Duration::ZERO;
    });
    let gate = Gate::before(&device);
    let buffer = pool.allocate(MIB).unwrap();
    assert!(!buffer.is_pinned());
    gate.await_caller();
    let ended = thread::spawn(move || drop(pool));
    thread::sleep(Duration::from_millis(20));
    assert!(!ended.is_finished(), "it waits for the step");
    gate.open();
    ended.join().unwrap();
    // The buffer lives on, and knows where its place was.
    drop(buffer);
    assert!(allocator.clear() > 0, "what was obtained is there");
    assert_eq!(device.held().bytes(), 0);
}

#[test]
fn so_much_as_was_asked_for_is_kept_ready() {
    let allocator = Allocator::host().unwrap();
    let pool = pool(&allocator, |config| {
        config.growth_bytes = 2 * MIB;
        config.reserve_bytes = 8 * MIB_U64;
        config.wait_max = LONG;
    });
    let ready = || allocator.stats().free_bytes >= 8 * MIB_U64;
    eventually("it is ready", ready);
    let mut out = Vec::new();
    for _ in 0..6 {
        out.push(pool.allocate(3 * MIB).unwrap());
        eventually("it is ready again", ready);
    }
    let stats = pool.stats();
    assert_eq!((stats.waits, stats.pageable.total), (0, 0), "{stats}");
    assert!(stats.growth_bytes <= (18 + 8 + 4) * MIB_U64, "{stats}");
    drop(out);
    // At rest nothing more is obtained.
    let growths = pool.stats().growths;
    for _ in 0..50 {
        drop(pool.allocate(3 * MIB).unwrap());
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(pool.stats().growths, growths);
}

#[test]
fn queues_copy_from_and_to_pinned_and_pageable_buffers() {
    let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
    let queue = allocator.create_queue().unwrap();
    let pool = pool(&allocator, |config| {
        config.wait_max = LONG;
    });
    let mut source = pool.allocate(MIB).unwrap();
    for call in OBTAINING {
        device.fail(call, ErrorKind::OutOfMemory, 1);
    }
    let mut target = pool.allocate(16 * MIB).unwrap();
    assert!(source.is_pinned() && !target.is_pinned());
    assert!(source.binding().device_address.is_some() && target.binding().device_address.is_none());
    source.write::<u32>().unwrap().fill(7);
    let private = Request::new(MIB).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private).unwrap();
    queue.copy(&source, &mut middle).unwrap();
    queue.copy(&middle, &mut target).unwrap();
    source.free_on(&queue);
    target.wait(Some(LONG)).unwrap();
    assert_eq!(target.read::<u32>().unwrap()[..MIB / 4], vec![7; MIB / 4]);
    target.free_on(&queue);
    let stats = pool.stats();
    assert_eq!((stats.live.value, stats.live_bytes.value), (0, 0));
}

#[test]
fn a_pinned_buffer_is_copied_without_waiting_and_comes_back() {
    let allocator = Allocator::builder(Arc::new(FakeDiscrete::new().unwrap()))
        .build()
        .unwrap();
    let pool = pool(&allocator, |config| config.wait_max = LONG);
    let mut source = pool.allocate(MIB).unwrap();
    source.write::<u32>().unwrap().fill(7);
    let private = Request::new(MIB).storage(StorageMode::Private);
    let middle = allocator.allocate_with(&private).unwrap();
    let copier = Copier::new().unwrap();
    let up = copier.copy_async(source, middle, CopyOptions::new());
    let up = up.wait().unwrap();
    assert_eq!(up.result.unwrap().path, CopyPath::Direct);
    assert!(up.source.is_pinned());
    let target = pool.allocate(MIB).unwrap();
    let down = copier.copy_async(up.destination, target, CopyOptions::new());
    let down = down.wait().unwrap();
    assert_eq!(
        down.destination.read::<u32>().unwrap()[..],
        vec![7; MIB / 4]
    );
}

/// Metal has no use for memory that is not an object of its own.
#[test]
fn on_apple_pageable_memory_is_refused_by_queues() {
    let (device, allocator) = {
        let apple = Arc::new(FakeApple::new().unwrap());
        let allocator = Allocator::builder(apple.clone()).build().unwrap();
        (apple, allocator)
    };
    allocator.set_reserved_bytes_max(Some(1)).unwrap();
    let pool = pool(&allocator, |_| {});
    let mut buffer = pool.allocate(MIB).unwrap();
    assert!(!buffer.is_pinned());
    let queue = allocator.create_queue().unwrap();
    let error = queue.fill(&mut buffer, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    // The driver is not asked.
    assert_eq!(device.violations(), []);
}

#[test]
fn statistics_are_a_line_and_a_structure() {
    let allocator = Allocator::host().unwrap();
    let pool = pool(&allocator, |config| config.wait_max = LONG);
    let buffer = pool.allocate(5000).unwrap();
    let stats = pool.stats();
    let line = stats.to_string();
    assert!(
        line.starts_with("1 out (peak 1) with 5000 bytes (peak 5000), pageable 0 of 1 so far"),
        "{line}"
    );
    let json = serde_json::to_value(stats).unwrap();
    assert_eq!(json["live"]["value"], 1);
    assert_eq!(json["pinned_bytes"], 5000);
    assert_eq!(json["growths"], stats.growths);
    assert!(json["growth_longest_seconds"].is_f64());
    drop(buffer);
}

#[test]
fn memory_for_others_is_not_of_the_pool() {
    let allocator = Allocator::host().unwrap();
    let pool = pool(&allocator, |_| {});
    for request in [
        Request::new(MIB).exportable(Export::FileDescriptor),
        Request::new(MIB).visible_to_peers(true),
    ] {
        let error = pool.allocate_with(&request.name("shared")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        assert_eq!(error.requested_name(), Some("shared"));
    }
    let stats = pool.stats();
    assert_eq!((stats.live.total, stats.waits), (0, 0));
}

/// Of what others of the allocator free the pool hears nothing, and looks when its time is up.
#[test]
fn what_others_freed_serves_whoever_is_late() {
    let (device, allocator) = faulty(HostDevice::new().unwrap());
    let pool = pool(&allocator, |config| {
        config.wait_max = Duration::from_secs(1);
    });
    let foreign = allocator.allocate(8 * MIB).unwrap();
    let gate = Gate::before(&device);
    let caller = pool.clone();
    let asking = thread::spawn(move || caller.allocate(4 * MIB).unwrap().is_pinned());
    gate.await_caller();
    drop(foreign);
    eventually("it is served", || asking.is_finished());
    gate.open();
    assert!(asking.join().unwrap());
}

#[test]
fn a_request_for_held_memory_is_served_at_once_or_busy() {
    let (device, allocator) = faulty(FakeDiscrete::new().unwrap());
    let pool = pool(&allocator, |config| config.wait_max = LONG);
    let held = Request::new(MIB).name("held").held_only(true);
    let calls = device.calls();
    let error = pool.allocate_with(&held).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert_eq!(error.requested_bytes(), Some(MIB));
    assert_eq!((device.calls(), pool.stats().waits), (calls, 0));
    assert_eq!(pool.stats().live.value, 0);
    drop(pool.allocate(MIB).unwrap());
    assert!(pool.allocate_with(&held).unwrap().is_pinned());
}

#[test]
fn no_more_is_kept_ready_than_there_can_be() {
    let allocator = |limit| {
        let config = weldpool::Config {
            reserved_bytes_max: limit,
            ..weldpool::Config::default()
        };
        let device = Arc::new(FakeDiscrete::new().unwrap());
        Allocator::builder(device).config(config).build().unwrap()
    };
    for (limit, reserve_bytes, whose) in [
        (Some(32 * MIB_U64), 64 * MIB_U64, "reserved_bytes_max"),
        (None, u64::MAX, "memory"),
    ] {
        let config = PinnedConfig {
            reserve_bytes,
            ..PinnedConfig::default()
        };
        let builder = PinnedPool::builder(&allocator(limit)).config(config);
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let text = error.to_string();
        assert!(
            text.contains("reserve_bytes") && text.contains(whose),
            "{text}"
        );
    }
}

#[test]
fn what_the_driver_says_without_fallback_says_what_was_asked_and_how_the_pool_stood() {
    let device = FakeDiscrete::builder().pinned_memory(2 * MIB_U64);
    let allocator = Allocator::builder(Arc::new(device.build().unwrap()));
    let allocator = allocator.build().unwrap();
    let pool = pool(&allocator, |config| {
        config.pageable_fallback = false;
        config.wait_max = LONG;
    });
    let request = Request::new(10 * MIB).name("batch");
    let error = pool.allocate_with(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(error.requested_bytes(), Some(10 * MIB));
    assert!(error.pool_state().is_some() && error.advice().is_some());
    assert!(error.to_string().contains("\"batch\""), "{error}");
}
