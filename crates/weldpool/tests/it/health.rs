//! Each rule of the health, triggered by a program, and gone once its advice is taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::FakeApple;
use weldpool::device::host::HostDevice;
use weldpool::pressure::{ActionTable, Actions, Level, PressureConfig, Step};
use weldpool::{
    Allocator, Buffer, Config, Device, Fence, Health, HealthStatus, Request, SizeClasses,
    StorageMode,
};
use weldpool_testkit::block;

const MIB: usize = 1 << 20;

fn on(device: Arc<dyn Device>, config: Config) -> Allocator {
    Allocator::builder(device).config(config).build().unwrap()
}

fn on_host(config: Config) -> Allocator {
    on(Arc::new(HostDevice::new().unwrap()), config)
}

/// Asserts that a rule applies to the first only.
fn holds_and_is_mended(rule: &str, ill: &Health, mended: &Health) {
    assert!(ill.has(rule), "{rule} does not apply: {ill:?}");
    let finding = ill.findings.iter().find(|one| one.rule == rule).unwrap();
    assert!(
        finding
            .seen
            .contains(|letter: char| letter.is_ascii_digit())
    );
    assert!(!finding.advice.is_empty());
    assert!(ill.status >= HealthStatus::Attention);
    assert!(!mended.has(rule), "{rule} applies still: {mended:?}");
}

#[test]
fn memory_that_is_not_kept_is_missed() {
    let health = |pooling| {
        let allocator = on_host(Config {
            pooling,
            ..Config::default()
        });
        for _ in 0..1000 {
            drop(allocator.allocate(70_000).unwrap());
        }
        allocator.health()
    };
    holds_and_is_mended("hit_rate", &health(false), &health(true));
}

#[test]
fn coarse_classes_waste_what_they_round_up() {
    let health = |classes| {
        let allocator = on_host(Config {
            classes,
            ..Config::default()
        });
        let _live = [0; 16].map(|_| allocator.allocate(MIB + 100_000).unwrap());
        allocator.health()
    };
    let (seed, fine) = (SizeClasses::seed(), SizeClasses::fine());
    holds_and_is_mended("internal_fragmentation", &health(seed), &health(fine));
}

#[test]
fn idle_memory_is_waste_until_it_is_returned() {
    let peak = |config| {
        let allocator = on_host(config);
        let buffers = [0; 4].map(|_| allocator.allocate(10 * MIB).unwrap());
        drop(buffers);
        allocator
    };
    let allocator = peak(Config::default());
    let ill = allocator.health();
    let _bytes = allocator.clear();
    holds_and_is_mended("external_waste", &ill, &allocator.health());
    let bounded = peak(Config {
        cached_bytes_max: Some(8 << 20),
        ..Config::default()
    });
    holds_and_is_mended("external_waste", &ill, &bounded.health());
}

/// Frees every other buffer.
fn free_half(buffers: impl IntoIterator<Item = Buffer>) -> Vec<Buffer> {
    let numbered = buffers.into_iter().enumerate();
    let kept = numbered.filter(|(number, _)| number % 2 == 1);
    kept.map(|(_, buffer)| buffer).collect()
}

#[test]
fn holes_are_mapped_together_unless_slack_is_given() {
    let drain = Actions::of(&[Step::DrainThreadCaches]);
    let health = |slack_per_1024| {
        let allocator = on_host(Config {
            slack_per_1024,
            pressure: PressureConfig {
                enabled: false,
                actions: ActionTable {
                    moderate: drain,
                    warning: drain,
                    critical: drain,
                    emergency: drain,
                },
                ..PressureConfig::default()
            },
            ..Config::default()
        });
        // What is idle is free for any size then.
        let drain = || {
            let monitor = allocator.pressure().unwrap();
            let _normal = monitor.signal(Level::Emergency);
            monitor.check();
            let _emergency = monitor.clear();
            monitor.check();
        };
        drop(allocator.allocate(64 * MIB).unwrap());
        drain();
        let _kept = free_half([0; 512].map(|_| allocator.allocate(128 << 10).unwrap()));
        drain();
        let _larger = [0; 40].map(|_| allocator.allocate(192 << 10).unwrap());
        allocator.health()
    };
    holds_and_is_mended("external_fragmentation", &health(1024), &health(0));
}

#[test]
fn without_virtual_memory_larger_segments_have_larger_ranges() {
    let health = |segment_bytes_min| {
        let allocator = on(
            Arc::new(FakeApple::new().unwrap()),
            Config {
                segment_bytes_min,
                ..Config::default()
            },
        );
        let _kept = free_half([0; 64].map(|_| allocator.allocate(MIB).unwrap()));
        let _larger = [0; 4].map(|_| allocator.allocate(3 * MIB).unwrap());
        allocator.health()
    };
    let default = Config::default().segment_bytes_min;
    holds_and_is_mended(
        "external_fragmentation",
        &health(default),
        &health(64 << 20),
    );
}

#[test]
fn a_limit_that_is_nearly_reached_can_be_raised() {
    let allocator = on_host(Config {
        reserved_bytes_max: Some(32 << 20),
        ..Config::default()
    });
    let _live = allocator.allocate(30 * MIB).unwrap();
    let ill = allocator.health();
    let _before = allocator.set_reserved_bytes_max(Some(64 << 20)).unwrap();
    holds_and_is_mended("near_limit", &ill, &allocator.health());
}

#[test]
fn memory_that_is_out_needs_a_higher_limit() {
    let health = |reserved_bytes_max| {
        let allocator = on_host(Config {
            reserved_bytes_max: Some(reserved_bytes_max),
            wait_max: Duration::ZERO,
            ..Config::default()
        });
        let _served = allocator.allocate(20 * MIB);
        allocator.health()
    };
    let ill = health(8 << 20);
    assert_eq!(ill.status, HealthStatus::Critical);
    holds_and_is_mended("out_of_memory", &ill, &health(64 << 20));
}

#[test]
fn a_driver_that_refuses_is_not_asked_below_a_limit() {
    let health = |reserved_bytes_max| {
        let device = FakeApple::builder().memory(64 << 20).build().unwrap();
        let allocator = on(
            Arc::new(device),
            Config {
                reserved_bytes_max,
                wait_max: Duration::ZERO,
                ..Config::default()
            },
        );
        let request = Request::new(20 * MIB).storage(StorageMode::Private);
        let _live: Vec<_> = (0..8)
            .map_while(|_| allocator.allocate_with(&request).ok())
            .collect();
        allocator.health()
    };
    holds_and_is_mended("driver_failures", &health(None), &health(Some(40 << 20)));
}

#[test]
fn memory_that_goes_and_comes_back_is_thrash() {
    let health = |cached_bytes_max| {
        let allocator = on_host(Config {
            cached_bytes_max,
            ..Config::default()
        });
        for _ in 0..70 {
            drop(allocator.allocate(20 * MIB).unwrap());
        }
        allocator.health()
    };
    holds_and_is_mended("thrash", &health(Some(0)), &health(Some(64 << 20)));
}

#[test]
fn memory_freed_under_work_waits_until_the_work_is_waited_for() {
    let health = |waits: bool| {
        let allocator = on_host(Config::default());
        let queue = allocator.create_queue().unwrap();
        let (open, _) = block(&queue);
        let mut open = Some(open);
        for _ in 0..4 {
            let mut buffer = allocator.allocate(10 * MIB).unwrap();
            let fence: Fence = queue.fill(&mut buffer, 1).unwrap();
            if waits {
                open = None;
                fence.wait(None).unwrap();
            }
            drop(buffer);
        }
        let health = allocator.health();
        drop(open);
        health
    };
    holds_and_is_mended("deferred", &health(false), &health(true));
}

#[test]
fn pressure_is_reported_while_it_lasts() {
    let allocator = on_host(Config {
        pressure: PressureConfig {
            enabled: false,
            ..PressureConfig::default()
        },
        ..Config::default()
    });
    let monitor = allocator.pressure().unwrap();
    let _normal = monitor.signal(Level::Critical);
    monitor.check();
    let ill = allocator.health();
    assert_eq!(ill.status, HealthStatus::Critical);
    assert_eq!(allocator.report().health, ill);
    assert_eq!(allocator.dashboard().stats.pressure_level, Level::Critical);
    let _critical = monitor.clear();
    monitor.check();
    holds_and_is_mended("pressure", &ill, &allocator.health());
}

#[cfg(target_os = "linux")]
#[test]
fn holes_mapped_together_for_many_allocations_are_worth_some_slack() {
    let health = |slack_per_1024| {
        let allocator = on_host(Config {
            slack_per_1024,
            driver_ns_per_operation: 1_000_000,
            ..Config::default()
        });
        let mut live: Vec<Buffer> = Vec::new();
        for number in 0..2000 {
            // Each a little longer than the last, so that no hole suffices.
            live.push(allocator.allocate(MIB + number * 4096).unwrap());
            if live.len() > 32 {
                drop(live.swap_remove(number % 31));
            }
        }
        allocator.health()
    };
    holds_and_is_mended("remapping", &health(0), &health(1024));
}
