//! What is refused, and how much is held and kept idle.

use weldpool::{ErrorKind, Preset, Request, SizeClasses};

use super::{MakeDevice, allocator, with_config};

pub fn wrong_requests_are_errors(make: MakeDevice) {
    let allocator = allocator(make);
    let max = allocator.device().properties().segment_bytes_max;
    for (request, kind) in [
        (Request::new(0), ErrorKind::InvalidRequest),
        (Request::new(usize::MAX), ErrorKind::InvalidRequest),
        (Request::new(max + 1), ErrorKind::InvalidRequest),
        (
            Request::new(max).alignment(1 << 30),
            ErrorKind::LimitExceeded,
        ),
        (Request::new(64).alignment(0), ErrorKind::InvalidRequest),
        (Request::new(64).alignment(48), ErrorKind::InvalidRequest),
        (
            Request::new(64).alignment(1 << 31),
            ErrorKind::InvalidRequest,
        ),
    ] {
        let error = allocator
            .allocate_with(&request.name("the wrong one"))
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{request:?}: {error}");
        assert!(error.to_string().contains("the wrong one"), "{error}");
    }
    let stats = allocator.stats();
    assert_eq!(
        (stats.allocations, stats.failures, stats.reserved.value),
        (0, 7, 0)
    );
}

pub fn a_limit_is_an_error_that_passes(make: MakeDevice) {
    let allocator = with_config(make, |config| config.reserved_bytes_max = Some(8 << 20));
    let first = allocator.allocate(6 << 20).unwrap();
    let error = allocator
        .allocate_with(&Request::new(3 << 20).name("second"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let text = error.to_string();
    for part in ["3145728", "second", "live 6291456", "limit 8388608"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    // Idle memory of another shape must not stand in the way.
    drop(first);
    let small: Vec<_> = (0..64).map(|_| allocator.allocate(4096).unwrap()).collect();
    drop(small);
    let whole = allocator.allocate(8 << 20).unwrap();
    assert_eq!(allocator.stats().reserved.value, 8 << 20);
    drop(whole);
    assert!(allocator.stats().reserved.peak <= 8 << 20);
}

pub fn pre_allocation_clear_and_pooling(make: MakeDevice) {
    let allocator = allocator(make);
    assert_eq!(allocator.pre_allocate(4096, 50).unwrap(), 50);
    let before = allocator.stats().driver_calls;
    let taken: Vec<_> = (0..50).map(|_| allocator.allocate(4096).unwrap()).collect();
    assert_eq!(allocator.stats().driver_calls, before);
    assert_eq!(allocator.clear(), 0, "everything is in use");
    drop(taken);
    let reserved = allocator.stats().reserved.value;
    assert_eq!(allocator.clear() as u64, reserved);
    assert_eq!(allocator.stats().reserved.value, 0);

    assert!(allocator.set_pooling(false));
    let direct = allocator.allocate(4096).unwrap();
    let also = allocator.allocate(4096).unwrap();
    let two = allocator.stats().reserved.value;
    drop(direct);
    assert_eq!(allocator.stats().reserved.value, two / 2);
    assert!(!allocator.set_pooling(true));
    drop(also);
    assert_eq!(allocator.stats().reserved.value, 0);
    drop(allocator.allocate(4096).unwrap());
    assert!(allocator.stats().cached_bytes > 0);
}

pub fn presets_start_and_stop_where_documented(make: MakeDevice) {
    let allocator = with_config(make, |config| config.classes = SizeClasses::seed());
    let stats = allocator.stats();
    assert_eq!((stats.live.peak, stats.allocations), (0, 0));
    let held = |bytes: u64| {
        let stats = allocator.stats();
        let mut classes = stats.classes.iter();
        let class = classes.find(|class| class.bytes as u64 == bytes).unwrap();
        class.held_bytes / bytes
    };
    assert_eq!((held(256), held(64 << 20)), (64, 1));
    let taken: Vec<_> = (0..1000)
        .map(|_| allocator.allocate(200).unwrap())
        .collect();
    assert!(held(256) >= 1000);
    drop(taken);
    let kept = held(256);
    assert!(
        (256..=256 + 128).contains(&kept),
        "{kept}: the class's and the thread's maximum"
    );
    let large: Vec<_> = (0..4)
        .map(|_| allocator.allocate(64 << 20).unwrap())
        .collect();
    drop(large);
    assert_eq!(held(64 << 20), 1);
    let rounded = allocator.allocate(4097).unwrap();
    assert_eq!(rounded.block_bytes(), 8192);
}

pub fn the_preset_pooling_keeps_few_of_each_size(make: MakeDevice) {
    let allocator = with_config(make, |config| *config = Preset::Pooling.config());
    let held = |bytes: usize| {
        let classes = allocator.stats().classes;
        let class = classes.into_iter().find(|class| class.bytes == bytes);
        class.unwrap().held_bytes / bytes as u64
    };
    for (asked, bytes) in [(1, 256), (200, 256), (4097, 8192), (600 << 10, 1 << 20)] {
        let taken: Vec<_> = (0..50)
            .map(|_| allocator.allocate(asked).unwrap())
            .collect();
        assert!(taken.iter().all(|buffer| buffer.block_bytes() == bytes));
        // Other threads keep nothing besides.
        std::thread::scope(|scope| {
            scope.spawn(|| drop(taken));
        });
        assert_eq!(held(bytes), 32, "{bytes}");
        let growths = allocator.stats().growths;
        let again: Vec<_> = (0..32)
            .map(|_| allocator.allocate(asked).unwrap())
            .collect();
        assert_eq!(held(bytes), 32, "those that lay idle");
        assert_eq!(allocator.stats().growths, growths);
        drop(again);
    }
    let largest = allocator.allocate((128 << 20) + 1).unwrap();
    assert_eq!(largest.block_bytes(), 256 << 20);
    let beyond = allocator.allocate((256 << 20) + 1).unwrap();
    assert_eq!(beyond.block_bytes(), (256 << 20) + 256);
    drop((largest, beyond));
    allocator.set_cached_bytes_max(8 << 20);
    let taken: Vec<_> = (0..16)
        .map(|_| allocator.allocate(1 << 20).unwrap())
        .collect();
    drop(taken);
    let stats = allocator.stats();
    assert!(
        stats.cached_bytes <= 9 << 20,
        "the limit on idle memory holds: {stats}"
    );
}

pub fn idle_memory_has_a_limit(make: MakeDevice) {
    let allocator = with_config(make, |config| config.cached_bytes_max = Some(16 << 20));
    let live: Vec<_> = (0..16)
        .map(|_| allocator.allocate(8 << 20).unwrap())
        .collect();
    drop(live);
    let stats = allocator.stats();
    assert!(stats.cached_bytes <= 64 << 20, "{stats}");
    assert!(stats.reserved.value < stats.reserved.peak, "{stats}");
}

pub fn segments_outgrown_give_way(make: MakeDevice) {
    let allocator = allocator(make);
    for _ in 0..3 {
        for bytes in [3 << 20, 5 << 20, 9 << 20, 20 << 20, 60 << 20] {
            drop(allocator.allocate(bytes).unwrap());
        }
    }
    let stats = allocator.stats();
    assert_eq!(stats.reserved.value, 60 << 20, "{stats}");
    assert_eq!(stats.growths, 5, "the second and third round need none");
}
