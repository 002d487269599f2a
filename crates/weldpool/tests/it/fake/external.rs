//! Work that others submit beside a queue of the Metal device.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weldpool::device::ExternalOrder;
use weldpool::device::fake::{FakeApple, Rule};
use weldpool::{
    Allocator, Binding, Buffer, ErrorKind, ExternalSubmission, Fence, Queue, Request, StorageMode,
};

const BYTES: usize = 64 << 10;

struct Setup {
    device: Arc<FakeApple>,
    allocator: Allocator,
    queue: Queue,
    buffer: Buffer,
    /// What ran, in its order.
    said: Said,
}

type Said = Arc<Mutex<Vec<&'static str>>>;

fn setup(seed: u64) -> Setup {
    let built = FakeApple::builder().delays(Duration::from_micros(200));
    let device = Arc::new(built.seed(seed).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let buffer = allocator.allocate(BYTES).unwrap();
    Setup {
        device,
        allocator,
        queue,
        buffer,
        said: Said::default(),
    }
}

/// Somebody else's work, in the order of the queue, that goes on until the sender is dropped; and the fence behind it.
fn open_work(
    device: &FakeApple,
    queue: &Queue,
    touches: (Binding<'_>, bool),
) -> (Sender<()>, Fence) {
    open_work_by(device, queue, queue, touches)
}

/// The same, submitted to the command queue of another queue, so that it holds up none of this one's.
fn open_work_by(
    device: &FakeApple,
    by: &Queue,
    queue: &Queue,
    touches: (Binding<'_>, bool),
) -> (Sender<()>, Fence) {
    let to = by.before_external_submit().unwrap().order().unwrap().queue;
    let submission = queue.before_external_submit().unwrap();
    let order = ExternalOrder {
        queue: to,
        ..submission.order().unwrap()
    };
    let (open, opened) = channel();
    let work = move || {
        let _opened = opened.recv_timeout(Duration::from_secs(60));
    };
    device.submit_external(&order, &[touches], work).unwrap();
    (open, queue.after_external_submit(submission).unwrap())
}

impl Setup {
    /// Somebody else's work on the buffer, in an order that may differ from what was said.
    fn submit(&self, order: &ExternalOrder) {
        let touches = [(self.buffer.binding(), true)];
        let said = Said::clone(&self.said);
        let work = move || said.lock().unwrap().push("theirs");
        self.device.submit_external(order, &touches, work).unwrap();
    }

    /// A function of the queue's.
    fn call(&self, what: &'static str) {
        let said = Said::clone(&self.said);
        let fence = self.queue.call(move || said.lock().unwrap().push(what));
        drop(fence.unwrap());
    }

    fn broken(&self) -> Vec<Rule> {
        let violations = self.device.violations();
        violations.iter().map(|broken| broken.rule).collect()
    }
}

#[test]
fn it_runs_between_what_was_submitted_before_and_after() {
    for seed in 0..20 {
        let mut made = setup(seed);
        for _ in 0..3 {
            made.queue.fill(&mut made.buffer, 5).unwrap();
            made.call("before");
            let submission = made.queue.before_external_submit().unwrap();
            made.submit(&submission.order().unwrap());
            made.queue.after_external_submit(submission).unwrap();
            made.buffer.note_use(&made.queue).unwrap();
            assert!(made.buffer.write::<u8>().is_err(), "it is in use");
            made.call("after");
            let mut copy = made.allocator.allocate(BYTES).unwrap();
            let fence = made.queue.copy(&made.buffer, &mut copy).unwrap();
            fence.wait(None).unwrap();
            let said = std::mem::take(&mut *made.said.lock().unwrap());
            assert_eq!(said, ["before", "theirs", "after"], "seed {seed}");
        }
        assert_eq!(made.broken(), []);
    }
}

#[test]
fn who_does_not_wait_is_noticed() {
    let mut made = setup(1);
    made.queue.fill(&mut made.buffer, 5).unwrap();
    let submission = made.queue.before_external_submit().unwrap();
    let order = submission.order().unwrap();
    let beside = ExternalOrder {
        wait: (order.wait.0, 0),
        ..order
    };
    made.submit(&beside);
    assert_eq!(made.broken(), [Rule::Ordered]);
    made.queue
        .after_external_submit(submission)
        .unwrap()
        .wait(None)
        .unwrap();
}

#[test]
fn who_does_not_say_that_he_has_submitted_is_noticed() {
    let mut made = setup(1);
    let submission = made.queue.before_external_submit().unwrap();
    made.submit(&submission.order().unwrap());
    made.queue.fill(&mut made.buffer, 5).unwrap();
    assert_eq!(made.broken(), [Rule::Ordered]);
    made.queue
        .after_external_submit(submission)
        .unwrap()
        .wait(None)
        .unwrap();
}

/// The later of two may end first, which says nothing of the other.
#[test]
fn announced_work_is_waited_for_whatever_was_announced_behind_it() {
    let mut made = setup(1);
    let submissions = [(); 2].map(|()| made.queue.before_external_submit().unwrap());
    let other = made.allocator.allocate(BYTES).unwrap();
    for (submission, used) in submissions.iter().zip([&made.buffer, &other]) {
        let touches = [(used.binding(), true)];
        let order = submission.order().unwrap();
        made.device
            .submit_external(&order, &touches, || ())
            .unwrap();
    }
    let [first, _never_given_back] = submissions;
    let fence = made.queue.after_external_submit(first).unwrap();
    made.queue.fill(&mut made.buffer, 5).unwrap();
    fence.wait(None).unwrap();
    assert_eq!(made.broken(), []);
}

#[test]
fn of_many_announcements_the_oldest_are_forgotten() {
    let mut made = setup(1);
    let announce = || made.queue.before_external_submit().unwrap();
    let (first, second) = (announce(), announce());
    let mut others: Vec<_> = (0..63).map(|_| announce()).collect();
    // What was announced last has the event of the first, which signals less.
    let last = others.pop().unwrap();
    let event = |of: &ExternalSubmission| of.order().unwrap().signal;
    assert_eq!(event(&last), (event(&first).0, event(&first).1 + 1));
    made.submit(&first.order().unwrap());
    let refused = made.queue.after_external_submit(first).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
    made.submit(&second.order().unwrap());
    assert_eq!(
        made.broken(),
        [Rule::Ordered],
        "of one that nobody waits for"
    );
    let fence = made.queue.after_external_submit(second).unwrap();
    made.submit(&last.order().unwrap());
    made.queue.after_external_submit(last).unwrap();
    made.queue.fill(&mut made.buffer, 5).unwrap();
    fence.wait(None).unwrap();
}

#[test]
fn memory_that_came_after_the_announcement_is_not_resident() {
    let mut made = setup(1);
    let early = made.queue.before_external_submit().unwrap();
    // A heap of its own, which no submission has committed.
    let request = Request::new(100 << 20).storage(StorageMode::Shared);
    made.buffer = made.allocator.allocate_with(&request).unwrap();
    made.submit(&early.order().unwrap());
    assert_eq!(made.broken(), [Rule::ResidencyCommitted]);
    made.queue
        .after_external_submit(early)
        .unwrap()
        .wait(None)
        .unwrap();
}

#[test]
fn an_announcement_is_of_one_queue_and_may_be_let_go() {
    let mut made = setup(1);
    let other = made.allocator.create_queue().unwrap();
    let submission = made.queue.before_external_submit().unwrap();
    let error = other.after_external_submit(submission).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    // Nobody waits for what was never submitted.
    drop(made.queue.before_external_submit().unwrap());
    made.queue
        .fill(&mut made.buffer, 1)
        .unwrap()
        .wait(None)
        .unwrap();
    assert_eq!(made.broken(), []);
}

#[test]
fn where_the_stream_keeps_the_order_nothing_is_asked() {
    let allocator = Allocator::host().unwrap();
    let queue = allocator.create_queue().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let submission = queue.before_external_submit().unwrap();
    assert_eq!(submission.order(), None);
    queue
        .call(move || counted.store(1, Ordering::Relaxed))
        .unwrap();
    queue
        .after_external_submit(submission)
        .unwrap()
        .wait(None)
        .unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn who_reads_the_same_memory_waits_for_nobody_and_the_given_fence_is_enough() {
    let mut made = setup(1);
    made.queue
        .fill(&mut made.buffer, 5)
        .unwrap()
        .wait(None)
        .unwrap();
    let other = made.allocator.create_queue().unwrap();
    let (open, fence) = open_work(&made.device, &made.queue, (made.buffer.binding(), false));
    made.queue.note_read(&made.buffer, &fence).unwrap();
    assert_eq!(made.buffer.read::<u8>().unwrap()[0], 5, "it is only read");
    let refused = made.buffer.write::<u8>().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    let mut copy = made.allocator.allocate(BYTES).unwrap();
    let copied = other.copy(&made.buffer, &mut copy).unwrap();
    copied.wait(Some(Duration::from_secs(60))).unwrap();
    drop(open);
    fence.wait(None).unwrap();
    made.buffer.write::<u8>().unwrap()[0] = 1;
    assert_eq!(made.broken(), []);
}

#[test]
fn what_is_written_is_shared_with_nobody_until_the_fence() {
    let made = setup(1);
    let mut view = made.buffer.share();
    let (open, fence) = open_work(&made.device, &made.queue, (view.binding(), true));
    let fence = made.queue.note_write(&mut view, &fence).unwrap();
    assert_eq!(
        view.read::<u8>().map(drop).unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(open);
    fence.wait(None).unwrap();
    view.read::<u8>().unwrap();
    assert_eq!(made.device.violations(), []);
}

#[test]
fn what_races_with_a_guard_is_an_error_and_noted_all_the_same() {
    let made = setup(1);
    let mut view = made.buffer.share();
    let other = view.clone();
    let (open, fence) = open_work(&made.device, &made.queue, (view.binding(), true));
    let reading = other.read::<u8>().unwrap();
    let raced = made.queue.note_write(&mut view, &fence).unwrap_err();
    assert_eq!(raced.kind(), ErrorKind::Busy);
    drop(reading);
    let refused = view.read::<u8>().map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "the work writes it");
    drop((view, other));
    assert!(made.allocator.stats().deferred_bytes >= BYTES as u64);
    drop(open);
    fence.wait(None).unwrap();
    let mut view = made.allocator.allocate(BYTES).unwrap().share();
    let (other, fence) = (view.clone(), made.queue.fence().unwrap());
    let writing = other.write::<u8>().unwrap();
    let raced = made.queue.note_read(&view, &fence).unwrap_err();
    assert_eq!(raced.kind(), ErrorKind::Busy);
    drop(writing);
    made.queue.note_write(&mut view, &fence).unwrap();
    assert_eq!(made.device.violations(), []);
}

/// Metal ends a wait that takes too long, and the queue fails; what it waited for goes on.
#[test]
fn what_goes_on_when_its_queue_has_failed_is_in_the_way_of_others() {
    let built = FakeApple::builder().event_wait_max(Duration::from_millis(50));
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let [queue, other, theirs] = [(); 3].map(|()| allocator.create_queue().unwrap());
    let [mut buffer, mut copy] = [(); 2].map(|()| allocator.allocate(BYTES).unwrap());
    let (open, fence) = open_work_by(&device, &theirs, &queue, (buffer.binding(), true));
    let fence = queue.note_write(&mut buffer, &fence).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while queue.fence().is_ok() {
        assert!(Instant::now() < end, "the wait is not ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (say, said) = channel();
    let early = std::thread::scope(|scope| {
        scope.spawn(|| {
            let copied = other.copy(&buffer, &mut copy);
            say.send(copied.and_then(|fence| fence.wait(None))).unwrap();
        });
        let early = said.recv_timeout(Duration::from_millis(300));
        let going_on = fence.wait(Some(Duration::ZERO)).unwrap_err();
        drop(open);
        (early, going_on.kind())
    });
    assert!(
        matches!(early, (Err(RecvTimeoutError::Timeout), ErrorKind::Timeout)),
        "{early:?}"
    );
    said.recv().unwrap().unwrap();
    let lost = fence.wait(None).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::DeviceLost);
    assert_eq!(device.violations(), []);
}

/// Behind a wait that Metal has ended, announced work begins beside what the queue waited for, and may end first.
#[test]
fn what_begins_when_its_queue_has_failed_says_nothing_of_what_goes_on() {
    let most = Duration::from_millis(800);
    let built = FakeApple::builder().event_wait_max(most);
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let [queue, theirs, others] = [(); 3].map(|()| allocator.create_queue().unwrap());
    let [first, second] = [(); 2].map(|()| allocator.allocate(BYTES).unwrap());
    let (open, fence) = open_work_by(&device, &theirs, &queue, (first.binding(), true));
    // What is committed now waits for the queue longer than that waits for the first.
    std::thread::sleep(most / 2);
    let others = others.before_external_submit().unwrap();
    let submission = queue.before_external_submit().unwrap();
    let order = ExternalOrder {
        queue: others.order().unwrap().queue,
        ..submission.order().unwrap()
    };
    let (say, said) = channel();
    let work = move || say.send(()).unwrap();
    let touches = [(second.binding(), true)];
    device.submit_external(&order, &touches, work).unwrap();
    let behind = queue.after_external_submit(submission).unwrap();
    said.recv_timeout(Duration::from_secs(60)).unwrap();
    for fence in [&fence, &behind] {
        let going_on = fence.wait(Some(Duration::from_millis(300))).unwrap_err();
        assert_eq!(going_on.kind(), ErrorKind::Timeout);
    }
    drop(open);
    for fence in [&fence, &behind] {
        let lost = fence.wait(Some(Duration::from_secs(60))).unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::DeviceLost);
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn a_lost_queue_stays_lost_when_work_is_given_back_too_late() {
    let built = FakeApple::builder().event_wait_max(Duration::from_millis(50));
    let device = Arc::new(built.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let [queue, theirs] = [(); 2].map(|()| allocator.create_queue().unwrap());
    let buffer = allocator.allocate(BYTES).unwrap();
    let late = queue.before_external_submit().unwrap();
    let (open, fence) = open_work_by(&device, &theirs, &queue, (buffer.binding(), true));
    let end = Instant::now() + Duration::from_secs(60);
    while queue.fence().is_ok() {
        assert!(Instant::now() < end, "the wait is not ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(open);
    let lost = |error: weldpool::Error| assert_eq!(error.kind(), ErrorKind::DeviceLost);
    lost(fence.wait(Some(Duration::from_secs(60))).unwrap_err());
    lost(queue.after_external_submit(late).unwrap_err());
    lost(fence.wait(Some(Duration::ZERO)).unwrap_err());
    assert_eq!(device.violations(), []);
}

#[test]
fn work_that_panics_ends_all_the_same() {
    let made = setup(1);
    let submission = made.queue.before_external_submit().unwrap();
    let order = submission.order().unwrap();
    let touches = [(made.buffer.binding(), false)];
    made.device
        .submit_external(&order, &touches, || panic!("it was to"))
        .unwrap();
    let fence = made.queue.after_external_submit(submission).unwrap();
    fence.wait(Some(Duration::from_secs(60))).unwrap();
}
