//! Idle memory that the system may take: volatile heaps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::fake::{Call, FakeApple};
use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::pressure::{ActionTable, Actions, Level, PressureConfig, Step};
use weldpool::{Allocator, Config, Request, StorageMode};

use super::MIB;

fn config() -> Config {
    let actions = Actions::of(&[Step::DrainLargeBlocks, Step::TrimEmptySegments]);
    Config {
        cached_bytes_max: Some(100 << 20),
        pressure: PressureConfig {
            repeat: Duration::from_millis(10),
            actions: ActionTable {
                moderate: actions,
                warning: actions,
                critical: actions,
                emergency: Actions::of(&[Step::ReturnIdle]),
            },
            enabled: false,
            ..PressureConfig::default()
        },
        ..Config::default()
    }
}

/// An allocator that has put five segments of 8 MiB away.
fn parked(config: Config) -> (Arc<FakeApple>, Allocator) {
    let device = Arc::new(FakeApple::new().unwrap());
    let builder = Allocator::builder(device.clone()).config(config);
    let allocator = builder.build().unwrap();
    drop([(); 5].map(|()| allocator.allocate(8 * MIB).unwrap()));
    assert_eq!(allocator.stats().reserved.value, 40 << 20);
    press(&allocator, Level::Moderate);
    (device, allocator)
}

fn press(allocator: &Allocator, level: Level) {
    let monitor = allocator.pressure().unwrap();
    let _before = monitor.signal(level);
    assert!(monitor.check() >= level);
}

fn held(allocator: &Allocator) -> (u64, u64) {
    let stats = allocator.stats();
    (stats.reserved.value, stats.parked.value)
}

#[test]
fn empty_segments_are_put_away_under_pressure_and_taken_back_without_a_new_heap() {
    let (device, allocator) = parked(config());
    assert_eq!(held(&allocator), (0, 40 << 20));
    assert_eq!(allocator.stats().cached_bytes, 0);
    // Metal counts volatile heaps as allocated; they are to be had all the same.
    assert_eq!(device.metal().current_allocated_size(), 40 << 20);
    let budget = weldpool::Device::budget(device.as_ref()).unwrap();
    assert_eq!(budget.available, Some(budget.total));
    let made = device.control().calls(Call::CreateSegment);
    let mut buffers = [(); 3].map(|()| allocator.allocate(8 * MIB).unwrap());
    for buffer in &mut buffers {
        buffer.write::<u8>().unwrap().fill(7);
    }
    assert_eq!(device.control().calls(Call::CreateSegment), made);
    assert_eq!(held(&allocator), (24 << 20, 16 << 20));
    let discarded = device.metal().purge_volatile(u64::MAX);
    assert_eq!(discarded, 16 << 20, "and nothing that is in use");
    assert!(
        buffers
            .iter()
            .all(|buffer| buffer.read::<u8>().unwrap()[MIB] == 7)
    );
    assert_eq!(device.violations(), []);
}

#[test]
fn what_the_system_took_is_made_anew() {
    let (device, allocator) = parked(config());
    assert_eq!(device.metal().purge_volatile(1), 8 << 20);
    let made = device.control().calls(Call::CreateSegment);
    let mut buffers = Vec::new();
    for _ in 0..5 {
        let mut buffer = allocator.allocate(8 * MIB).unwrap();
        buffer.write::<u8>().unwrap().fill(7);
        buffers.push(buffer);
    }
    assert_eq!(device.control().calls(Call::CreateSegment), made + 1);
    assert_eq!(held(&allocator), (40 << 20, 0));
    assert_eq!(device.violations(), []);
}

#[test]
fn work_on_queues_uses_memory_that_was_put_away_in_between() {
    let (device, allocator) = parked(config());
    let queue = allocator.create_queue().unwrap();
    for round in 0..20_u8 {
        let storage = match round % 2 {
            0 => StorageMode::Shared,
            _ => StorageMode::Private,
        };
        let request = Request::new(8 * MIB).storage(storage).queue(&queue);
        let mut buffer = allocator.allocate_with(&request).unwrap();
        let mut copy = allocator.allocate(8 * MIB).unwrap();
        queue.fill(&mut buffer, round).unwrap();
        queue.copy(&buffer, &mut copy).unwrap().wait(None).unwrap();
        assert_eq!(copy.read::<u8>().unwrap()[8 * MIB - 1], round);
        drop((buffer, copy));
        press(&allocator, Level::Moderate);
        if round % 3 == 0 {
            let _bytes = device.metal().purge_volatile(9 << 20);
        }
    }
    assert!(allocator.stats().parked.peak >= 16 << 20);
    assert_eq!(device.violations(), []);
}

#[test]
fn what_is_put_away_counts_in_the_limit_and_makes_way() {
    let (_device, allocator) = parked(Config {
        reserved_bytes_max: Some(48 << 20),
        ..config()
    });
    let large = allocator.allocate(32 * MIB).unwrap();
    let (reserved, parked) = held(&allocator);
    assert_eq!(reserved, 32 << 20);
    assert!(reserved + parked <= 48 << 20, "{parked}");
    drop(large);
}

#[test]
fn no_more_is_put_away_than_may_be_idle_and_all_goes_in_an_emergency() {
    let device = Arc::new(FakeApple::new().unwrap());
    let builder = Allocator::builder(device.clone()).config(config());
    let allocator = builder.build().unwrap();
    drop([(); 5].map(|()| allocator.allocate(8 * MIB).unwrap()));
    // What is idle already goes when somebody frees.
    let _before = allocator.set_cached_bytes_max(20 << 20);
    press(&allocator, Level::Moderate);
    assert_eq!(held(&allocator), (0, 16 << 20));
    assert_eq!(device.metal().current_allocated_size(), 16 << 20);
    press(&allocator, Level::Emergency);
    assert_eq!(held(&allocator), (0, 0));
    assert_eq!(device.metal().current_allocated_size(), 0);
}

#[test]
fn a_lower_limit_on_what_is_idle_has_parked_memory_go_back() {
    let (device, allocator) = parked(config());
    let _before = allocator.set_cached_bytes_max(20 << 20);
    let held = device.metal().current_allocated_size();
    assert!(held <= 20 << 20, "{held}");
    let _before = allocator.set_cached_bytes_max(0);
    assert_eq!(device.metal().current_allocated_size(), 0);
}

#[test]
fn a_lower_limit_on_what_is_reserved_has_parked_memory_go_back() {
    let (device, allocator) = parked(config());
    let kept = allocator.allocate(8 * MIB).unwrap();
    assert_eq!(held(&allocator), (8 << 20, 32 << 20));
    let _before = allocator.set_reserved_bytes_max(Some(24 << 20)).unwrap();
    assert_eq!(held(&allocator), (8 << 20, 16 << 20));
    assert_eq!(device.metal().current_allocated_size(), 24 << 20);
    drop(kept);
}

#[test]
fn clearing_and_the_end_return_what_was_put_away() {
    let (device, allocator) = parked(config());
    assert_eq!(allocator.clear(), 40 << 20);
    assert_eq!(device.metal().current_allocated_size(), 0);
    let (device, allocator) = parked(config());
    drop(allocator);
    assert_eq!(device.metal().current_allocated_size(), 0);
}

#[test]
fn garbage_collection_puts_away_what_is_idle_for_long() {
    let device = Arc::new(FakeApple::new().unwrap());
    let config = Config {
        gc: GcConfig {
            interval: Duration::from_millis(10),
            policy: GcPolicy {
                idle_max: Some(Duration::from_millis(20)),
                ..GcPolicy::default()
            },
            ..GcConfig::default()
        },
        ..Config::default()
    };
    let builder = Allocator::builder(device.clone()).config(config);
    let allocator = builder.build().unwrap();
    drop([(); 5].map(|()| allocator.allocate(8 * MIB).unwrap()));
    let end = Instant::now() + Duration::from_secs(60);
    while held(&allocator) != (0, 40 << 20) {
        assert!(Instant::now() < end, "{}", allocator.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    // What the system took meanwhile goes back when the collector comes by again.
    assert_eq!(device.metal().purge_volatile(1), 8 << 20);
    drop(allocator.allocate(8 * MIB).unwrap());
    while device.metal().current_allocated_size() > 32 << 20 {
        assert!(Instant::now() < end, "{}", allocator.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Small users do not hold what large ones would.
#[test]
fn heaps_start_small_and_are_halved_where_there_is_not_as_much() {
    let config = Config::default();
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device).build().unwrap();
    let _small = allocator.allocate(1000).unwrap();
    let eighth = config.segment_bytes_max as u64 / 8;
    assert!(allocator.stats().reserved.value <= eighth);
    // An arena that holds much would grow by 64 MiB.
    let built = FakeApple::builder()
        .memory(900 << 20)
        .max_buffer_length(900 << 20);
    let device = Arc::new(built.build().unwrap());
    let config = Config {
        segment_bytes_min: 64 << 20,
        ..Config::default()
    };
    let builder = Allocator::builder(device.clone()).config(config);
    let allocator = builder.build().unwrap();
    let _most = allocator.allocate(850 * MIB).unwrap();
    let _little = allocator.allocate(MIB).unwrap();
    let grown = allocator.stats().reserved.value - (850 << 20);
    assert_eq!(
        grown,
        32 << 20,
        "half of the usual, since all of it was not there"
    );
    assert_eq!(device.violations(), []);
}
