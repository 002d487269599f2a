//! A copier whose last handle goes on one of its own threads.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::transfer::{Copier, CopyOptions};
use weldpool::{Allocator, Request};
use weldpool_testkit::{FaultyDevice, block, in_time};

use super::{MIB, copier, private, receive};

/// Tells when the thread that has it ends.
struct Ends(Sender<ThreadId>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _sent = self.0.send(std::thread::current().id());
    }
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// The last handle of a copier. What it is given to drops it, and says on which thread.
struct Last {
    copier: Mutex<Option<Arc<Copier>>>,
    dropped: Sender<ThreadId>,
    ended: Sender<ThreadId>,
}

impl Last {
    fn drop_here(&self) {
        let Some(last) = self.copier.lock().unwrap().take() else {
            return;
        };
        assert_eq!(Arc::strong_count(&last), 1);
        ENDS.set(Some(Ends(self.ended.clone())));
        drop(last);
        self.dropped.send(std::thread::current().id()).unwrap();
    }
}

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        self.drop_here();
    }
}

fn allocator() -> Allocator {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    Allocator::builder(device).build().unwrap()
}

/// Begins work by `begin`, which is given a copier and who is to drop it, holds that up until the test has no
/// handle any more, and sees the copier go on the thread that did the work, which ends.
fn goes_on_its_own_thread<T>(begin: impl FnOnce(&Arc<Copier>, Arc<Last>) -> (Sender<()>, T)) -> T {
    let copier = Arc::new(copier(3));
    let ((dropped, is_dropped), (ended, has_ended)) = (channel(), channel());
    let last = Arc::new(Last {
        copier: Mutex::default(),
        dropped,
        ended,
    });
    let (open, under_way) = begin(&copier, Arc::clone(&last));
    *last.copier.lock().unwrap() = Some(copier);
    drop(open);
    let thread = receive(&is_dropped, "the copier is dropped");
    assert_ne!(thread, std::thread::current().id());
    assert_eq!(receive(&has_ended, "its thread ends"), thread);
    under_way
}

fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[test]
fn by_a_progress_function() {
    in_time(dropped_by_a_progress_function);
}

fn dropped_by_a_progress_function() {
    let allocator = allocator();
    let queue = allocator.create_queue().unwrap();
    let data = vec![7_u8; MIB];
    let copying = goes_on_its_own_thread(|copier, last| {
        let mut there = private(&allocator, MIB);
        let (open, _) = block(&queue);
        queue.fill(&mut there, 1).unwrap();
        let options = CopyOptions::new().progress(move |_| last.drop_here());
        (open, copier.copy_async(data.clone(), there, options))
    });
    // The copy under way goes on.
    let outcome = copying.wait().unwrap();
    assert_eq!(outcome.result.unwrap().bytes, MIB);
    let mut back = vec![0_u8; MIB];
    queue.read(&outcome.destination, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn by_whom_a_copy_wakes() {
    in_time(dropped_by_whom_a_copy_wakes);
}

fn dropped_by_whom_a_copy_wakes() {
    let allocator = allocator();
    let queue = allocator.create_queue().unwrap();
    let mut copying = goes_on_its_own_thread(|copier, last| {
        let mut there = private(&allocator, MIB);
        let (open, _) = block(&queue);
        queue.fill(&mut there, 1).unwrap();
        let mut copying = copier.copy_async(vec![7_u8; MIB], there, CopyOptions::new());
        let polled = poll(Pin::new(&mut copying), &last.into());
        assert!(polled.is_pending());
        (open, copying)
    });
    let Poll::Ready(outcome) = poll(Pin::new(&mut copying), Waker::noop()) else {
        panic!("it was woken before the end");
    };
    assert_eq!(outcome.copied_bytes, MIB);
}

#[test]
fn by_a_copy_that_nobody_waits_for() {
    in_time(dropped_by_a_copy_that_nobody_waits_for);
}

fn dropped_by_a_copy_that_nobody_waits_for() {
    /// Drops the copier with the options of the copy.
    struct WithOptions(Arc<Last>);
    impl Drop for WithOptions {
        fn drop(&mut self) {
            self.0.drop_here();
        }
    }
    let allocator = allocator();
    let queue = allocator.create_queue().unwrap();
    goes_on_its_own_thread(|copier, last| {
        let there = private(&allocator, MIB);
        let (reached, is_reached) = channel();
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let owner = WithOptions(last);
        let options = CopyOptions::new().progress(move |_| {
            let _owner = &owner;
            if reached.send(()).is_ok() {
                let _opened = gate.lock().unwrap().recv();
            }
        });
        let copying = copier.copy_async(vec![7_u8; MIB], there, options.threads_max(1));
        receive(&is_reached, "the copy begins");
        drop(is_reached);
        // Dropped, it is the thread's alone.
        drop(copying);
        (open, ())
    });
    queue.fence().unwrap().wait(None).unwrap();
    assert_eq!(allocator.stats().live.value, 0);
}

#[test]
fn by_whom_an_allocation_wakes() {
    in_time(dropped_by_whom_an_allocation_wakes);
}

fn dropped_by_whom_an_allocation_wakes() {
    let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let (open, gate) = channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    for call in [Call::CreateSegment, Call::CreatePhysical] {
        let gate = Arc::clone(&gate);
        device.before(call, move || {
            let _opened = gate.lock().unwrap().recv();
        });
    }
    let mut allocating = goes_on_its_own_thread(|copier, last| {
        let mut allocating = copier.allocate_async(&allocator, Request::new(MIB));
        assert!(poll(Pin::new(&mut allocating), &last.into()).is_pending());
        (open, allocating)
    });
    let Poll::Ready(buffer) = poll(Pin::new(&mut allocating), Waker::noop()) else {
        panic!("it was woken before the end");
    };
    assert_eq!(buffer.unwrap().len(), MIB);
}
