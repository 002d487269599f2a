//! The hard cases of reuse in the order of device work. Each fails when a wait is left out:
//! `cargo xtask mutants` leaves out one after the other.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::{Call, Control, FakeApple, FakeDiscrete, Step};
use weldpool::device::{DeviceQueue, Location};
use weldpool::{
    Allocator, Buffer, Config, Device, ErrorKind, Queue, Registered, Request, StorageMode,
};
#[cfg(target_os = "linux")]
use weldpool_testkit::block;

const MIB: usize = 1 << 20;

/// A device whose queues go on by hand.
#[derive(Clone)]
enum Fake {
    Discrete(Arc<FakeDiscrete>),
    Apple(Arc<FakeApple>),
}

impl Fake {
    fn discrete() -> Self {
        let built = FakeDiscrete::builder().manual(true).delays(Duration::ZERO);
        Self::Discrete(Arc::new(built.build().unwrap()))
    }

    fn apple() -> Self {
        let built = FakeApple::builder().manual(true).delays(Duration::ZERO);
        Self::Apple(Arc::new(built.build().unwrap()))
    }

    fn device(&self) -> Arc<dyn Device> {
        match self {
            Self::Discrete(device) => device.clone(),
            Self::Apple(device) => device.clone(),
        }
    }

    fn control(&self) -> &Control {
        match self {
            Self::Discrete(device) => device.control(),
            Self::Apple(device) => device.control(),
        }
    }
}

/// Runs cases on both devices: `discrete::CASE` and `apple::CASE`.
macro_rules! on_both {
    ($($case:ident,)*) => {
        mod discrete {
            $(#[test] fn $case() { super::$case(super::Bench::over(super::Fake::discrete())); })*
        }
        mod apple {
            $(#[test] fn $case() { super::$case(super::Bench::over(super::Fake::apple())); })*
        }
    };
}

on_both! {
    the_host_does_not_reuse_what_a_queued_copy_has_yet_to_read,
    the_host_is_refused_while_work_uses_a_buffer,
    another_queue_does_not_steal_what_a_queue_still_uses,
    work_waits_for_the_work_of_another_queue,
    memory_that_two_queues_use_waits_for_both,
    a_fence_that_never_passes_keeps_its_memory,
    a_queue_that_is_dropped_first_keeps_its_memory,
    memory_freed_on_a_queue_waits_for_work_since_its_last_signal,
    memory_freed_on_a_queue_by_another_thread_waits_too,
    the_host_is_refused_memory_that_its_last_owner_still_uses,
    memory_freed_on_one_queue_waits_for_another_that_it_came_from,
    a_pool_that_is_closed_keeps_the_memory_of_work_in_flight,
    a_pool_that_is_closed_keeps_what_other_threads_freed_on_a_queue,
}

/// An allocator over such a device.
struct Bench {
    device: Fake,
    allocator: Allocator,
}

impl Bench {
    fn over(device: Fake) -> Self {
        let config = Config {
            wait_max: Duration::ZERO,
            ..Config::default()
        };
        let builder = Allocator::builder(device.device()).config(config);
        let allocator = builder.build().unwrap();
        Self { device, allocator }
    }

    fn step(&self, number: u64) -> Step {
        self.device.control().step(number)
    }

    fn queue(&self) -> Queue {
        self.allocator.create_queue().unwrap()
    }

    /// A queue, and the stream under it.
    fn adopted(&self) -> (Queue, Arc<dyn DeviceQueue>) {
        let stream = self.device.device().create_queue().unwrap();
        (self.allocator.adopt_queue(stream.clone()), stream)
    }

    fn shared(&self, value: u8) -> Buffer {
        let mut buffer = self.allocator.allocate(MIB).unwrap();
        buffer.write::<u8>().unwrap().fill(value);
        buffer
    }

    fn private(&self, bytes: usize, queue: &Queue) -> Buffer {
        let request = Request::new(bytes).storage(StorageMode::Private);
        self.allocator.allocate_with(&request.queue(queue)).unwrap()
    }

    /// From here on nothing is reserved.
    fn no_more(&self) {
        let reserved = self.allocator.stats().reserved.value;
        self.allocator
            .set_reserved_bytes_max(Some(reserved))
            .unwrap();
    }

    /// All that can be had, overwritten by the host.
    fn take_all(&self) -> Vec<Buffer> {
        let mut taken = Vec::new();
        loop {
            match self.allocator.allocate(MIB) {
                Ok(mut buffer) => {
                    buffer.write::<u8>().unwrap().fill(2);
                    taken.push(buffer);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
                    return taken;
                }
            }
        }
    }

    /// All that a queue can have, overwritten by it.
    fn take_all_on(&self, queue: &Queue, number: u64) -> Vec<Buffer> {
        let mut taken = Vec::new();
        let request = Request::new(MIB).queue(queue);
        while let Ok(mut buffer) = self.allocator.allocate_with(&request) {
            queue.fill(&mut buffer, 2).unwrap();
            taken.push(buffer);
        }
        while self.step(number) == Step::Ran {}
        taken
    }

    /// Lets all work run, after which the buffer must have this contents and no rule be broken.
    fn finish(self, target: &Buffer, value: u8) {
        self.device.control().run_all();
        let contents = target.read::<u8>().unwrap();
        assert!(contents.iter().all(|&byte| byte == value), "reused early");
        assert_eq!(self.device.control().violations(), []);
    }
}

fn location(buffer: &Buffer) -> Location {
    let binding = buffer.binding();
    Location {
        host: binding.host,
        device: binding.device_address,
        resource: binding.resource,
    }
}

/// A copy that the allocator does not see.
fn copy(stream: &dyn DeviceQueue, from: &Buffer, to: &Buffer) {
    // SAFETY: both buffers are as long, and the tests free them in the order of the stream only.
    unsafe { stream.copy(location(from), location(to), from.len()) }.unwrap();
}

fn the_host_does_not_reuse_what_a_queued_copy_has_yet_to_read(bench: Bench) {
    let queue = bench.queue();
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    queue.copy(&source, &mut target).unwrap();
    drop(source);
    bench.no_more();
    let _taken = bench.take_all();
    bench.finish(&target, 1);
}

fn the_host_is_refused_while_work_uses_a_buffer(bench: Bench) {
    let queue = bench.queue();
    let mut buffer = bench.shared(0);
    queue.fill(&mut buffer, 1).unwrap();
    assert_eq!(
        buffer.read::<u8>().map(drop).unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert_eq!(
        buffer.write::<u8>().map(drop).unwrap_err().kind(),
        ErrorKind::Busy
    );
    bench.finish(&buffer, 1);
}

fn another_queue_does_not_steal_what_a_queue_still_uses(bench: Bench) {
    let (first, second) = (bench.queue(), bench.queue());
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    first.copy(&source, &mut target).unwrap();
    drop(source);
    bench.no_more();
    let _taken = bench.take_all_on(&second, 1);
    bench.finish(&target, 1);
}

fn work_waits_for_the_work_of_another_queue(bench: Bench) {
    let (first, second) = (bench.queue(), bench.queue());
    let (mut middle, mut target) = (bench.shared(0), bench.shared(0));
    first.fill(&mut middle, 1).unwrap();
    second.copy(&middle, &mut target).unwrap();
    while bench.step(1) == Step::Ran {}
    bench.finish(&target, 1);
}

fn memory_that_two_queues_use_waits_for_both(bench: Bench) {
    let (first, second) = (bench.queue(), bench.queue());
    let (source, mut one, mut other) = (bench.shared(1), bench.shared(0), bench.shared(0));
    first.copy(&source, &mut one).unwrap();
    second.copy(&source, &mut other).unwrap();
    drop(source);
    while bench.step(0) == Step::Ran {}
    bench.no_more();
    let _taken = bench.take_all();
    bench.finish(&other, 1);
}

fn a_fence_that_never_passes_keeps_its_memory(bench: Bench) {
    let queue = bench.queue();
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    let start = source.binding().host.unwrap().as_ptr().addr();
    queue.copy(&source, &mut target).unwrap();
    assert!(bench.device.control().hang(0));
    drop(source);
    bench.no_more();
    let taken = bench.take_all();
    let is_source = |buffer: &Buffer| buffer.binding().host.unwrap().as_ptr().addr() == start;
    assert!(!taken.iter().any(is_source));
    assert!(bench.device.control().resume(0));
    bench.device.control().run_all();
    let later = bench.take_all();
    assert!(!later.is_empty(), "the memory came back with the queue");
    bench.finish(&target, 1);
}

fn a_queue_that_is_dropped_first_keeps_its_memory(bench: Bench) {
    let queue = bench.queue();
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    queue.copy(&source, &mut target).unwrap();
    drop(queue);
    drop(source);
    bench.no_more();
    let _taken = bench.take_all();
    bench.finish(&target, 1);
}

fn memory_freed_on_a_queue_waits_for_work_since_its_last_signal(bench: Bench) {
    let (queue, stream) = bench.adopted();
    let (source, target) = (bench.shared(1), bench.shared(0));
    queue.fence().unwrap();
    while bench.step(0) == Step::Ran {}
    copy(stream.as_ref(), &source, &target);
    source.free_on(&queue);
    bench.no_more();
    let _taken = bench.take_all();
    bench.finish(&target, 1);
}

fn memory_freed_on_a_queue_by_another_thread_waits_too(bench: Bench) {
    let (queue, stream) = bench.adopted();
    let (source, target) = (bench.shared(1), bench.shared(0));
    copy(stream.as_ref(), &source, &target);
    std::thread::scope(|scope| {
        // Joined, it has given back what it cached; the end of the scope does not wait for that.
        scope.spawn(|| source.free_on(&queue)).join().unwrap();
    });
    bench.no_more();
    let _taken = bench.take_all();
    bench.finish(&target, 1);
}

fn the_host_is_refused_memory_that_its_last_owner_still_uses(bench: Bench) {
    let queue = bench.queue();
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    let start = source.binding().host;
    queue.copy(&source, &mut target).unwrap();
    drop(source);
    bench.no_more();
    let request = Request::new(MIB).queue(&queue);
    let mut again = bench.allocator.allocate_with(&request).unwrap();
    assert_eq!(again.binding().host, start, "at once on the same queue");
    if let Ok(mut contents) = again.write::<u8>() {
        contents.fill(2);
    }
    assert!(again.read::<u8>().is_err());
    bench.finish(&target, 1);
}

fn memory_freed_on_one_queue_waits_for_another_that_it_came_from(bench: Bench) {
    let (first, second) = (bench.queue(), bench.queue());
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    let start = source.binding().host;
    first.copy(&source, &mut target).unwrap();
    drop(source);
    bench.no_more();
    let request = Request::new(MIB).queue(&first);
    let again = bench.allocator.allocate_with(&request).unwrap();
    assert_eq!(again.binding().host, start);
    again.free_on(&second);
    let _taken = bench.take_all_on(&second, 1);
    bench.finish(&target, 1);
}

/// Two pieces of private memory that a queue still copies from, taken together as one on that queue.
fn remapped(bench: &Bench, queue: &Queue) -> (Buffer, [Buffer; 2]) {
    const PIECE: usize = 2 * MIB;
    let [one, between, other] = [0; 3].map(|_| bench.private(PIECE, queue));
    let targets = [one, other].map(|mut piece| {
        let mut target = bench.allocator.allocate(PIECE).unwrap();
        target.write::<u8>().unwrap().fill(0);
        queue.fill(&mut piece, 1).unwrap();
        queue.copy(&piece, &mut target).unwrap();
        target
    });
    bench.no_more();
    let remaps = bench.allocator.stats().remaps;
    let whole = bench.private(2 * PIECE, queue);
    assert_eq!(bench.allocator.stats().remaps, remaps + 1);
    drop(between);
    (whole, targets)
}

/// On the host, where addresses whose memory was mapped elsewhere are unmapped as soon as may be: work that
/// still used them would end the process.
#[cfg(target_os = "linux")]
#[test]
fn addresses_stay_mapped_until_work_has_passed() {
    const PIECE: usize = 2 * MIB;
    let allocator = Allocator::host().unwrap();
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let request = Request::new(PIECE).queue(&queue);
    let [one, between, other] = [0; 3].map(|_| allocator.allocate_with(&request).unwrap());
    let targets = [one, other].map(|mut piece| {
        let mut target = allocator.allocate(PIECE).unwrap();
        target.write::<u8>().unwrap().fill(0);
        queue.fill(&mut piece, 1).unwrap();
        queue.copy(&piece, &mut target).unwrap();
        target
    });
    let before = allocator.stats();
    allocator
        .set_reserved_bytes_max(Some(before.reserved.value))
        .unwrap();
    let request = Request::new(2 * PIECE).queue(&queue);
    let whole = allocator.allocate_with(&request).unwrap();
    assert_eq!(allocator.stats().remaps, before.remaps + 1);
    open.send(()).unwrap();
    for target in &targets {
        target.wait(None).unwrap();
        assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    }
    drop((between, whole));
}

/// The same where memory can only be mapped whole: windows that hold nothing are unmapped when there are many,
/// the oldest first.
#[test]
fn windows_stay_mapped_until_work_has_passed() {
    const PIECE: usize = 2 * MIB;
    const PIECES: usize = 12;
    const TOGETHER: usize = 3;
    let bench = Bench::over(Fake::discrete());
    let queue = bench.queue();
    let private = |bytes| {
        let request = Request::new(bytes).storage(StorageMode::Private);
        bench.allocator.allocate_with(&request).unwrap()
    };
    let mut pieces: Vec<Buffer> = (0..PIECES).map(|_| private(PIECE)).collect();
    let (whole, [one, other]) = remapped(&bench, &queue);
    let unmapped = || bench.device.control().calls(Call::Unmap);
    // Other pieces are taken as one, each time with other neighbours.
    for round in 0.. {
        assert!(round < 1000, "windows are unmapped");
        if unmapped() > 0 {
            break;
        }
        pieces.rotate_left(round % PIECES);
        pieces.truncate(PIECES - TOGETHER);
        drop(private(TOGETHER * PIECE));
        pieces.extend([0; TOGETHER].map(|_| private(PIECE)));
    }
    drop((whole, one));
    bench.finish(&other, 1);
}

/// Work may use a handle at an address that holds none of its bytes any more.
#[test]
fn handles_go_back_after_the_work_at_all_of_their_addresses() {
    let bench = Bench::over(Fake::discrete());
    let queue = bench.queue();
    let (whole, [one, other]) = remapped(&bench, &queue);
    whole.free_on(&queue);
    let _bytes = bench.allocator.clear();
    drop(one);
    bench.finish(&other, 1);
}

#[test]
fn remapped_memory_waits_for_work_at_its_old_addresses() {
    let bench = Bench::over(Fake::discrete());
    let (first, second) = (bench.queue(), bench.queue());
    let (mut whole, [one, other]) = remapped(&bench, &first);
    while bench.step(0) == Step::Ran && bench.device.control().waiting(0) > 2 {}
    second.fill(&mut whole, 2).unwrap();
    while bench.step(1) == Step::Ran {}
    drop(one);
    bench.finish(&other, 1);
}

fn a_pool_that_is_closed_keeps_the_memory_of_work_in_flight(bench: Bench) {
    let queue = bench.queue();
    let (source, mut target) = (bench.shared(1), bench.shared(0));
    queue.copy(&source, &mut target).unwrap();
    drop((source, target, queue));
    let Bench { device, allocator } = bench;
    drop(allocator);
    device.control().run_all();
    assert_eq!(device.control().violations(), []);
}

/// What another thread freed in the order of a queue, and keeps for itself alone, counts too.
fn a_pool_that_is_closed_keeps_what_other_threads_freed_on_a_queue(bench: Bench) {
    let (queue, stream) = bench.adopted();
    let (source, target) = (bench.private(4096, &queue), bench.private(4096, &queue));
    copy(stream.as_ref(), &source, &target);
    let (freed, is_freed) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        source.free_on(&queue);
        target.free_on(&queue);
        freed.send(queue).unwrap();
        may_go_on.recv().unwrap();
    });
    let queue = is_freed.recv().unwrap();
    let Bench { device, allocator } = bench;
    drop((queue, allocator));
    device.control().run_all();
    assert_eq!(device.control().violations(), []);
    go_on.send(()).unwrap();
    other.join().unwrap();
}

/// Ends registered memory in some way while a copy that reads it has not begun.
fn end_with_work_in_flight(end: fn(Registered<Vec<u8>>)) {
    let device = FakeDiscrete::builder().manual(true).delays(Duration::ZERO);
    let device = Arc::new(device.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let memory = allocator.register(vec![5_u8; 1000]).unwrap();
    let mut buffer = allocator.allocate(1000).unwrap();
    let fence = queue.copy(&memory, &mut buffer).unwrap();
    let ending = std::thread::spawn(move || end(memory));
    std::thread::sleep(Duration::from_millis(30));
    let waits = !ending.is_finished();
    assert!(device.control().run_all() > 0);
    fence.wait(None).unwrap();
    ending.join().unwrap();
    assert_eq!(device.violations(), [], "the copy found its memory");
    assert_eq!(buffer.read::<u8>().unwrap()[..], [5; 1000]);
    assert!(waits);
    assert_eq!(allocator.stats().registered.value, 0);
}

#[test]
fn registered_memory_that_is_dropped_stays_for_the_work_that_uses_it() {
    end_with_work_in_flight(drop);
}

#[test]
fn registered_memory_is_given_back_after_the_work_that_uses_it() {
    end_with_work_in_flight(|memory| assert_eq!(memory.into_inner().unwrap(), [5; 1000]));
}
