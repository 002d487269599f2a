//! The allocator's answers to memory pressure.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use weldpool::pressure::{ActionTable, Actions, Level, PressureConfig, PressureEvent, Step};
use weldpool::{Config, Preset};

use super::{MIB, on_apple, on_host};

/// Every level does this alone.
fn only(steps: &[Step]) -> PressureConfig {
    let actions = Actions::of(steps);
    PressureConfig {
        enabled: false,
        repeat: Duration::from_millis(10),
        actions: ActionTable {
            moderate: actions,
            warning: actions,
            critical: actions,
            emergency: actions,
        },
        ..PressureConfig::default()
    }
}

fn config(steps: &[Step]) -> Config {
    Config {
        cached_bytes_max: Some(64 << 20),
        pressure: only(steps),
        ..Config::default()
    }
}

#[test]
fn each_step_does_what_it_says() {
    for make in [on_host, on_apple] {
        let idle_after = |steps: &[Step]| {
            let allocator = make(config(steps));
            let buffers: Vec<_> = (0..5)
                .map(|_| allocator.allocate(8 * MIB).unwrap())
                .collect();
            drop(buffers);
            let before = allocator.stats();
            assert_eq!(before.cached_bytes, 40 << 20, "{before}");
            let monitor = allocator.pressure().unwrap();
            let _signalled = monitor.signal(Level::Emergency);
            assert_eq!(monitor.check(), Level::Emergency);
            let stats = allocator.stats();
            assert_eq!(stats.pressure_level, Level::Emergency);
            assert_eq!(stats.pressure_events, 1);
            let returned = before.reserved.value - stats.reserved.value;
            assert_eq!(stats.pressure_returned_bytes, returned);
            stats.cached_bytes
        };
        assert_eq!(idle_after(&[]), 40 << 20);
        assert_eq!(
            idle_after(&[Step::TrimEmptySegments]),
            40 << 20,
            "what threads cache is not free"
        );
        assert_eq!(idle_after(&[Step::DrainThreadCaches]), 40 << 20);
        assert_eq!(idle_after(&[Step::DrainLargeBlocks]), 40 << 20);
        for drain in [Step::DrainThreadCaches, Step::DrainLargeBlocks] {
            assert_eq!(
                idle_after(&[drain, Step::TrimEmptySegments]),
                0,
                "{drain:?}"
            );
        }
        assert_eq!(idle_after(&[Step::ReturnIdle]), 0);
        assert!(idle_after(&[Step::HalveCacheLimit]) <= 32 << 20);
        assert_eq!(idle_after(&[Step::RefuseCacheGrowth]), 40 << 20);
        assert_eq!(idle_after(&Step::ALL), 0);
    }
}

#[test]
fn small_blocks_stay_in_caches_until_pressure_is_critical() {
    let allocator = on_host(Config {
        pressure: PressureConfig {
            enabled: false,
            ..PressureConfig::default()
        },
        ..config(&[])
    });
    let large: Vec<_> = (0..4)
        .map(|_| allocator.allocate(4 * MIB).unwrap())
        .collect();
    let small: Vec<_> = (0..16)
        .map(|_| allocator.allocate(MIB / 2).unwrap())
        .collect();
    drop((large, small));
    let monitor = allocator.pressure().unwrap();
    let mut idle = Vec::new();
    for level in [Level::Moderate, Level::Critical] {
        monitor.signal(level);
        assert!(monitor.check() >= level);
        idle.push(allocator.stats().cached_bytes);
    }
    assert!((1 << 20..=8 << 20).contains(&idle[0]), "{idle:?}");
    assert_eq!(idle[1], 0);
}

#[test]
fn large_blocks_that_a_class_keeps_go_under_pressure() {
    for make in [on_host, on_apple] {
        let mut config = Preset::Pooling.config();
        config.gc.enabled = false;
        config.pressure.enabled = false;
        let allocator = make(config);
        let take = |bytes: usize, count: usize| -> Vec<_> {
            let buffers = (0..count).map(|_| allocator.allocate(bytes).unwrap());
            buffers.collect()
        };
        drop((take(4 * MIB, 8), take(MIB, 2)));
        assert_eq!(allocator.stats().cached_bytes, 34 << 20);
        let monitor = allocator.pressure().unwrap();
        monitor.signal(Level::Moderate);
        assert_eq!(monitor.check(), Level::Moderate);
        let stats = allocator.stats();
        assert_eq!(stats.cached_bytes, 2 << 20, "{stats}");
    }
}

#[test]
fn limits_on_caches_hold_while_the_level_does() {
    for (step, most) in [
        (Step::HalveCacheLimit, 32_u64 << 20),
        (Step::RefuseCacheGrowth, 8 << 20),
    ] {
        let allocator = on_apple(config(&[step]));
        let fill = || {
            let buffers: Vec<_> = (0..6)
                .map(|_| allocator.allocate(8 * MIB).unwrap())
                .collect();
            drop(buffers);
            allocator.stats().cached_bytes
        };
        drop(allocator.allocate(8 * MIB).unwrap());
        let monitor = allocator.pressure().unwrap();
        let _normal = monitor.signal(Level::Warning);
        monitor.check();
        let held = fill();
        assert!(held <= most + (8 << 20), "{step:?}: {held}");
        // Pressure goes on, and the step is taken again.
        std::thread::sleep(Duration::from_millis(20));
        monitor.check();
        assert!(fill() <= most + (8 << 20));
        let _warning = monitor.clear();
        assert_eq!(monitor.check(), Level::Normal);
        assert_eq!(fill(), 48 << 20, "{step:?} was lifted");
        assert_eq!(allocator.set_cached_bytes_max(1 << 20), 64 << 20);
    }
}

#[test]
fn reserved_against_the_limit_is_pressure() {
    let allocator = on_host(Config {
        reserved_bytes_max: Some(100 << 20),
        pressure: only(&[]),
        ..Config::default()
    });
    let _live = allocator.allocate(91 * MIB).unwrap();
    let stats = allocator.stats();
    assert!((0.9..0.97).contains(&stats.pressure), "{}", stats.pressure);
    let monitor = allocator.pressure().unwrap();
    assert!(monitor.check() >= Level::Critical);
    let names: Vec<String> = monitor.sources().into_iter().map(|one| one.name).collect();
    assert!(names.iter().any(|name| name == "reserved"), "{names:?}");
    assert!(
        names.iter().any(|name| name == "budget host:0"),
        "{names:?}"
    );
    assert!(!monitor.is_running());
}

#[test]
fn the_monitor_ends_with_the_last_handle() {
    let allocator = on_host(Config {
        pressure: PressureConfig {
            interval: Duration::from_millis(10),
            ..PressureConfig::default()
        },
        ..Config::default()
    });
    let other = allocator.clone();
    let held = Arc::new(());
    let (sender, levels) = channel();
    {
        let held = Arc::clone(&held);
        let monitor = allocator.pressure().unwrap();
        assert!(monitor.is_running());
        monitor
            .on_change(move |level, _| {
                let _held = &held;
                // The test may have seen enough.
                let _ = sender.send(level);
            })
            .unwrap();
        let _normal = monitor.signal(Level::Emergency);
    }
    let start = Instant::now();
    while levels.recv_timeout(Duration::from_secs(30)).unwrap() != Level::Emergency {
        assert!(start.elapsed() < Duration::from_secs(30));
    }
    // A buffer keeps the pool, not its watch.
    let buffer = allocator.allocate(MIB).unwrap();
    drop(allocator);
    assert_eq!(Arc::strong_count(&held), 2);
    drop(other);
    assert_eq!(Arc::strong_count(&held), 1);
    drop(buffer);
}

#[test]
fn allocation_goes_on_while_pressure_is_answered() {
    let allocator = on_host(config(&Step::ALL));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2_usize {
            let (allocator, stop) = (&allocator, &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    round += 1;
                    let bytes = 1 + (round * 7919 + seed * 104_729) % (4 * MIB);
                    let mut buffer = allocator.allocate(bytes).unwrap();
                    buffer.write::<u8>().unwrap()[bytes - 1] = 1;
                }
            });
        }
        let monitor = allocator.pressure().unwrap();
        for round in 0..40 {
            let level = Level::ALL[round % 5];
            let _before = monitor.signal(level);
            monitor.check();
            std::thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.failures), (0, 0));
    // A scope ends before its threads have given back what they cached.
    let start = Instant::now();
    while allocator.stats().reserved.value > 0 {
        let _bytes = allocator.clear();
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}

/// Requests past the caches lower the level, and caches are used again, though nobody calls `check`.
#[test]
fn pressure_is_over_without_a_thread() {
    for signalled in [false, true] {
        let allocator = on_apple(Config {
            reserved_bytes_max: Some(64 << 20),
            cached_bytes_max: Some(64 << 20),
            pressure: PressureConfig {
                enabled: false,
                interval: Duration::from_millis(10),
                ..PressureConfig::default()
            },
            ..Config::default()
        });
        let monitor = allocator.pressure().unwrap();
        let (sender, levels) = channel();
        let told = move |level, _: &PressureEvent| sender.send(level).unwrap();
        monitor.on_change(told).unwrap();
        if signalled {
            let _normal = monitor.signal(Level::Emergency);
            assert_eq!(monitor.check(), Level::Emergency);
            let _emergency = monitor.clear();
        } else {
            let held: Vec<_> = (0..8)
                .map(|_| allocator.allocate(8 * MIB).unwrap())
                .collect();
            allocator.allocate(8 * MIB).unwrap_err();
            drop(held);
        }
        assert_eq!(monitor.level(), Level::Emergency);
        let start = Instant::now();
        let cached = || {
            drop(allocator.allocate(8 * MIB).unwrap());
            allocator.stats().cached_bytes
        };
        while cached() == 0 {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(monitor.level() < Level::Warning);
        let seen: Vec<Level> = levels.try_iter().collect();
        assert_eq!(seen.first(), Some(&Level::Emergency));
        assert_eq!(seen.last(), Some(&monitor.level()));
        let calls = allocator.stats().driver_calls;
        for _ in 0..100 {
            drop(allocator.allocate(8 * MIB).unwrap());
        }
        let stats = allocator.stats();
        assert_eq!(stats.driver_calls, calls, "caches serve again: {stats}");
    }
}
