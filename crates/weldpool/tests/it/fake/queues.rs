//! Queues of the fakes: order, delays, steps by hand, hanging and loss.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::DeviceQueue;
use weldpool::device::fake::{Call, FakeApple, FakeDiscrete, Fault, Step, When};
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Config, Device, ErrorKind, Request, StorageMode};
use weldpool_testkit::{FaultyDevice, block, in_time};

use super::Fake;

const LONG: Option<Duration> = Some(Duration::from_secs(60));

#[test]
fn queues_end_out_of_order_and_each_in_its_own() {
    let device = FakeDiscrete::builder()
        .seed(5)
        .delays(Duration::from_micros(400))
        .build()
        .unwrap();
    let (report, order) = channel();
    let queues = [0, 1].map(|_| device.create_queue().unwrap());
    for item in 0..40 {
        for (number, queue) in queues.iter().enumerate() {
            let report = report.clone();
            let call = move || report.send((number, item)).unwrap();
            queue.call(Box::new(call)).unwrap();
        }
    }
    drop(report);
    let order: Vec<(usize, i32)> = order.iter().collect();
    for number in 0..2 {
        let own = order.iter().filter(|(queue, _)| *queue == number);
        assert!(own.map(|(_, item)| *item).eq(0..40));
    }
    let submitted = (0..40).flat_map(|item| [(0, item), (1, item)]);
    assert!(!submitted.eq(order), "no queue was ever later than another");
}

#[test]
fn steps_come_out_the_same_for_the_same_seed() {
    let order = |seed| {
        let device = FakeDiscrete::builder()
            .seed(seed)
            .manual(true)
            .build()
            .unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let queues = [0, 1, 2].map(|_| device.create_queue().unwrap());
        for (number, queue) in queues.iter().enumerate() {
            for item in 0..5 {
                let order = Arc::clone(&order);
                let call = move || order.lock().unwrap().push((number, item));
                queue.call(Box::new(call)).unwrap();
            }
        }
        assert_eq!(device.control().run_all(), 15);
        order.lock().unwrap().clone()
    };
    assert_eq!(order(3), order(3));
    assert!((4..10).any(|seed| order(seed) != order(3)));
}

#[test]
fn a_queue_by_hand_does_one_item_at_a_time() {
    let device = Arc::new(FakeDiscrete::builder().manual(true).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let (first, second) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    let mut source = allocator.allocate(1000).unwrap();
    source.write::<u8>().unwrap().fill(1);
    let mut middle = allocator
        .allocate_with(&Request::new(1000).storage(StorageMode::Private))
        .unwrap();
    let mut target = allocator.allocate(1000).unwrap();
    let filled = first.copy(&source, &mut middle).unwrap();
    let copied = second.copy(&middle, &mut target).unwrap();
    assert_eq!(device.control().queues(), [0, 1]);
    // The second queue waits for the first, then copies, then signals.
    assert_eq!(device.control().waiting(1), 3);
    assert_eq!(device.step(1), Step::Waiting);
    assert_eq!(device.step(0), Step::Ran);
    assert!(!filled.is_complete().unwrap(), "copied, not yet signalled");
    assert_eq!(device.step(1), Step::Waiting);
    assert_eq!(device.step(0), Step::Ran);
    assert!(filled.is_complete().unwrap());
    assert_eq!(device.step(0), Step::Idle);
    for _ in 0..3 {
        assert_eq!(device.step(1), Step::Ran);
    }
    assert!(copied.is_complete().unwrap());
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    assert_eq!(device.step(77), Step::Idle);
}

#[test]
fn run_until_steps_what_is_waited_for() {
    let device = FakeDiscrete::builder().manual(true).build().unwrap();
    let queues = [0, 1, 2].map(|_| device.create_queue().unwrap());
    let first = queues[0].signal().unwrap();
    queues[1].wait_for(queues[0].timeline(), first).unwrap();
    let second = queues[1].signal().unwrap();
    queues[2].wait_for(queues[1].timeline(), second).unwrap();
    let third = queues[2].signal().unwrap();
    assert!(device.run_until(2, third));
    assert_eq!(queues[2].timeline().completed().unwrap(), third);
    assert!(!device.run_until(2, third + 1), "nothing signals that");
    // Two queues that wait for each other never go on, and it shows.
    queues[0]
        .wait_for(queues[1].timeline(), second + 1)
        .unwrap();
    queues[1].wait_for(queues[0].timeline(), first + 1).unwrap();
    let never = queues[0].signal().unwrap();
    assert!(!device.run_until(0, never));
    assert_eq!(device.control().run_all(), 0);
}

#[test]
fn a_full_queue_by_hand_is_an_error_and_not_a_deadlock() {
    let device = Arc::new(FakeDiscrete::builder().manual(true).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let error = (0..10_000).find_map(|_| queue.call(|| ()).err()).unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    // Functions and signals; the refused one left none.
    assert_eq!(device.control().waiting(0), 1024);
    let end = queue.fence().unwrap();
    assert_eq!(device.control().run_all(), 1024);
    assert!(end.is_complete().unwrap());
    queue.call(|| ()).unwrap();
}

#[test]
fn a_full_queue_refuses_who_did_not_wait_for_room() {
    let device = FakeDiscrete::new().unwrap();
    let queue = device.create_queue().unwrap();
    assert!(device.control().hang(0));
    let call = |_| queue.call(Box::new(|| ())).err();
    let error = (0..10_000).find_map(call).unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert!(!queue.wait_for_room(Some(Duration::ZERO)).unwrap());
    let first = queue.signal().unwrap();
    assert_eq!(
        queue.signal().unwrap(),
        first + 1,
        "signals are not refused"
    );
    assert!(device.control().resume(0));
    assert!(queue.wait_for_room(None).unwrap());
    assert!(queue.timeline().wait(first + 1, LONG).unwrap());
    queue.call(Box::new(|| ())).unwrap();
}

/// The host waits where the device cannot. Meanwhile others submit to the queue, and free in its order.
#[test]
fn a_wait_by_the_host_keeps_nobody_from_the_queue() {
    let device = FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())).without_waits();
    let allocator = Allocator::builder(Arc::new(device)).build().unwrap();
    let [busy, queue] = [0; 2].map(|_| allocator.create_queue().unwrap());
    let (open, _) = block(&busy);
    let mut middle = allocator.allocate(4096).unwrap();
    busy.fill(&mut middle, 5).unwrap();
    let [mut target, freed] = [0; 2].map(|_| allocator.allocate(4096).unwrap());
    let (done, over) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| queue.copy(&middle, &mut target).unwrap());
        scope.spawn(|| {
            // Until the other thread waits.
            std::thread::sleep(Duration::from_millis(100));
            freed.free_on(&queue);
            queue.fence().unwrap().wait(LONG).unwrap();
            done.send(()).unwrap();
        });
        let ended = over.recv_timeout(Duration::from_secs(20));
        open.send(()).unwrap();
        ended.expect("the queue is free");
    });
    target.wait(LONG).unwrap();
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
}

#[test]
fn a_hung_queue_never_signals_until_resumed() {
    for manual in [false, true] {
        let device = FakeDiscrete::builder().manual(manual).build().unwrap();
        let queue = device.create_queue().unwrap();
        assert!(device.control().hang(0));
        let value = queue.signal().unwrap();
        let timeline = Arc::clone(queue.timeline());
        device.control().run_all();
        assert!(
            !timeline
                .wait(value, Some(Duration::from_millis(10)))
                .unwrap()
        );
        if manual {
            assert_eq!(device.step(0), Step::Held);
        }
        assert!(device.control().resume(0));
        device.control().run_all();
        assert!(timeline.wait(value, LONG).unwrap());
        assert!(!device.control().hang(1), "there is no such queue");
    }
}

#[test]
fn a_hung_queue_ends_with_its_device() {
    let device = FakeDiscrete::new().unwrap();
    let queue = device.create_queue().unwrap();
    assert!(device.control().hang(0));
    let value = queue.signal().unwrap();
    let timeline = Arc::clone(queue.timeline());
    drop((queue, device));
    assert!(timeline.wait(value, LONG).unwrap());
}

#[test]
fn a_queue_dropped_first_still_does_its_work() {
    let device = FakeApple::builder().manual(true).build().unwrap();
    let queue = device.create_queue().unwrap();
    let timeline = Arc::clone(queue.timeline());
    let value = queue.signal().unwrap();
    drop(queue);
    assert_eq!(device.control().queues(), [0]);
    assert!(device.run_until(0, value));
    assert_eq!(timeline.completed().unwrap(), value);
    assert!(device.control().queues().is_empty());
}

#[test]
fn a_lost_queue_takes_nobody_with_it() {
    let device = FakeDiscrete::builder().manual(true).build().unwrap();
    let queues = [0, 1].map(|_| device.create_queue().unwrap());
    let passed = queues[0].signal().unwrap();
    assert_eq!(device.step(0), Step::Ran);
    let never = queues[0].signal().unwrap();
    queues[1].wait_for(queues[0].timeline(), never).unwrap();
    let other = queues[1].signal().unwrap();
    assert!(device.control().lose_queue(0));
    assert_eq!(device.step(0), Step::Lost);
    let lost = queues[0].timeline();
    assert!(lost.wait(passed, None).unwrap(), "what passed has passed");
    assert_eq!(
        lost.wait(never, None).unwrap_err().kind(),
        ErrorKind::DeviceLost
    );
    assert_eq!(lost.completed().unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(
        queues[0].signal().unwrap_err().kind(),
        ErrorKind::DeviceLost
    );
    // Who waited for it goes on, since its work will never run.
    assert!(device.run_until(1, other));
}

#[test]
fn a_lost_device_fails_every_call_and_every_wait() {
    for manual in [false, true] {
        let device = Arc::new(FakeDiscrete::builder().manual(manual).build().unwrap());
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let mut buffer = allocator.allocate(4096).unwrap();
        assert!(device.control().hang(0));
        let fence = queue.fill(&mut buffer, 1).unwrap();
        device.control().lose();
        assert_eq!(fence.wait(None).unwrap_err().kind(), ErrorKind::DeviceLost);
        assert_eq!(device.budget().unwrap_err().kind(), ErrorKind::DeviceLost);
        let error = allocator.allocate(100 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost);
        assert_eq!(
            allocator.create_queue().unwrap_err().kind(),
            ErrorKind::DeviceLost
        );
        let error = queue.fill(&mut buffer, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost);
        let memory = device.virtual_memory(StorageMode::Private).unwrap();
        assert_eq!(
            memory.reserve(2 << 20).unwrap_err().kind(),
            ErrorKind::DeviceLost
        );
        // The work never ran, and its memory is free of it.
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
        assert!(device.violations().is_empty());
    }
}

#[test]
fn a_host_function_that_panics_leaves_the_queue_alive() {
    let discrete: Arc<dyn Device> = Arc::new(FakeDiscrete::new().unwrap());
    let apple: Arc<dyn Device> = Arc::new(FakeApple::new().unwrap());
    for device in [discrete, apple] {
        let queue = device.create_queue().unwrap();
        queue.call(Box::new(|| panic!("on purpose"))).unwrap();
        let value = queue.signal().unwrap();
        assert!(
            queue
                .timeline()
                .wait(value, Some(Duration::from_secs(20)))
                .unwrap()
        );
    }
}

#[test]
fn what_a_lost_queue_did_not_call_is_dropped() {
    let discrete: Arc<dyn Fake> = Arc::new(FakeDiscrete::new().unwrap());
    let apple: Arc<dyn Fake> = Arc::new(FakeApple::new().unwrap());
    for device in [discrete, apple] {
        let queue = device.create_queue().unwrap();
        assert!(device.control().hang(0));
        let (call, called) = channel::<()>();
        queue
            .call(Box::new(move || call.send(()).unwrap()))
            .unwrap();
        assert!(device.control().lose_queue(0));
        // It ends with the function, which has sent nothing.
        let dropped = called.recv_timeout(Duration::from_secs(20));
        assert_eq!(dropped, Err(RecvTimeoutError::Disconnected));
    }
}

/// Metal terminates a command buffer that waits for an event too long, as behind a slow function.
#[test]
fn a_wait_that_takes_too_long_loses_its_queue_once_nothing_of_it_runs() {
    let built = FakeApple::builder().event_wait_max(Duration::from_millis(50));
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut before = allocator.allocate(4096).unwrap();
    let first = queue.fill(&mut before, 1).unwrap();
    let mut used = allocator.allocate(4096).unwrap();
    let (open, opened) = channel::<()>();
    let (say, said) = channel();
    let say_again = say.clone();
    let function = queue.call(move || {
        say.send(()).unwrap();
        let _opened = opened.recv_timeout(Duration::from_secs(60));
    });
    let _later = queue.call(move || say_again.send(()).unwrap()).unwrap();
    let behind = queue.fill(&mut used, 2).unwrap();
    said.recv_timeout(Duration::from_secs(60)).unwrap();
    // Terminated meanwhile; the function still runs, so nothing is over.
    let early = behind.wait(Some(Duration::from_millis(400)));
    assert_eq!(early.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(queue.fence().unwrap_err().kind(), ErrorKind::DeviceLost);
    // The later function is called meanwhile, and leaves the gate above what the first one raises it to.
    said.recv_timeout(Duration::from_secs(60)).unwrap();
    open.send(()).unwrap();
    let lost = [function.unwrap(), behind].map(|fence| fence.wait(None).unwrap_err());
    assert!(
        lost.iter()
            .all(|error| error.kind() == ErrorKind::DeviceLost)
    );
    assert!(lost[0].to_string().contains("in time"), "{}", lost[0]);
    first.wait(None).unwrap();
    assert_eq!(before.read::<u8>().unwrap()[0], 1);
    drop((before, used, queue));
    // Other queues go on.
    let other = allocator.create_queue().unwrap();
    let mut more = allocator.allocate(4096).unwrap();
    other.fill(&mut more, 3).unwrap().wait(None).unwrap();
    assert_eq!(device.violations(), []);
}

/// Its points are signalled by what runs behind the failure, so they say nothing; and the host, which is in the function,
/// cannot wait for the end.
#[test]
fn what_a_function_of_a_failing_queue_has_wait_for_it_waits_for_the_function() {
    let built = FakeApple::builder().event_wait_max(Duration::from_secs(2));
    let device = built.build().unwrap();
    let [queue, other] = [(); 2].map(|()| device.create_queue().unwrap());
    let (give, given) = channel();
    let (say, said) = channel();
    let (failing, waiting) = (Arc::clone(&queue), Arc::clone(&other));
    let function = move || {
        let point = given.recv_timeout(Duration::from_secs(60)).unwrap();
        while failing.signal().is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(waiting.waits_by_itself(failing.timeline()));
        waiting.wait_for(failing.timeline(), point).unwrap();
        let say_so = say.clone();
        let call = move || say_so.send("behind it").unwrap();
        waiting.call(Box::new(call)).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        say.send("the function").unwrap();
    };
    queue.call(Box::new(function)).unwrap();
    give.send(queue.signal().unwrap()).unwrap();
    let called = [(); 2].map(|()| said.recv_timeout(Duration::from_secs(60)).unwrap());
    assert_eq!(called, ["the function", "behind it"]);
    assert_eq!(device.violations(), []);
}

#[test]
fn a_function_that_is_refused_is_dropped_with_no_lock_held() {
    let (done, over) = channel();
    std::thread::spawn(move || {
        for lose in [false, true] {
            let device = Arc::new(FakeDiscrete::new().unwrap());
            let allocator = Allocator::builder(device.clone()).build().unwrap();
            let queue = allocator.create_queue().unwrap();
            let request = Request::new(1 << 20).storage(StorageMode::Private);
            let first = allocator.allocate_with(&request).unwrap();
            first.free_on(&queue);
            // Its own once the queue has gone on from here, which takes a signal when it is dropped.
            let again = allocator.allocate_with(&request.queue(&queue)).unwrap();
            if lose {
                device.control().lose();
            } else {
                device.control().inject(Fault {
                    call: Call::HostCall,
                    when: When::Nth(1),
                    error: ErrorKind::System,
                });
            }
            let refused = queue.call(move || drop(again)).unwrap_err();
            let kind = match lose {
                true => ErrorKind::DeviceLost,
                false => ErrorKind::System,
            };
            assert_eq!(refused.kind(), kind);
            assert_eq!(allocator.stats().live.value, 0);
        }
        done.send(()).unwrap();
    });
    over.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn each_kind_of_call_fails_when_told_and_is_counted() {
    const CALLS: u64 = 4;
    let calls = [
        Call::Copy,
        Call::Fill,
        Call::HostCall,
        Call::Signal,
        Call::WaitFor,
        Call::Query,
        Call::Wait,
    ];
    for (call, nth) in calls
        .into_iter()
        .flat_map(|call| (1..=CALLS).map(move |nth| (call, nth)))
    {
        let device = Arc::new(FakeDiscrete::new().unwrap());
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let other = allocator.create_queue().unwrap();
        let source = allocator.allocate(64).unwrap();
        let mut target = allocator.allocate(64).unwrap();
        let fence = queue.fence().unwrap();
        let before = device.control().calls(call);
        device.control().inject(Fault {
            call,
            when: When::Nth(before + nth),
            error: ErrorKind::System,
        });
        for number in 1..=CALLS {
            assert!(device.control().hang(1));
            let result = match call {
                Call::Copy => queue.copy(&source, &mut target).map(drop),
                Call::Fill => queue.fill(&mut target, 1).map(drop),
                Call::HostCall => queue.call(|| ()).map(drop),
                Call::Signal => queue.fence().map(drop),
                Call::Query => fence.is_complete().map(drop),
                Call::Wait => fence.wait(LONG),
                _ => {
                    other.fill(&mut target, 1).unwrap();
                    queue.copy(&source, &mut target).map(drop)
                }
            };
            assert_eq!(device.control().calls(call), before + number, "{call:?}");
            let kind = result.err().map(|error| error.kind());
            let expected = (number == nth).then_some(ErrorKind::System);
            assert_eq!(kind, expected, "{call:?} {number} of {nth}");
            assert!(device.control().resume(1));
            if !Call::TIMELINE.contains(&call) {
                target.wait(LONG).unwrap();
            }
        }
        assert_eq!(device.control().clear_faults().len(), 1);
        assert_eq!(device.violations(), []);
    }
}

/// A driver may be long about the signal that ends a dropped queue. Nobody waits for it who uses, or makes, another.
#[test]
fn the_end_of_a_queue_keeps_no_other_queue_waiting() {
    let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let ended = allocator.create_queue().unwrap();
    let (report, made) = channel();
    // For the first signal alone: the queue that is made ends with one too.
    let first = Mutex::new(Some((allocator.clone(), report)));
    device.before(Call::Signal, move || {
        let Some((maker, report)) = first.lock().unwrap().take() else {
            return;
        };
        let (done, is_done) = channel();
        std::thread::spawn(move || {
            let queue = maker.create_queue();
            // Whoever waited for it may have given up.
            let _late = done.send(queue.is_ok());
        });
        let made = is_done.recv_timeout(Duration::from_secs(10));
        report.send(made == Ok(true)).unwrap();
    });
    drop(ended);
    device.clear_faults();
    assert_eq!(made.iter().collect::<Vec<_>>(), [true]);
}

#[test]
fn reading_statistics_gives_nothing_back_and_tells_what_is_over_as_idle() {
    let device = Arc::new(FakeDiscrete::builder().manual(true).build().unwrap());
    let config = Config {
        pooling: false,
        ..Config::default()
    };
    let builder = Allocator::builder(device.clone()).config(config);
    let allocator = builder.build().unwrap();
    let queues = [0, 1].map(|_| allocator.create_queue().unwrap());
    let request = Request::new(1 << 20).storage(StorageMode::Private);
    let [source, mut one, mut other] = [0; 3].map(|_| allocator.allocate_with(&request).unwrap());
    queues[0].copy(&source, &mut one).unwrap();
    queues[1].copy(&source, &mut other).unwrap();
    drop(source);
    let waiting = allocator.stats();
    assert!(waiting.deferred_bytes >= 1 << 20, "{waiting}");
    device.control().run_all();
    let over = allocator.stats();
    assert_eq!(over.deferred_bytes, 0, "{over}");
    assert_eq!(over.reserved.value, waiting.reserved.value);
    assert_eq!(
        over.cached_bytes,
        waiting.cached_bytes + waiting.deferred_bytes
    );
    assert_eq!(over.driver_calls, waiting.driver_calls);
    let _bytes = allocator.clear();
    assert!(allocator.stats().reserved.value < over.reserved.value);
}

/// Asks the queue whether it has room when it is dropped, which takes the queue's lock.
struct Asks(Arc<dyn DeviceQueue>);

impl Drop for Asks {
    fn drop(&mut self) {
        self.0.wait_for_room(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn what_a_refused_function_owns_may_want_the_queue() {
    in_time(|| {
        let fake = Arc::new(FakeDiscrete::new().unwrap());
        let devices: [Arc<dyn Device>; 2] = [fake.clone(), Arc::new(HostDevice::new().unwrap())];
        for device in devices {
            let queue = device.create_queue().unwrap();
            let (open, gate) = channel::<()>();
            let held = move || {
                let _opened = gate.recv();
            };
            queue.call(Box::new(held)).unwrap();
            let call = |_| {
                let owned = Asks(queue.clone());
                queue.call(Box::new(move || drop(owned))).err()
            };
            let error = (0..10_000).find_map(call).unwrap();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
            drop(open);
            queue.finish().unwrap();
        }
        let queue = fake.create_queue().unwrap();
        assert!(fake.control().lose_queue(1));
        let owned = Asks(queue.clone());
        let error = queue.call(Box::new(move || drop(owned))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost);
    });
}
