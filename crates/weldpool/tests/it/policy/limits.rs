//! Limits that change while the allocator runs.

use std::sync::Arc;

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::strategy::{Adaptive, Strategy};
use weldpool::{Allocator, Config, Device, ErrorKind, Request, StorageMode};

use super::{MIB, on_apple, on_host};

#[test]
fn the_limit_on_reserved_memory_acts_from_the_next_request() {
    for make in [on_host, on_apple] {
        let allocator = make(Config::default());
        let first = allocator.allocate(8 * MIB).unwrap();
        assert_eq!(
            allocator.set_reserved_bytes_max(Some(10 << 20)).unwrap(),
            None
        );
        let error = allocator.allocate(8 * MIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        let text = error.to_string();
        assert!(text.contains("limit 10485760"), "{text}");
        assert_eq!(
            allocator.set_reserved_bytes_max(Some(40 << 20)).unwrap(),
            Some(10 << 20)
        );
        let second = allocator.allocate(8 * MIB).unwrap();
        // Lower than what is held: nothing is taken away, nothing is added.
        assert_eq!(
            allocator.set_reserved_bytes_max(Some(1 << 20)).unwrap(),
            Some(40 << 20)
        );
        drop(first);
        let third = allocator.allocate(8 * MIB).unwrap();
        allocator.allocate(9 * MIB).unwrap_err();
        assert_eq!(
            allocator.set_reserved_bytes_max(None).unwrap(),
            Some(1 << 20)
        );
        allocator.allocate(9 * MIB).unwrap();
        drop((second, third));
    }
}

/// With it no request could be served.
#[test]
fn a_limit_of_no_bytes_is_refused_whenever_it_is_set() {
    let none = Config {
        reserved_bytes_max: Some(0),
        ..Config::default()
    };
    let device = Arc::new(HostDevice::new().unwrap());
    let error = Allocator::builder(device).config(none).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let allocator = on_host(Config {
        reserved_bytes_max: Some(16 << 20),
        ..Config::default()
    });
    let error = allocator.set_reserved_bytes_max(Some(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("reserved_bytes_max is 0"));
    assert_eq!(allocator.stats().limit, Some(16 << 20), "the old one stays");
    drop(allocator.allocate(MIB).unwrap());
}

#[test]
fn the_limit_on_idle_memory_acts_at_once() {
    for make in [on_host, on_apple] {
        let allocator = make(Config {
            cached_bytes_max: Some(64 << 20),
            ..Config::default()
        });
        let buffers: Vec<_> = (0..6)
            .map(|_| allocator.allocate(8 * MIB).unwrap())
            .collect();
        drop(buffers);
        assert!(allocator.stats().cached_bytes >= 48 << 20);
        assert_eq!(allocator.set_cached_bytes_max(16 << 20), 64 << 20);
        let stats = allocator.stats();
        assert!(stats.cached_bytes <= 16 << 20, "{stats}");
        // And at each free.
        let buffers: Vec<_> = (0..6)
            .map(|_| allocator.allocate(8 * MIB).unwrap())
            .collect();
        drop(buffers);
        // What threads cache may come on top until the next such free.
        let stats = allocator.stats();
        assert!(stats.cached_bytes <= 32 << 20, "{stats}");
        assert_eq!(allocator.set_cached_bytes_max(0), 16 << 20);
        assert_eq!(allocator.stats().cached_bytes, 0);
    }
}

#[test]
fn the_limit_on_idle_memory_holds_for_small_blocks_that_threads_share() {
    const BYTES: usize = 64 << 10;
    for make in [on_host, on_apple] {
        let allocator = make(Config::default());
        let fill = || {
            let buffers: Vec<_> = (0..64)
                .map(|_| allocator.allocate(BYTES).unwrap())
                .collect();
            drop(buffers);
            allocator.stats().cached_bytes
        };
        assert!(fill() >= 64 * BYTES as u64);
        allocator.set_cached_bytes_max(0);
        assert_eq!(allocator.stats().cached_bytes, 0);
        // A span to cut the next ones from, and the segment it lies in.
        let left = fill();
        assert!(left <= 2 << 20, "{left}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn sizes_that_never_recur_cost_few_driver_calls_and_a_bounded_part_of_memory() {
    const LIVE_BYTES: usize = 64 * MIB;
    let allocator = on_host(Config::default());
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut live: Vec<weldpool::Buffer> = Vec::new();
    let mut bytes = 0;
    let allocations = 60_000_u64;
    for _ in 0..allocations {
        let next = 70_000 + random(1_930_000);
        while bytes + next > LIVE_BYTES {
            let buffer = live.swap_remove(random(live.len()));
            bytes -= buffer.len();
        }
        live.push(allocator.allocate(next).unwrap());
        bytes += next;
    }
    let stats = allocator.stats();
    let calls = stats.driver_calls as f64 / (2 * allocations) as f64;
    let ratio = stats.reserved.peak as f64 / stats.live.peak as f64;
    // A microsecond for each operation, at three for each piece.
    assert!(calls < 0.35, "{calls} driver calls for each operation");
    assert!(ratio < 1.35, "{ratio} of what was live was held");
}

#[cfg(target_os = "linux")]
#[test]
fn what_holes_left_is_filled_where_free_memory_lies_beside_it() {
    let allocator = on_host(Config {
        slack_per_1024: 0,
        driver_ns_per_operation: 1_000_000,
        ..Config::default()
    });
    let address = |buffer: &weldpool::Buffer| buffer.binding().host.unwrap().as_ptr().addr();
    let mut blocks: Vec<_> = (0..16)
        .map(|_| Some(allocator.allocate(4 * MIB + 4096).unwrap()))
        .collect();
    let old = blocks.iter().flatten().map(address);
    let (first, last) = (old.clone().min().unwrap(), old.max().unwrap());
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    let remaps = allocator.stats().remaps;
    let _moved = allocator.allocate(30 * MIB).unwrap();
    assert!(
        allocator.stats().remaps > remaps,
        "holes were mapped together"
    );
    blocks.clear();
    let calls = allocator.stats().driver_calls;
    let beside = allocator.allocate(12 * MIB).unwrap();
    assert!((first..=last).contains(&address(&beside)));
    let calls = allocator.stats().driver_calls - calls;
    assert!(calls <= 8, "{calls}");
    let stats = allocator.stats();
    assert!(stats.reserved.peak <= stats.live.peak + stats.live.peak / 50);
}

#[test]
fn a_lower_limit_returns_what_is_idle_beyond_it() {
    let allocator = on_host(Config::default());
    let mut buffers: Vec<_> = (0..64).map(|_| allocator.allocate(MIB).unwrap()).collect();
    buffers.truncate(16);
    assert_eq!(
        allocator.set_reserved_bytes_max(Some(32 << 20)).unwrap(),
        None
    );
    let reserved = allocator.stats().reserved.value;
    assert!((16 << 20..=32 << 20).contains(&reserved), "{reserved}");
    let error = allocator.allocate(20 * MIB).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    buffers.clear();
    drop(allocator.allocate(20 * MIB).unwrap());
}

/// What is held after a request was refused, of so many bytes, while 100 MiB are live, and after others whose
/// memory lies in holes.
fn held_after_refusing(
    device: Arc<dyn Device>,
    storage: StorageMode,
    strategy: Option<Arc<dyn Strategy>>,
    refused: Option<usize>,
) -> (u64, u64) {
    let allocator = Allocator::builder(device)
        .config(Config {
            reserved_bytes_max: Some(256 << 20),
            driver_ns_per_operation: 1_000_000,
            strategy,
            ..Config::default()
        })
        .build()
        .unwrap();
    let take = |bytes: usize| allocator.allocate_with(&Request::new(bytes).storage(storage));
    let _live = take(100 * MIB).unwrap();
    if let Some(refused) = refused {
        take(refused).unwrap_err();
    }
    let mut blocks: Vec<_> = (0..16)
        .map(|_| Some(take(4 * MIB + 4096).unwrap()))
        .collect();
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    let _large = take(30 * MIB).unwrap();
    let stats = allocator.stats();
    (stats.reserved.value, stats.live.peak)
}

#[test]
fn a_request_that_was_refused_leaves_the_slack_as_it_was() {
    type Make = fn() -> Arc<dyn Device>;
    let devices: [(&str, StorageMode, Make); 3] = [
        ("host", StorageMode::Shared, || {
            Arc::new(HostDevice::new().unwrap())
        }),
        ("apple", StorageMode::Shared, || {
            Arc::new(FakeApple::new().unwrap())
        }),
        ("discrete", StorageMode::Private, || {
            Arc::new(FakeDiscrete::new().unwrap())
        }),
    ];
    for (name, storage, device) in devices {
        for adaptive in [false, true] {
            let held = |refused| {
                let strategy = || Arc::new(Adaptive::default()) as Arc<dyn Strategy>;
                let strategy = adaptive.then(strategy);
                held_after_refusing(device(), storage, strategy, refused)
            };
            let before = held(None);
            // More than the limit, and more than is left of it.
            for refused in [1 << 30, 200 * MIB] {
                assert_eq!(held(Some(refused)), before, "{name}, {adaptive}, {refused}");
            }
        }
    }
}
