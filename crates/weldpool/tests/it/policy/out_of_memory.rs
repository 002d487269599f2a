//! What is tried before an allocation fails, step by step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::pressure::Level;
use weldpool::{
    Allocator, Buffer, Config, ErrorKind, OutOfMemoryHandler, Recourse, RecoveryStep, Request,
    StorageMode,
};

use super::{MIB, on_apple, on_host};

fn limited(bytes: u64) -> Config {
    Config {
        reserved_bytes_max: Some(bytes),
        wait_max: Duration::from_millis(200),
        ..Config::default()
    }
}

#[test]
fn idle_memory_of_another_form_is_returned() {
    // Four buffers that stay idle in the cache, in segments of their own.
    let allocator = on_apple(limited(64 << 20));
    let buffers: Vec<_> = (0..4)
        .map(|_| allocator.allocate(12 * MIB).unwrap())
        .collect();
    drop(buffers);
    let _large = allocator.allocate(40 * MIB).unwrap();
    let stats = allocator.stats().out_of_memory;
    assert_eq!(stats.failed, 0);
    if stats.events > 0 {
        assert_eq!(stats.resolved.iter().sum::<u64>(), 1, "{stats:?}");
    }
}

#[test]
fn another_storage_mode_gives_its_idle_memory() {
    let allocator = on_host(limited(64 << 20));
    let request = Request::new(40 * MIB).storage(StorageMode::Private);
    drop(allocator.allocate_with(&request).unwrap());
    let _shared = allocator.allocate(40 * MIB).unwrap();
    let stats = allocator.stats().out_of_memory;
    assert_eq!((stats.events, stats.failed), (1, 0), "{stats:?}");
    assert_eq!(stats.resolved_by(RecoveryStep::ReturnIdle), 1, "{stats:?}");
}

#[test]
fn work_in_flight_is_waited_for() {
    let device = Arc::new(
        FakeDiscrete::builder()
            .delays(Duration::from_millis(20))
            .build()
            .unwrap(),
    );
    let allocator = Allocator::builder(device)
        .config(Config {
            wait_max: Duration::from_secs(30),
            ..limited(16 << 20)
        })
        .build()
        .unwrap();
    let queue = allocator.create_queue().unwrap();
    let request = Request::new(12 * MIB).storage(StorageMode::Private);
    let mut used = allocator.allocate_with(&request).unwrap();
    for _ in 0..8 {
        let _fence = queue.fill(&mut used, 1).unwrap();
    }
    drop(used);
    // The host has no part in the queue's order, so it needs the memory back for good.
    let _again = allocator.allocate_with(&request).unwrap();
    let stats = allocator.stats().out_of_memory;
    assert_eq!(stats.failed, 0, "{stats:?}");
    assert_eq!(stats.events, stats.resolved.iter().sum::<u64>());
}

#[test]
fn callbacks_free_something_and_are_told_how_things_stand() {
    let allocator = on_host(limited(16 << 20));
    let hoard: Arc<Mutex<Vec<Buffer>>> = Arc::default();
    for _ in 0..3 {
        hoard
            .lock()
            .unwrap()
            .push(allocator.allocate(4 * MIB).unwrap());
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let callback = {
        let (hoard, seen) = (Arc::clone(&hoard), Arc::clone(&seen));
        allocator.on_out_of_memory(move |event| {
            seen.lock().unwrap().push((
                event.requested_bytes,
                event.name,
                event.round,
                event.limit_bytes,
                event.live_bytes,
                event.error.kind(),
            ));
            match hoard.lock().unwrap().pop() {
                Some(_) => Recourse::Retry,
                None => Recourse::GiveUp,
            }
        })
    }
    .unwrap();
    let request = Request::new(9 * MIB).name("weights");
    let large = allocator.allocate_with(&request).unwrap();
    let mib = 1 << 20;
    let told = |round, live| {
        let limit = Some(16 * mib);
        (
            9 * MIB,
            "weights",
            round,
            limit,
            live,
            ErrorKind::LimitExceeded,
        )
    };
    assert_eq!(
        *seen.lock().unwrap(),
        [told(1, 12 * mib), told(2, 8 * mib)],
        "two buffers of four make room"
    );
    let stats = allocator.stats().out_of_memory;
    assert_eq!(
        stats.resolved_by(RecoveryStep::AskCallbacks),
        1,
        "{stats:?}"
    );
    assert_eq!((stats.events, stats.failed), (1, 0));
    // Without the callback nobody is asked.
    drop(callback);
    allocator.allocate(9 * MIB).unwrap_err();
    assert_eq!(seen.lock().unwrap().len(), 2);
    drop(large);
}

#[test]
fn a_failure_is_one_error_after_a_bounded_number_of_rounds() {
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let allocator = on_host(Config {
        on_out_of_memory: Some(OutOfMemoryHandler::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Recourse::Retry
        })),
        ..limited(4 << 20)
    });
    let _live = allocator.allocate(MIB).unwrap();
    let error = allocator
        .allocate_with(&Request::new(5 * MIB).name("too large"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(error.requested_bytes(), Some(5 * MIB));
    let text = error.to_string();
    for part in [
        "asked for 5242880 bytes for \"too large\"",
        "live 1048576",
        "limit 4194304",
        "largest free range",
        "raise Config::reserved_bytes_max",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert!((2..=8).contains(&asked.load(Ordering::Relaxed)));
    let stats = allocator.stats();
    assert_eq!(stats.failures, 1);
    assert_eq!(
        (stats.out_of_memory.events, stats.out_of_memory.failed),
        (1, 1)
    );
    assert_eq!(stats.out_of_memory.resolved, [0; RecoveryStep::ALL.len()]);
}

#[test]
fn a_callback_may_allocate_and_panic() {
    let allocator = on_host(limited(4 << 20));
    let weak = allocator.clone();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let callback = allocator
        .on_out_of_memory(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            weak.allocate(1024).unwrap();
            // Nobody is asked about this one, or it would never end.
            weak.allocate(8 * MIB).unwrap_err();
            panic!("on purpose");
        })
        .unwrap();
    let _silent = std::panic::catch_unwind(|| ());
    allocator.allocate(8 * MIB).unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    let stats = allocator.stats().out_of_memory;
    assert_eq!(stats.callback_panics, 1);
    assert_eq!((stats.events, stats.failed), (2, 2));
    drop(callback);
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn callbacks_of_pressure_are_a_step_of_recovery() {
    let allocator = on_host(limited(16 << 20));
    let hoard = Mutex::new(Some(allocator.allocate(12 * MIB).unwrap()));
    let monitor = allocator.pressure().unwrap();
    monitor
        .on_change(move |level, _| {
            if level >= Level::Warning {
                drop(hoard.lock().unwrap().take());
            }
        })
        .unwrap();
    let _signalled = monitor.signal(Level::Emergency);
    let _large = allocator.allocate(12 * MIB).unwrap();
    let stats = allocator.stats();
    assert_eq!(
        stats
            .out_of_memory
            .resolved_by(RecoveryStep::AssessPressure),
        1,
        "{:?}",
        stats.out_of_memory
    );
    assert_eq!(stats.pressure_level, Level::Emergency);
}

#[test]
fn steps_have_names() {
    let names = RecoveryStep::ALL.map(RecoveryStep::name);
    assert_eq!(
        names,
        [
            "flush-caches",
            "collect-fences",
            "return-idle",
            "assess-pressure",
            "await-work",
            "ask-callbacks"
        ]
    );
}

#[test]
fn a_request_larger_than_the_limit_costs_nobody_idle_memory() {
    let allocator = on_host(limited(64 << 20));
    drop([MIB, 2 * MIB, 3 * MIB].map(|bytes| allocator.allocate(bytes).unwrap()));
    let before = allocator.stats();
    // More than the limit, and more than there are addresses.
    for (bytes, kind) in [
        (65 * MIB, ErrorKind::LimitExceeded),
        (1 << 45, ErrorKind::OutOfMemory),
    ] {
        let error = allocator.allocate(bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let after = allocator.stats();
    assert_eq!(after.reserved.value, before.reserved.value);
    assert_eq!(after.out_of_memory.failed, 2);
    let calls = after.driver_calls;
    drop([MIB, 2 * MIB, 3 * MIB].map(|bytes| allocator.allocate(bytes).unwrap()));
    assert_eq!(allocator.stats().driver_calls, calls, "all of it is there");
}
