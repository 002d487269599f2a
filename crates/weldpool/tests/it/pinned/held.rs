//! Requests for held memory alone.

use std::sync::mpsc::channel;
use std::thread;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Config, ErrorKind, HealthStatus, Request, StorageMode};

use super::{Gate, LONG, MIB, devices, faulty};

#[test]
fn where_nothing_is_held_they_are_refused_at_once_and_nothing_is_counted() {
    for (device, storage) in devices() {
        let allocator = Allocator::builder(device).build().unwrap();
        let before = allocator.stats();
        for bytes in [1, 4096, 100_000, 10 * MIB] {
            let request = Request::new(bytes).storage(storage).held_only(true);
            let error = allocator.allocate_with(&request.name("held")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            assert_eq!(error.requested_bytes(), Some(bytes));
            assert_eq!(error.requested_name(), Some("held"));
        }
        let after = allocator.stats();
        assert_eq!(after.driver_calls, before.driver_calls);
        assert_eq!((after.failures, after.memory_failures), (0, 0));
        assert_eq!(after.out_of_memory, before.out_of_memory);
        assert_eq!(allocator.report().health.status, HealthStatus::Healthy);
        // What is wrong with a request is said as ever.
        let wrong = Request::new(0).held_only(true);
        let kind = allocator.allocate_with(&wrong).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::InvalidRequest);
        assert_eq!(allocator.stats().failures, 1);
    }
}

#[test]
fn what_is_idle_serves_them_without_a_driver_call() {
    for (device, storage) in devices() {
        let allocator = Allocator::builder(device).build().unwrap();
        let request = |bytes| Request::new(bytes).storage(storage);
        drop(allocator.allocate_with(&request(8 * MIB)).unwrap());
        let calls = allocator.stats().driver_calls;
        let mut held = Vec::new();
        for bytes in [100, 5000, 70_000, MIB, 2 * MIB, 3 * MIB] {
            let request = request(bytes).held_only(true);
            held.push(allocator.allocate_with(&request).unwrap());
        }
        let request = request(4 * MIB).held_only(true);
        let error = allocator.allocate_with(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        held.clear();
        // The rests are joined for it.
        drop(allocator.allocate_with(&request).unwrap());
        assert_eq!(allocator.stats().driver_calls, calls);
    }
}

#[test]
fn what_other_threads_keep_serves_them() {
    let allocator = Allocator::host().unwrap();
    let (kept, is_kept) = channel();
    let (end, may_end) = channel::<()>();
    let other = allocator.clone();
    let idle = thread::spawn(move || {
        drop([(); 4].map(|()| other.allocate(MIB).unwrap()));
        kept.send(()).unwrap();
        let _ended = may_end.recv();
    });
    is_kept.recv().unwrap();
    let calls = allocator.stats().driver_calls;
    let request = Request::new(4 * MIB).held_only(true);
    drop(allocator.allocate_with(&request).unwrap());
    assert_eq!(allocator.stats().driver_calls, calls);
    drop(end);
    idle.join().unwrap();
}

#[test]
fn they_do_not_wait_for_a_thread_inside_of_the_driver() {
    for inner in ["host", "discrete"] {
        let (device, allocator) = match inner {
            "host" => faulty(HostDevice::new().unwrap()),
            _ => faulty(FakeDiscrete::new().unwrap()),
        };
        drop(allocator.allocate(4 * MIB).unwrap());
        let gate = Gate::before(&device);
        let other = allocator.clone();
        let growing = thread::spawn(move || other.reserve(16 * MIB, StorageMode::Shared).unwrap());
        gate.await_caller();
        let (done, is_done) = channel();
        let caller = allocator.clone();
        let asking = thread::spawn(move || {
            let mut kinds = Vec::new();
            for bytes in [1000, 200_000, 2 * MIB, 32 * MIB] {
                let request = Request::new(bytes).held_only(true);
                kinds.push(caller.allocate_with(&request).map_err(|error| error.kind()));
            }
            done.send(kinds.iter().map(Result::is_ok).collect::<Vec<_>>())
                .unwrap();
        });
        let served = is_done.recv_timeout(LONG);
        gate.open();
        assert_eq!(served.unwrap(), [true, true, true, false], "{inner}");
        asking.join().unwrap();
        assert!(growing.join().unwrap() >= 16 * MIB);
    }
}

#[test]
fn memory_that_work_still_uses_serves_its_own_queue_alone() {
    let device = FakeDiscrete::builder().manual(true).build().unwrap();
    let device = std::sync::Arc::new(device);
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let (queue, other) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    let request = Request::new(4 * MIB).storage(StorageMode::Private);
    let mut buffer = allocator.allocate_with(&request.queue(&queue)).unwrap();
    queue.fill(&mut buffer, 1).unwrap();
    buffer.free_on(&queue);
    let held = request.held_only(true);
    for foreign in [held, held.queue(&other)] {
        let error = allocator.allocate_with(&foreign).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
    allocator
        .allocate_with(&held.queue(&queue))
        .unwrap()
        .free_on(&queue);
    assert!(device.control().run_all() > 0);
    // The end of what was freed since the last signal may have to be marked, which a request sees to.
    drop(allocator.allocate_with(&held));
    device.control().run_all();
    drop(allocator.allocate_with(&held).unwrap());
    assert_eq!(device.violations(), []);
}

#[test]
fn without_pooling_nothing_is_held() {
    let config = Config {
        pooling: false,
        ..Config::default()
    };
    let device = std::sync::Arc::new(HostDevice::new().unwrap());
    let allocator = Allocator::builder(device).config(config).build().unwrap();
    let held = Request::new(4096).held_only(true);
    let error = allocator.allocate_with(&held).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let error = allocator.reserve(4096, StorageMode::Shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}
