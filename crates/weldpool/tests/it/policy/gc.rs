//! Collection of idle memory in the background.

use std::time::{Duration, Instant};

use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::{Allocator, Config, Preset};

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

/// Collects when told to, by fragmentation alone.
fn by_fragmentation(fragmentation_max: f64) -> Allocator {
    let mut config = config(GcPolicy {
        fragmentation_max,
        idle_max: None,
        ..GcPolicy::default()
    });
    config.gc.interval = Duration::from_secs(3600);
    let allocator = on_apple(config);
    // What a thread cached goes to the arena when it ends: eight segments, none of them most of what is free.
    let leave = || {
        let one = |_| allocator.allocate(8 * MIB).unwrap();
        drop((0..8).map(one).collect::<Vec<_>>());
    };
    std::thread::scope(|scope| scope.spawn(leave).join().unwrap());
    let stats = allocator.stats();
    assert_eq!(stats.free_bytes, 64 << 20, "{stats}");
    assert!((stats.external_fragmentation() - 0.875).abs() < 1e-9);
    allocator
}

#[test]
fn fragmented_memory_is_trimmed() {
    let allocator = by_fragmentation(0.3);
    let live = allocator.allocate(8 * MIB).unwrap();
    assert!(allocator.stats().external_fragmentation() > 0.3);
    assert!(allocator.collect_soon());
    until(&allocator, |stats| stats.gc.given_back_bytes > 0);
    let stats = allocator.stats();
    assert_eq!(stats.gc.collections, 1);
    let returned = (64 << 20) - stats.reserved.value;
    assert_eq!(stats.gc.given_back_bytes, returned);
    // Three tenths of what is reserved may be idle; segments go back whole.
    assert!(
        (8 << 20..=16 << 20).contains(&stats.reserved.value),
        "{stats}"
    );
    assert!(stats.external_fragmentation() <= 0.3, "{stats}");
    drop(live);
}

#[test]
fn fragmentation_empties_caches_first() {
    let allocator = by_fragmentation(0.3);
    let cached: Vec<_> = (0..2)
        .map(|_| allocator.allocate(8 * MIB).unwrap())
        .collect();
    drop(cached);
    let stats = allocator.stats();
    assert_eq!((stats.free_bytes, stats.cached_bytes), (48 << 20, 64 << 20));
    assert!(allocator.collect_soon());
    until(&allocator, |stats| stats.gc.given_back_bytes > 0);
    assert_eq!(allocator.stats().reserved.value, 0, "nothing is live");
}

#[test]
fn less_fragmented_memory_than_the_threshold_stays() {
    let allocator = by_fragmentation(0.9);
    assert!(allocator.collect_soon());
    until(&allocator, |stats| stats.gc.runs > 0);
    let stats = allocator.stats();
    assert_eq!((stats.gc.collections, stats.gc.given_back_bytes), (0, 0));
    assert_eq!(stats.reserved.value, 64 << 20);
}

#[test]
fn collection_leaves_what_a_class_keeps() {
    for make in [on_host, on_apple] {
        let mut config = Preset::Pooling.config();
        config.gc.interval = SHORT;
        config.gc.policy.idle_max = Some(Duration::from_millis(60));
        let allocator = make(config);
        let held = |bytes: usize| {
            let classes = allocator.stats().classes;
            let class = classes.into_iter().find(|class| class.bytes == bytes);
            class.unwrap().held_bytes / bytes as u64
        };
        for bytes in [4096, MIB] {
            let freed: Vec<_> = (0..40)
                .map(|_| allocator.allocate(bytes).unwrap())
                .collect();
            drop(freed);
        }
        until(&allocator, |_| held(4096) <= 4 && held(MIB) <= 4);
        let runs = allocator.stats().gc.runs;
        until(&allocator, |stats| stats.gc.runs >= runs + 20);
        assert_eq!((held(4096), held(MIB)), (4, 4), "however old they get");
        let stats = allocator.stats();
        assert!(stats.gc.given_back_bytes >= 36 << 20, "{:?}", stats.gc);
        // They serve without the driver.
        let _again: Vec<_> = (0..4).map(|_| allocator.allocate(MIB).unwrap()).collect();
        assert_eq!(allocator.stats().driver_calls, stats.driver_calls);
    }
}

#[test]
fn what_a_class_keeps_is_no_surplus() {
    for make in [on_host, on_apple] {
        let mut config = Preset::Pooling.config();
        config.gc.interval = SHORT;
        config.gc.policy.idle_max = Some(Duration::from_millis(60));
        let allocator = make(config);
        let buffers: Vec<_> = (0..4)
            .map(|_| allocator.allocate(8 * MIB).unwrap())
            .collect();
        drop(buffers);
        until(&allocator, |stats| stats.gc.runs >= 20);
        let stats = allocator.stats();
        assert_eq!(stats.cached_bytes, 32 << 20);
        assert_eq!(stats.gc.collections, 0, "there is nothing to collect");
    }
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
