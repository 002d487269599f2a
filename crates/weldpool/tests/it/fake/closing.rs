//! The end of a pool whose work goes on.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::{Device, DeviceQueue, Location, Timeline};
use weldpool::{Allocator, Config, Request, Result, StorageMode};

/// Says when it is asked after it was waited for, and answers when it is told to.
#[derive(Debug)]
struct SlowTimeline {
    inner: Arc<dyn Timeline>,
    waited: AtomicBool,
    asked: Mutex<Option<(Sender<()>, Receiver<()>)>>,
}

impl Timeline for SlowTimeline {
    fn completed(&self) -> Result<u64> {
        if self.waited.load(Ordering::SeqCst)
            && let Some((asked, answer)) = self.asked.lock().unwrap().take()
        {
            asked.send(()).unwrap();
            answer.recv().unwrap();
        }
        self.inner.completed()
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        let passed = self.inner.wait(value, timeout);
        self.waited.store(true, Ordering::SeqCst);
        passed
    }
}

#[derive(Debug)]
struct SlowQueue {
    inner: Arc<dyn DeviceQueue>,
    timeline: Arc<dyn Timeline>,
}

// SAFETY: the inner queue does all of it.
unsafe impl DeviceQueue for SlowQueue {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.copy(source, destination, bytes) }
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.fill(destination, bytes, value) }
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.inner.call(function)
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        self.inner.wait_for(timeline, value)
    }

    fn signal(&self) -> Result<u64> {
        self.inner.signal()
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

/// While whoever closes the pool looks whether work is over, the owner of a queue drops it, whose work goes on.
#[test]
fn a_queue_dropped_meanwhile_is_not_taken_for_ended() {
    let device = Arc::new(FakeDiscrete::builder().build().unwrap());
    let config = Config {
        wait_max: Duration::from_millis(3),
        ..Config::default()
    };
    let builder = Allocator::builder(device.clone()).config(config);
    let allocator = builder.build().unwrap();
    let ((asked, is_asked), (answer, may_answer)) = (channel(), channel());
    let inner = device.create_queue().unwrap();
    let slow = allocator.adopt_queue(Arc::new(SlowQueue {
        timeline: Arc::new(SlowTimeline {
            inner: Arc::clone(inner.timeline()),
            waited: AtomicBool::new(false),
            asked: Mutex::new(Some((asked, may_answer))),
        }),
        inner,
    }));
    let foreign = device.create_queue().unwrap();
    let busy = allocator.adopt_queue(Arc::clone(&foreign));
    let (ready, is_ready) = channel();
    let (end, may_end) = channel::<()>();
    // A thread that lives on, and keeps small memory in the orders of both queues.
    let (keeps, control) = (allocator.clone(), Arc::clone(&device));
    let keeping = thread::spawn(move || {
        let on = |queue| {
            let request = Request::new(1024)
                .storage(StorageMode::Private)
                .queue(queue);
            keeps.allocate_with(&request).unwrap()
        };
        for queue in [&slow, &busy] {
            let blocks = [0; 2].map(|_| on(queue));
            blocks.into_iter().for_each(|block| block.free_on(queue));
        }
        assert!(control.control().hang(1));
        let block = on(&busy);
        let place = {
            let binding = block.binding();
            Location {
                host: None,
                device: binding.device_address,
                resource: None,
            }
        };
        // SAFETY: the block is of so many bytes, and freed in the order of the queue.
        unsafe { foreign.fill(place, 1024, 7) }.unwrap();
        block.free_on(&busy);
        drop((keeps, foreign));
        ready.send((slow, busy)).unwrap();
        let _gone = may_end.recv();
    });
    let (slow, busy) = is_ready.recv().unwrap();
    let dropping = thread::spawn(move || {
        is_asked.recv().unwrap();
        drop(busy);
        answer.send(()).unwrap();
    });
    drop(allocator);
    dropping.join().unwrap();
    assert!(device.control().resume(1));
    while device.control().waiting(1) > 0 {
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(device.violations(), []);
    drop(end);
    keeping.join().unwrap();
    drop(slow);
}
