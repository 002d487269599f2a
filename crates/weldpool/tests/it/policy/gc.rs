//! Collection of idle memory in the background.

use std::time::{Duration, Instant};

use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::{Allocator, Config};

use super::{MIB, on_apple, on_host};

const SHORT: Duration = Duration::from_millis(10);

fn config(policy: GcPolicy) -> Config {
    Config {
        gc: GcConfig {
            enabled: true,
            interval: SHORT,
            policy,
        },
        ..Config::default()
    }
}

fn until(allocator: &Allocator, condition: impl Fn(&weldpool::Stats) -> bool) {
    let start = Instant::now();
    loop {
        let stats = allocator.stats();
        if condition(&stats) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{stats:?}");
        std::thread::sleep(SHORT);
    }
}

#[test]
fn idle_memory_that_grew_old_goes_back() {
    for make in [on_host, on_apple] {
        let allocator = make(config(GcPolicy {
            fragmentation_max: 1.0,
            idle_max: Some(Duration::from_millis(60)),
            ..GcPolicy::default()
        }));
        let live = allocator.allocate(8 * MIB).unwrap();
        let idle: Vec<_> = (0..4)
            .map(|_| allocator.allocate(8 * MIB).unwrap())
            .collect();
        drop(idle);
        assert!(allocator.stats().cached_bytes >= 32 << 20);
        until(&allocator, |stats| stats.cached_bytes == 0);
        let stats = allocator.stats();
        assert!(stats.gc.collections > 0);
        assert!(stats.gc.given_back_bytes >= 32 << 20, "{:?}", stats.gc);
        assert_eq!(stats.reserved.value, 8 << 20);
        drop(live);
    }
}

#[test]
fn memory_in_use_again_and_again_stays() {
    let allocator = on_apple(config(GcPolicy {
        fragmentation_max: 1.0,
        idle_max: Some(Duration::from_secs(3600)),
        ..GcPolicy::default()
    }));
    drop(allocator.allocate(8 * MIB).unwrap());
    until(&allocator, |stats| stats.gc.runs >= 5);
    let stats = allocator.stats();
    assert_eq!(stats.gc.given_back_bytes, 0);
    assert_eq!(stats.cached_bytes, 8 << 20);
}

#[test]
fn above_the_high_watermark_it_trims_to_the_low_one() {
    let allocator = on_apple(Config {
        reserved_bytes_max: Some(100 << 20),
        cached_bytes_max: Some(100 << 20),
        ..config(GcPolicy {
            fragmentation_max: 1.0,
            idle_max: None,
            ..GcPolicy::default()
        })
    });
    let live = allocator.allocate(8 * MIB).unwrap();
    let idle: Vec<_> = (0..11)
        .map(|_| allocator.allocate(8 * MIB).unwrap())
        .collect();
    drop(idle);
    until(&allocator, |stats| stats.reserved.value <= 70 << 20);
    let stats = allocator.stats();
    assert!(
        stats.reserved.value > 60 << 20,
        "no more than asked: {stats}"
    );
    drop(live);
}

#[test]
fn fragmented_memory_is_drained_and_trimmed() {
    let allocator = on_apple(config(GcPolicy {
        idle_max: None,
        ..GcPolicy::default()
    }));
    let live = allocator.allocate(8 * MIB).unwrap();
    let idle: Vec<_> = (0..8)
        .map(|_| allocator.allocate(8 * MIB).unwrap())
        .collect();
    drop(idle);
    let _joined = allocator.set_cached_bytes_max(1 << 40);
    // Free ranges of several segments: none of them is most of what is free.
    until(&allocator, |stats| {
        stats.reserved.value <= 16 << 20 || stats.free_bytes == 0
    });
    drop(live);
}

#[test]
fn it_can_be_woken_and_ends_with_the_last_handle() {
    let allocator = on_host(Config {
        gc: GcConfig {
            interval: Duration::from_secs(3600),
            ..GcConfig::default()
        },
        ..Config::default()
    });
    assert!(allocator.collect_soon());
    until(&allocator, |stats| stats.gc.runs == 1);
    let buffer = allocator.allocate(MIB).unwrap();
    let start = Instant::now();
    drop(allocator);
    assert!(start.elapsed() < Duration::from_secs(30));
    drop(buffer);
    assert!(!on_host(Config::default()).collect_soon());
}
