//! Drivers that do not tell whether work is over: the error is told, nothing hangs, and nothing that work may still
//! use is reused or given back.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use weldpool::device::fake::{Call, FakeDiscrete, Fault, When};
use weldpool::transfer::{Copier, CopyOptions};
use weldpool::{Allocator, Buffer, Config, ErrorKind, Queue, Request, StorageMode};
use weldpool_testkit::{FaultyDevice, Pages, block, in_time};

const MIB: usize = 1 << 20;

/// A device whose queues go on by hand, and whose every query and wait fails from now on.
struct Silent {
    device: Arc<FakeDiscrete>,
    allocator: Allocator,
    queue: Queue,
}

impl Silent {
    fn new() -> Self {
        let device = Arc::new(FakeDiscrete::builder().manual(true).build().unwrap());
        let config = Config {
            wait_max: Duration::from_millis(20),
            ..Config::default()
        };
        let builder = Allocator::builder(device.clone()).config(config);
        let allocator = builder.build().unwrap();
        let queue = allocator.create_queue().unwrap();
        Self {
            device,
            allocator,
            queue,
        }
    }

    fn silence(&self) {
        for call in Call::TIMELINE {
            self.device.control().inject(Fault {
                call,
                when: When::From(0),
                error: ErrorKind::System,
            });
        }
    }

    fn speak(&self) {
        assert_eq!(self.device.control().clear_faults().len(), 2);
    }

    fn private(&self) -> Buffer {
        let request = Request::new(MIB).storage(StorageMode::Private);
        self.allocator.allocate_with(&request).unwrap()
    }
}

fn start(buffer: &Buffer) -> u64 {
    buffer.binding().device_address.unwrap()
}

#[test]
fn fences_and_guards_say_so() {
    in_time(|| {
        let silent = Silent::new();
        let mut buffer = silent.allocator.allocate(4096).unwrap();
        let fence = silent.queue.fill(&mut buffer, 3).unwrap();
        silent.device.control().run_all();
        silent.silence();
        let asked = [
            fence.is_complete().map(drop),
            fence.wait(None),
            fence.wait(Some(Duration::ZERO)),
            buffer.wait(None),
        ];
        let kinds = asked.map(|result| result.unwrap_err().kind());
        assert_eq!(kinds, [ErrorKind::System; 4]);
        let refused = buffer.read::<u8>().map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        // More work is ordered behind, which takes no answer.
        silent.queue.fill(&mut buffer, 4).unwrap();
        silent.device.control().run_all();
        silent.speak();
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 4));
    });
}

#[test]
fn memory_in_doubt_is_for_its_own_queue_alone() {
    in_time(|| {
        for used in [false, true] {
            let silent = Silent::new();
            let Silent {
                device,
                allocator,
                queue,
            } = &silent;
            let mut buffer = silent.private();
            let old = start(&buffer);
            if used {
                queue.fill(&mut buffer, 1).unwrap();
                drop(buffer);
            } else {
                buffer.free_on(queue);
            }
            silent.silence();
            let other = allocator.create_queue().unwrap();
            let request = Request::new(MIB).storage(StorageMode::Private);
            for _ in 0..2 {
                let host = silent.private();
                let foreign = allocator.allocate_with(&request.queue(&other)).unwrap();
                assert!(start(&host) != old && start(&foreign) != old, "{used}");
                let reserved = allocator.stats().reserved.value;
                // Nothing else is to be had, so it is waited for, and then refused.
                allocator.set_reserved_bytes_max(Some(reserved)).unwrap();
                let rest: Vec<_> = std::iter::from_fn(|| {
                    let request = Request::new(MIB).storage(StorageMode::Private);
                    let result = allocator.allocate_with(&request);
                    result
                        .map_err(|error| assert_eq!(error.kind(), ErrorKind::LimitExceeded))
                        .ok()
                })
                .take(1000)
                .collect();
                assert!(rest.iter().all(|one| start(one) != old), "{used}");
                drop((host, foreign, rest));
                let _bytes = allocator.clear();
                assert!(allocator.stats().reserved.value >= MIB as u64);
                allocator.set_reserved_bytes_max(None).unwrap();
                // The second time its work is over, and nobody can know.
                device.control().run_all();
            }
            let own = allocator.allocate_with(&request.queue(queue)).unwrap();
            assert_eq!(start(&own), old, "{used}");
            own.free_on(queue);
            silent.speak();
            queue.fence().unwrap();
            device.control().run_all();
            let _bytes = allocator.clear();
            assert_eq!(allocator.stats().reserved.value, 0);
            assert_eq!(device.violations(), []);
        }
    });
}

#[test]
fn a_closed_pool_keeps_what_is_in_doubt() {
    in_time(|| {
        let silent = Silent::new();
        let mut buffer = silent.private();
        silent.queue.fill(&mut buffer, 1).unwrap();
        drop(buffer);
        silent.silence();
        let Silent {
            device,
            allocator,
            queue,
        } = silent;
        drop((queue, allocator));
        // The work touches memory that is there.
        device.control().run_all();
        assert_eq!(device.violations(), []);
    });
}

#[test]
fn registered_memory_comes_back_with_the_error() {
    in_time(|| {
        let silent = Silent::new();
        let registered = silent.allocator.register(Pages::new(1));
        let mut registered = registered.map_err(|failed| failed.error).unwrap();
        silent.queue.fill(&mut registered, 7).unwrap();
        silent.silence();
        let failed = registered.into_inner().map(drop).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::System);
        silent.device.control().run_all();
        silent.speak();
        let memory = failed.memory.into_inner();
        drop(memory.map_err(|failed| failed.error).unwrap());
        assert_eq!(silent.allocator.stats().registered.value, 0);
        assert_eq!(silent.device.violations(), []);
    });
}

/// Where a queue waits for one of another device by asking its timeline.
#[test]
fn a_queue_that_waits_for_another_asks_again() {
    in_time(|| {
        let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
        let (allocator, host) = (
            Allocator::builder(device.clone()).build().unwrap(),
            Allocator::host().unwrap(),
        );
        let (first, second) = (
            allocator.create_queue().unwrap(),
            host.create_queue().unwrap(),
        );
        let (open, opened) = block(&first);
        let mut middle = allocator.allocate(4096).unwrap();
        let mut target = host.allocate(4096).unwrap();
        first.fill(&mut middle, 5).unwrap();
        device.fail(Call::Wait, ErrorKind::System, 50);
        let copied = second.copy(&middle, &mut target).unwrap();
        let early = copied.wait(Some(Duration::from_millis(20))).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::Timeout);
        open.send(()).unwrap();
        copied.wait(None).unwrap();
        assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
        device.fail(Call::Wait, ErrorKind::System, 0);
        opened.wait(None).unwrap();
    });
}

/// Memory that a read gave up on, since the driver did not tell when it would be there, serves no other copy before.
#[test]
fn memory_for_copies_in_doubt_serves_no_other() {
    in_time(|| {
        let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let queues = [0; 2].map(|_| allocator.create_queue().unwrap());
        let [mut seven, mut five] = [0; 2].map(|_| allocator.allocate(4096).unwrap());
        queues[0].fill(&mut seven, 7).unwrap().wait(None).unwrap();
        let opens = queues.each_ref().map(|queue| block(queue).0);
        device.fail(Call::Wait, ErrorKind::System, 1);
        let error = queues[0].read(&seven, &mut [0_u8; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::System);
        let written = queues[1].write(&[5_u8; 4096], &mut five).unwrap();
        // The read that was given up comes first.
        for (open, queue) in opens.into_iter().zip(&queues) {
            open.send(()).unwrap();
            queue.fence().unwrap().wait(None).unwrap();
        }
        written.wait(None).unwrap();
        assert!(five.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
    });
}

/// A copy that cannot learn how far it is tells the error, and returns only once nothing touches either side.
#[test]
fn copies_tell_the_error_and_are_over() {
    in_time(|| {
        for call in Call::TIMELINE {
            for times in [1, 3, 20] {
                let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
                let allocator = Allocator::builder(device.clone()).build().unwrap();
                let copier = Copier::new().unwrap();
                let queue = allocator.create_queue().unwrap();
                let request = Request::new(4 * MIB).storage(StorageMode::Private);
                let mut there = allocator.allocate_with(&request).unwrap();
                let data = vec![9_u8; 4 * MIB];
                let mut back = vec![0_u8; 4 * MIB];
                for options in [CopyOptions::new(), CopyOptions::new().progress(|_| ())] {
                    for way in 0..4 {
                        device.fail(call, ErrorKind::System, times);
                        let result = match way {
                            0 => copier.copy_with(&data, &mut there, &options).map(drop),
                            1 => copier.copy_with(&there, &mut back, &options).map(drop),
                            2 => queue.write(&data, &mut there).map(drop),
                            _ => queue.read(&there, &mut back),
                        };
                        if let Err(error) = result {
                            assert_eq!(error.kind(), ErrorKind::System, "{call:?} {way}");
                        } else {
                            assert!(call == Call::Query || way == 2, "{call:?} {way} {times}");
                        }
                        device.fail(call, ErrorKind::System, 0);
                    }
                    queue.write(&data, &mut there).unwrap();
                    queue.read(&there, &mut back).unwrap();
                    assert!(back.iter().all(|&byte| byte == 9));
                    back.fill(0);
                }
                drop((there, queue));
                let _bytes = allocator.clear();
                let stats = allocator.stats();
                let held = (stats.live.value, stats.reserved.value, stats.staging.value);
                assert_eq!(held, (0, 0, 0), "{call:?} {times}");
            }
        }
    });
}

/// However often the driver does not tell, a copy that failed returns only when the device is at none of it.
#[test]
fn a_failed_copy_is_over_when_it_returns() {
    in_time(|| {
        let fake = Arc::new(FakeDiscrete::new().unwrap());
        let device = Arc::new(FaultyDevice::new(fake.clone()));
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        for options in [CopyOptions::new(), CopyOptions::new().progress(|_| ())] {
            let request = Request::new(4 * MIB).storage(StorageMode::Private);
            let mut there = allocator.allocate_with(&request).unwrap();
            let (asked, data) = (fake.clone(), vec![9_u8; 4 * MIB]);
            device.before(Call::Copy, move || {
                for queue in asked.control().queues() {
                    asked.control().hang(queue);
                }
            });
            device.fail(Call::Wait, ErrorKind::System, 5);
            let (done, over) = channel();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let copied = Copier::new()
                        .unwrap()
                        .copy_with(&data, &mut there, &options);
                    done.send(copied.unwrap_err().kind()).unwrap();
                });
                let early = over.recv_timeout(Duration::from_millis(200));
                device.clear_faults();
                for queue in fake.control().queues() {
                    fake.control().resume(queue);
                }
                assert!(early.is_err(), "the device is still at it");
                let told = over.recv_timeout(Duration::from_secs(20));
                assert_eq!(told, Ok(ErrorKind::System));
            });
        }
    });
}
