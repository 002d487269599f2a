//! What is tried before an allocation fails, step by step.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::pressure::Level;
use weldpool::{
    Allocator, Buffer, Config, Device, ErrorKind, OutOfMemoryHandler, Recourse, RecoveryStep,
    Request, StorageMode,
};
use weldpool_testkit::FaultyDevice;

use super::{MIB, on_apple, on_host};
use crate::log;

fn limited(bytes: u64) -> Config {
    Config {
        reserved_bytes_max: Some(bytes),
        wait_max: Duration::from_millis(200),
        ..Config::default()
    }
}

/// Checks that memory was out once, which steps were taken, and that the last of them helped.
#[track_caller]
fn assert_steps(allocator: &Allocator, steps: &[RecoveryStep]) {
    let stats = allocator.stats().out_of_memory;
    assert_eq!((stats.events, stats.failed), (1, 0), "{stats:?}");
    let taken = RecoveryStep::ALL.map(|step| u64::from(steps.contains(&step)));
    assert_eq!(stats.taken, taken, "{stats:?}");
    let last = *steps.last().unwrap();
    let resolved = RecoveryStep::ALL.map(|step| u64::from(step == last));
    assert_eq!(stats.resolved, resolved, "{stats:?}");
}

fn by_hand() -> (Arc<FakeDiscrete>, Allocator) {
    let built = FakeDiscrete::builder().manual(true).delays(Duration::ZERO);
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).config(limited(64 << 20));
    (device, allocator.build().unwrap())
}

#[test]
fn segments_are_exchanged_before_memory_counts_as_out() {
    // Four buffers that stay idle in the cache, in segments of their own.
    let allocator = on_apple(limited(64 << 20));
    let buffers: Vec<_> = (0..4)
        .map(|_| allocator.allocate(12 * MIB).unwrap())
        .collect();
    drop(buffers);
    let _large = allocator.allocate(40 * MIB).unwrap();
    let stats = allocator.stats();
    assert_eq!(stats.out_of_memory, Default::default());
    assert!(stats.reserved.value <= 64 << 20, "{stats}");
}

#[test]
fn what_caches_keep_is_joined() {
    let allocator = on_host(limited(64 << 20));
    // A peak, below which more is asked for before caches are emptied.
    drop(allocator.allocate(60 * MIB).unwrap());
    assert!(allocator.clear() >= 60 * MIB);
    allocator.set_reserved_bytes_max(Some(32 << 20)).unwrap();
    let buffers: Vec<_> = (0..4)
        .map(|_| allocator.allocate(7 * MIB).unwrap())
        .collect();
    drop(buffers);
    let _large = allocator.allocate(30 * MIB).unwrap();
    assert_steps(&allocator, &[RecoveryStep::FlushCaches]);
}

#[test]
fn memory_whose_work_is_over_is_collected() {
    let (device, allocator) = by_hand();
    // Past the pools nothing looks for it while there is more to be had.
    assert!(allocator.set_pooling(false));
    let queues = [(); 2].map(|()| allocator.create_queue().unwrap());
    let mut used = allocator.allocate(40 * MIB).unwrap();
    for queue in &queues {
        queue.fill(&mut used, 1).unwrap();
    }
    drop(used);
    device.control().run_all();
    let _again = allocator.allocate(40 * MIB).unwrap();
    let steps = [RecoveryStep::FlushCaches, RecoveryStep::CollectFences];
    assert_steps(&allocator, &steps);
    assert_eq!(device.violations(), []);
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
            .delays(Duration::ZERO)
            .build()
            .unwrap(),
    );
    let allocator = Allocator::builder(device.clone())
        .config(Config {
            wait_max: Duration::from_secs(30),
            ..limited(16 << 20)
        })
        .build()
        .unwrap();
    let queue = allocator.create_queue().unwrap();
    let request = Request::new(12 * MIB).storage(StorageMode::Private);
    let mut used = allocator.allocate_with(&request).unwrap();
    let (release, held) = channel();
    queue.call(move || held.recv().unwrap()).unwrap();
    queue.fill(&mut used, 1).unwrap();
    drop(used);
    let _assessed = allocator.pressure().unwrap();
    // The host has no part in the queue's order, so it needs the memory back for good. The queue goes on
    // when all steps before the wait were of no use.
    let seen = move |line: &log::Line| {
        if line.field("step_name") == RecoveryStep::AssessPressure.name() {
            release.send(()).unwrap();
        }
    };
    let (_lines, _again) = log::watch(seen, || allocator.allocate_with(&request).unwrap());
    let steps = [
        RecoveryStep::FlushCaches,
        RecoveryStep::AssessPressure,
        RecoveryStep::AwaitWork,
    ];
    assert_steps(&allocator, &steps);
    assert_eq!(device.violations(), []);
}

#[test]
fn steps_are_taken_in_their_order() {
    let (device, allocator) = by_hand();
    assert!(allocator.set_pooling(false));
    let queues = [(); 3].map(|()| allocator.create_queue().unwrap());
    let mut buffers = [(); 4].map(|()| Some(allocator.allocate(12 * MIB).unwrap()));
    let [over, also, later, live] = &mut buffers;
    // Work that is over before memory is out, on two queues and on one, and work that is over later.
    for queue in &queues[..2] {
        queue.fill(over.as_mut().unwrap(), 1).unwrap();
    }
    queues[0].fill(also.as_mut().unwrap(), 1).unwrap();
    (*over, *also) = (None, None);
    device.control().run_all();
    queues[2].fill(later.as_mut().unwrap(), 1).unwrap();
    *later = None;
    let live = Mutex::new(live.take());
    let _registered = allocator
        .on_out_of_memory(move |_| match live.lock().unwrap().take() {
            Some(_) => Recourse::Retry,
            None => Recourse::GiveUp,
        })
        .unwrap();
    let _assessed = allocator.pressure().unwrap();
    let control = Arc::clone(&device);
    let seen = move |line: &log::Line| {
        if line.field("step_name") == RecoveryStep::AssessPressure.name() {
            control.control().run_all();
        }
    };
    let (lines, _large) = log::watch(seen, || allocator.allocate(60 * MIB).unwrap());
    let steps = lines.iter().map(|line| line.field("step_name"));
    let steps: Vec<_> = steps.filter(|step| !step.is_empty()).collect();
    assert_eq!(steps, RecoveryStep::ALL.map(RecoveryStep::name));
    assert_steps(&allocator, &RecoveryStep::ALL);
    assert_eq!(device.violations(), []);
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
    assert_eq!(error.requested_name(), Some("too large"));
    assert!(text.ends_with(error.advice().unwrap()), "{text:?}");
    let state = error.pool_state().unwrap();
    assert_eq!(
        (state.live_bytes, state.limit_bytes),
        (1 << 20, Some(4 << 20))
    );
    assert_eq!(state.reserved_bytes, stats.reserved.value);
    assert_eq!(state.cached_bytes, stats.cached_bytes);
    assert_eq!(state.largest_free_bytes, stats.largest_free as u64);
    let other = allocator.allocate(0).unwrap_err();
    assert_eq!((other.pool_state(), other.advice()), (None, None));
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

/// Devices of 64 MiB, and their memory that is counted: that of the host is not.
fn devices() -> [(&'static str, Arc<dyn Device>, StorageMode); 4] {
    let bytes = 64 << 20;
    let discrete = || {
        let builder = FakeDiscrete::builder().memory(bytes).pinned_memory(bytes);
        Arc::new(builder.build().unwrap())
    };
    let apple = FakeApple::builder()
        .memory(bytes)
        .recommended_max_working_set_size(bytes)
        .max_buffer_length(1 << 40);
    [
        (
            "host",
            Arc::new(HostDevice::new().unwrap()),
            StorageMode::Shared,
        ),
        ("discrete", discrete(), StorageMode::Shared),
        ("discrete, private", discrete(), StorageMode::Private),
        (
            "apple",
            Arc::new(apple.build().unwrap()),
            StorageMode::Shared,
        ),
    ]
}

#[test]
fn a_request_larger_than_all_there_may_be_costs_nobody_idle_memory() {
    for limit in [Some(64 << 20), None] {
        for (name, device, storage) in devices() {
            // The host has more, but not more than there are addresses.
            let hopeless = match (limit, name) {
                (Some(_), _) => (65 * MIB, ErrorKind::LimitExceeded),
                (None, "host") => (1 << 45, ErrorKind::OutOfMemory),
                (None, _) => (65 * MIB, ErrorKind::OutOfMemory),
            };
            if (limit, name) == (None, "discrete") {
                // Nobody tells how much of the host's memory can be pinned, so all is tried.
                continue;
            }
            let allocator = Allocator::builder(device)
                .config(Config {
                    reserved_bytes_max: limit,
                    cached_bytes_max: Some(64 << 20),
                    ..Config::default()
                })
                .build()
                .unwrap();
            let take = || {
                [2, 4, 6, 8].map(|number| {
                    let request = Request::new(number * MIB).storage(storage);
                    allocator.allocate_with(&request).unwrap()
                })
            };
            drop(take());
            let before = allocator.stats();
            let (bytes, kind) = hopeless;
            let request = Request::new(bytes).storage(storage);
            let error = allocator.allocate_with(&request).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}, {limit:?}: {error}");
            let state = error.pool_state().unwrap();
            assert_eq!((state.live_bytes, state.limit_bytes), (0, limit));
            assert_eq!(
                state.cached_bytes, state.reserved_bytes,
                "all of it is idle"
            );
            assert!(state.largest_free_bytes <= state.cached_bytes);
            let after = allocator.stats();
            assert_eq!(
                after.reserved.value, before.reserved.value,
                "{name}, {limit:?}"
            );
            assert_eq!(after.out_of_memory.failed, 1, "{name}, {limit:?}");
            let again = take();
            let calls = allocator.stats().driver_calls;
            assert_eq!(
                calls, after.driver_calls,
                "{name}, {limit:?}: all of it is there"
            );
            drop(again);
        }
    }
}

/// Somebody who is asked and does nothing has not made the request any less hopeless.
#[test]
fn a_request_that_stays_hopeless_costs_nobody_idle_memory() {
    for (name, device, storage) in devices() {
        let allocator = Allocator::builder(device)
            .config(Config {
                on_out_of_memory: Some(OutOfMemoryHandler::new(|_| Recourse::Retry)),
                cached_bytes_max: Some(64 << 20),
                ..limited(64 << 20)
            })
            .build()
            .unwrap();
        let request = |mib: usize| Request::new(mib * MIB).storage(storage);
        drop(allocator.allocate_with(&request(20)).unwrap());
        let before = allocator.stats().reserved.value;
        allocator.allocate_with(&request(65)).unwrap_err();
        assert_eq!(allocator.stats().reserved.value, before, "{name}");
    }
}

/// Nobody knows then whether a request may ever be served, so all is tried.
#[test]
fn a_device_that_does_not_tell_what_it_has_gives_its_idle_memory() {
    let device = Arc::new(FaultyDevice::new(Arc::new(HostDevice::new().unwrap())));
    device.fail(Call::Budget, ErrorKind::System, usize::MAX);
    let config = Config {
        cached_bytes_max: Some(64 << 20),
        ..limited(64 << 20)
    };
    let allocator = Allocator::builder(device).config(config).build().unwrap();
    let request = Request::new(40 * MIB).storage(StorageMode::Private);
    drop(allocator.allocate_with(&request).unwrap());
    let _shared = allocator.allocate(40 * MIB).unwrap();
}

#[test]
fn host_memory_is_not_compared_with_what_a_discrete_device_has() {
    let device = FakeDiscrete::builder().memory(64 << 20).build().unwrap();
    let config = Config {
        cached_bytes_max: Some(200 << 20),
        ..limited(200 << 20)
    };
    let allocator = Allocator::builder(Arc::new(device))
        .config(config)
        .build()
        .unwrap();
    let request = Request::new(60 * MIB).storage(StorageMode::Private);
    drop(allocator.allocate_with(&request).unwrap());
    let _pinned = allocator.allocate(150 * MIB).unwrap();
    let stats = allocator.stats().out_of_memory;
    assert_eq!(stats.resolved_by(RecoveryStep::ReturnIdle), 1, "{stats:?}");
}

#[test]
fn what_a_device_has_is_asked_once() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>)
        .config(Config {
            on_out_of_memory: Some(OutOfMemoryHandler::new(|_| Recourse::Retry)),
            ..limited(64 << 20)
        })
        .build()
        .unwrap();
    let before = device.control().calls(Call::Budget);
    let _live = allocator.allocate(40 * MIB).unwrap();
    for _ in 0..3 {
        allocator.allocate(30 * MIB).unwrap_err();
        assert_eq!(device.control().calls(Call::Budget), before + 1);
    }
}

/// Memory that could not be mapped together without too many mappings goes back and is obtained anew.
#[cfg(target_os = "linux")]
#[test]
fn holes_are_not_mapped_together_beyond_the_mappings_there_may_be() {
    let host = Arc::new(HostDevice::new().unwrap());
    let device = Arc::new(FaultyDevice::new(host).with_mappings_max(0));
    let allocator = Allocator::builder(device)
        .config(limited(64 << 20))
        .build()
        .unwrap();
    let mut blocks: Vec<_> = (0..15)
        .map(|_| Some(allocator.allocate(4 * MIB).unwrap()))
        .collect();
    blocks.iter_mut().step_by(2).for_each(|block| *block = None);
    let _large = allocator.allocate(20 * MIB).unwrap();
    let stats = allocator.stats();
    assert_eq!((stats.remaps, stats.failures), (0, 0));
    let stats = stats.out_of_memory;
    assert_eq!(stats.resolved_by(RecoveryStep::ReturnIdle), 1, "{stats:?}");
}
