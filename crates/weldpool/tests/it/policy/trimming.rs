//! Idle memory that nobody touched is given back, and kept, without being touched.

use std::ops::Range;
use std::time::{Duration, Instant};

use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::pressure::{ActionTable, Actions, Level, PressureConfig, Step};
use weldpool::{Allocator, Buffer, Config};

use super::{MIB, on_host};

fn range(buffer: &Buffer) -> Range<usize> {
    let start = buffer.binding().host.unwrap().as_ptr().addr();
    start..start + buffer.len()
}

/// Bytes of these addresses that are mapped, and bytes of pages that the mappings have in memory.
fn mapped_and_resident(ranges: &[Range<usize>]) -> (usize, usize) {
    let (mut mapped, mut resident, mut here) = (0, 0, false);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        if let Some(number) = rest.trim().strip_suffix(" kB") {
            if here && word == "Rss:" {
                resident += number.parse::<usize>().unwrap() << 10;
            }
        } else if let Some((start, end)) = word.split_once('-') {
            let [start, end] =
                [start, end].map(|number| usize::from_str_radix(number, 16).unwrap());
            let common = |one: &Range<usize>| one.end.min(end).saturating_sub(one.start.max(start));
            let bytes: usize = ranges.iter().map(common).sum();
            // Addresses alone may stay reserved.
            here = bytes > 0 && rest.starts_with("rw");
            mapped += if here { bytes } else { 0 };
        }
    }
    (mapped, resident)
}

fn config() -> Config {
    Config {
        cached_bytes_max: Some(64 << 20),
        ..Config::default()
    }
}

/// Gives 64 MiB of idle memory partly back in some way.
fn keep_untouched(config: Config, give_back: impl FnOnce(&Allocator)) {
    let allocator = on_host(config);
    let untouched: Vec<_> = (0..8)
        .map(|_| allocator.allocate(8 * MIB).unwrap())
        .collect();
    let ranges: Vec<_> = untouched.iter().map(range).collect();
    drop(untouched);
    assert_eq!(mapped_and_resident(&ranges), (64 * MIB, 0));
    give_back(&allocator);
    let stats = allocator.stats();
    assert!(stats.reserved.value < 64 << 20, "{stats}");
    assert!(stats.cached_bytes >= 24 << 20, "{stats}");
    let (mapped, resident) = mapped_and_resident(&ranges);
    assert_eq!(mapped as u64, stats.cached_bytes);
    assert_eq!(resident, 0);
}

#[test]
fn pages_that_were_touched_are_seen() {
    let allocator = on_host(config());
    let mut buffer = allocator.allocate(8 * MIB).unwrap();
    let there = [range(&buffer)];
    assert_eq!(mapped_and_resident(&there), (8 * MIB, 0));
    buffer.write::<u8>().unwrap()[..MIB].fill(1);
    assert_eq!(mapped_and_resident(&there), (8 * MIB, MIB));
}

#[test]
fn a_lower_limit_touches_nothing() {
    keep_untouched(config(), |allocator| {
        assert_eq!(allocator.set_cached_bytes_max(32 << 20), 64 << 20);
    });
}

#[test]
fn pressure_touches_nothing() {
    let halve = Actions::of(&[Step::HalveCacheLimit]);
    let config = Config {
        pressure: PressureConfig {
            enabled: false,
            actions: ActionTable {
                moderate: halve,
                warning: halve,
                critical: halve,
                emergency: halve,
            },
            ..PressureConfig::default()
        },
        ..config()
    };
    keep_untouched(config, |allocator| {
        let monitor = allocator.pressure().unwrap();
        let _was = monitor.signal(Level::Emergency);
        assert_eq!(monitor.check(), Level::Emergency);
    });
}

#[test]
fn collection_touches_nothing() {
    let config = Config {
        reserved_bytes_max: Some(70 << 20),
        gc: GcConfig {
            interval: Duration::from_secs(3600),
            policy: GcPolicy {
                fragmentation_max: 1.0,
                ..GcPolicy::default()
            },
            ..GcConfig::default()
        },
        ..config()
    };
    keep_untouched(config, |allocator| {
        assert!(allocator.collect_soon());
        let start = Instant::now();
        while allocator.stats().gc.given_back_bytes == 0 {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
