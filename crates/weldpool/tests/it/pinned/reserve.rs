//! Memory obtained ahead of requests.

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::gc::{GcConfig, GcPolicy};
use weldpool::{Allocator, Config, ErrorKind, Request, StorageMode};
use weldpool_testkit::FaultyDevice;

use super::{MIB, devices, eventually};

#[test]
fn what_is_reserved_in_steps_is_one_piece_where_memory_can_be_mapped() {
    for (device, storage) in devices() {
        let joins = device.virtual_memory(storage).is_some();
        let allocator = Allocator::builder(device).build().unwrap();
        for step in 1..=4_u64 {
            let bytes = allocator.reserve(4 * MIB, storage).unwrap();
            assert_eq!(bytes, 4 * MIB);
            let stats = allocator.stats();
            let expected = step * 4 * MIB as u64;
            assert_eq!((stats.reserved.value, stats.growths), (expected, step));
            assert_eq!(stats.cached_bytes, expected);
        }
        let calls = allocator.stats().driver_calls;
        let held = |bytes| Request::new(bytes).storage(storage).held_only(true);
        let all = allocator.allocate_with(&held(16 * MIB));
        assert_eq!(all.is_ok(), joins);
        drop(all);
        // In any case each step can be had.
        let steps = [(); 4].map(|()| allocator.allocate_with(&held(4 * MIB)).unwrap());
        assert_eq!(allocator.stats().driver_calls, calls);
        drop(steps);
        assert_eq!(allocator.clear(), 16 * MIB);
    }
}

#[test]
fn it_goes_on_behind_memory_that_is_in_use() {
    for (device, storage) in devices() {
        let joins = device.virtual_memory(storage).is_some();
        let allocator = Allocator::builder(device).build().unwrap();
        let request = |bytes| Request::new(bytes).storage(storage).held_only(true);
        allocator.reserve(4 * MIB, storage).unwrap();
        let first = allocator.allocate_with(&request(3 * MIB)).unwrap();
        allocator.reserve(4 * MIB, storage).unwrap();
        let both = allocator.allocate_with(&request(5 * MIB));
        assert_eq!(both.is_ok(), joins);
        drop((first, both));
    }
}

#[test]
fn sizes_are_rounded_up_and_wrong_ones_refused() {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let allocator = Allocator::builder(device).build().unwrap();
    assert_eq!(allocator.reserve(0, StorageMode::Shared).unwrap(), 0);
    assert_eq!(
        allocator.reserve(1, StorageMode::Shared).unwrap(),
        2 * MIB,
        "the granularity"
    );
    for (bytes, storage, kind) in [
        (1, StorageMode::Managed, ErrorKind::Unsupported),
        (usize::MAX, StorageMode::Shared, ErrorKind::LimitExceeded),
        (1 << 45, StorageMode::Shared, ErrorKind::OutOfMemory),
        (1 << 45, StorageMode::Private, ErrorKind::OutOfMemory),
    ] {
        let error = allocator.reserve(bytes, storage).unwrap_err();
        assert_eq!(error.kind(), kind, "{bytes} {storage}");
    }
    allocator
        .set_reserved_bytes_max(Some(4 * MIB as u64))
        .unwrap();
    let error = allocator.reserve(4 * MIB, StorageMode::Shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(allocator.stats().reserved.value, 2 * MIB as u64);
}

/// Every driver call fails in turn; nothing is lost, and the next try succeeds.
#[test]
fn a_failing_driver_call_loses_nothing() {
    for (inner, storage) in devices() {
        for point in 1..40 {
            let device = Arc::new(FaultyDevice::new(inner.clone()));
            let allocator = Allocator::builder(device.clone()).build().unwrap();
            let first = device.calls();
            device.fail_numbered(first + point..first + point + 1, ErrorKind::System);
            let mut failures = 0;
            for _ in 0..4 {
                failures += usize::from(allocator.reserve(4 * MIB, storage).is_err());
            }
            assert!(failures <= 1, "{point}: {failures}");
            let held = Request::new(4 * MIB).storage(storage).held_only(true);
            let count = if failures == 0 { 4 } else { 3 };
            let buffers: Vec<_> = (0..count).map(|_| allocator.allocate_with(&held)).collect();
            assert!(buffers.iter().all(Result::is_ok), "{point}");
            let done = device.failed().is_none();
            drop(buffers);
            device.clear_faults();
            let _bytes = allocator.clear() + allocator.clear();
            assert_eq!(allocator.stats().reserved.value, 0, "{point}");
            assert_eq!(device.held().bytes(), 0, "{point}");
            if done {
                break;
            }
        }
    }
}

/// What was reserved stays until it was idle for long, and goes back like other idle memory then.
#[test]
fn collection_does_not_take_it_at_once() {
    let idle_max = Duration::from_millis(200);
    let config = Config {
        gc: GcConfig {
            enabled: true,
            interval: Duration::from_millis(10),
            policy: GcPolicy {
                idle_max: Some(idle_max),
                ..GcPolicy::default()
            },
        },
        ..Config::default()
    };
    let device = Arc::new(HostDevice::new().unwrap());
    let allocator = Allocator::builder(device).config(config).build().unwrap();
    let start = std::time::Instant::now();
    let bytes = allocator.reserve(8 * MIB, StorageMode::Shared).unwrap() as u64;
    let runs = || allocator.stats().gc.runs;
    let before = runs();
    eventually("it collects", || runs() > before + 2);
    let reserved = allocator.stats().reserved.value;
    assert!(
        reserved == bytes || start.elapsed() > idle_max,
        "{reserved}"
    );
    eventually("it goes back", || allocator.stats().reserved.value == 0);
    assert!(start.elapsed() >= idle_max);
}

#[test]
fn the_limit_on_idle_memory_takes_it_with_the_next_free() {
    let allocator = Allocator::host().unwrap();
    let buffer = allocator.allocate(MIB).unwrap();
    let in_use = allocator.stats().reserved.value;
    allocator.set_cached_bytes_max(MIB as u64);
    allocator.reserve(8 * MIB, StorageMode::Shared).unwrap();
    assert_eq!(allocator.stats().reserved.value, in_use + 8 * MIB as u64);
    let held = Request::new(6 * MIB).held_only(true);
    // Whoever it was obtained for has it.
    let served = allocator.allocate_with(&held).unwrap();
    drop((buffer, served));
    assert!(allocator.stats().reserved.value <= 2 * MIB as u64);
}

#[test]
fn on_nodes_of_memory_it_comes_from_the_nearest_that_has_some() {
    use weldpool::device::{NumaNode, Topology};
    let node = |number, bytes: usize| NumaNode {
        memory_bytes: Some(bytes as u64),
        number,
        processors: vec![number],
        distances: Vec::new(),
    };
    let topology = Topology::fake(vec![node(0, 4 * MIB), node(1, 64 * MIB)], || 0);
    let device = FakeDiscrete::builder().topology(topology).build().unwrap();
    let device = Arc::new(device);
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    for _ in 0..2 {
        allocator.reserve(4 * MIB, StorageMode::Shared).unwrap();
    }
    assert_eq!(
        [device.pinned_bytes_on(0), device.pinned_bytes_on(1)],
        [4 * MIB as u64; 2]
    );
    let held = Request::new(4 * MIB).held_only(true);
    let both = [(); 2].map(|()| allocator.allocate_with(&held).unwrap());
    drop(both);
}
