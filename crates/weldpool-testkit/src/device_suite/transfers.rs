//! Copies between any two places, by a copier and by a queue.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use weldpool::device::DeviceKind;
use weldpool::transfer::{Copier, CopierConfig, CopyFuture, CopyOptions, CopyPath, Owned, Rows};
use weldpool::{Allocator, Buffer, ErrorKind, Request};

use super::{MakeDevice, allocator};
use crate::{Call, FaultyDevice, Pages, block};

/// Lengths around the borders of chunks, and of what a driver copies by itself.
const LENGTHS: [usize; 7] = [
    1,
    255,
    64 << 10,
    (64 << 10) + 1,
    (1 << 20) + 13,
    3 << 20,
    (5 << 20) + 1,
];

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    let byte = |index: usize| (index.wrapping_mul(31) ^ (index >> 8) ^ seed) as u8;
    (0..bytes).map(byte).collect()
}

/// A place to copy from and to.
enum Place {
    Slice(Vec<u8>),
    Buffer(Buffer),
}

impl Place {
    fn copy_from(&mut self, source: &[u8], copier: &Copier) {
        match self {
            Self::Slice(bytes) => bytes.copy_from_slice(source),
            Self::Buffer(buffer) => drop(copier.copy(source, buffer).unwrap()),
        }
    }

    fn contents(&self, copier: &Copier) -> Vec<u8> {
        match self {
            Self::Slice(bytes) => bytes.clone(),
            Self::Buffer(buffer) => {
                let mut bytes = vec![0; buffer.len()];
                copier.copy(buffer, &mut bytes).unwrap();
                bytes
            }
        }
    }

    fn copy_to(&self, to: &mut Self, copier: &Copier) -> CopyPath {
        let copied = match (self, to) {
            (Self::Slice(from), Self::Slice(to)) => copier.copy(from, to),
            (Self::Slice(from), Self::Buffer(to)) => copier.copy(from, to),
            (Self::Buffer(from), Self::Slice(to)) => copier.copy(from, to),
            (Self::Buffer(from), Self::Buffer(to)) => copier.copy(from, to),
        };
        copied.unwrap().path
    }
}

/// A slice, and a buffer of each storage mode of each pool.
fn places(pools: &[&Allocator], bytes: usize) -> Vec<Place> {
    let mut places = vec![Place::Slice(vec![0; bytes])];
    for pool in pools {
        for &storage in &pool.device().properties().storage_modes {
            let request = Request::new(bytes).storage(storage);
            places.push(Place::Buffer(pool.allocate_with(&request).unwrap()));
        }
    }
    places
}

pub fn every_place_copies_to_every_other(make: MakeDevice) {
    let (ours, second, host) = (allocator(make), allocator(make), Allocator::host().unwrap());
    let copier = Copier::new().unwrap();
    let mut copies = 0;
    for bytes in LENGTHS {
        let (mut from, mut to) = (
            places(&[&ours, &second, &host], bytes),
            places(&[&ours, &second, &host], bytes),
        );
        for (number, source) in from.iter_mut().enumerate() {
            let data = pattern(bytes, number);
            source.copy_from(&data, &copier);
            for destination in &mut to {
                destination.copy_from(&vec![0xEE_u8; bytes], &copier);
                let path = source.copy_to(destination, &copier);
                assert!(
                    destination.contents(&copier) == data,
                    "{bytes} bytes, {path:?}, from place {number}"
                );
                copies += 1;
            }
        }
    }
    let stats = copier.stats();
    let sum: u64 = CopyPath::ALL
        .iter()
        .map(|&path| stats.of(path).copies)
        .sum();
    assert!(sum > copies, "{stats}");
    assert_eq!((stats.failed, stats.cancelled), (0, 0));
    // What they went through goes back on request.
    for pool in [&ours, &second] {
        let _bytes = pool.clear();
        assert_eq!(pool.stats().staging.value, 0);
        assert_eq!(pool.stats().live.value, 0);
    }
}

/// A buffer that only the device reaches, or on a device without such memory any.
fn private(allocator: &Allocator, bytes: usize) -> Buffer {
    let modes = &allocator.device().properties().storage_modes;
    let storage = *modes.last().unwrap();
    allocator
        .allocate_with(&Request::new(bytes).storage(storage))
        .unwrap()
}

/// Several threads and small chunks, so that little memory has many.
fn small_chunks() -> Copier {
    Copier::with_config(CopierConfig {
        threads_max: 4,
        chunk_bytes: Some(4 << 10),
        pageable_bytes_max: Some(0),
        ..CopierConfig::default()
    })
    .unwrap()
}

pub fn rows_are_copied_and_what_lies_between_is_left(make: MakeDevice) {
    let allocator = allocator(make);
    let (copier, large) = (small_chunks(), Copier::new().unwrap());
    for (bytes, count, gaps, progress) in [
        (7, 1000, (3, 0), false),
        (7, 1000, (3, 0), true),
        (1 << 10, 40, (0, 64), false),
        (1 << 10, 600, (0, 64), false),
        (9001, 13, (5, 77), true),
        (9001, 70, (5, 77), false),
    ] {
        let rows = Rows {
            bytes,
            count,
            source_pitch: bytes + gaps.0,
            destination_pitch: bytes + gaps.1,
        };
        let source = pattern(11 + count * rows.source_pitch, bytes);
        let room = 5 + count * rows.destination_pitch;
        let mut expected = vec![0xAA; room];
        for row in 0..count {
            let (from, to) = (
                11 + row * rows.source_pitch,
                5 + row * rows.destination_pitch,
            );
            expected[to..to + bytes].copy_from_slice(&source[from..from + bytes]);
        }
        for copier in [&copier, &large] {
            let options = CopyOptions::new().source_offset(11).destination_offset(5);
            let mut options = options.rows(rows);
            if progress {
                // Which a copy by the caller alone has none of.
                options = options.progress(|_| ());
            }
            // To the device, within it, and back.
            let mut there = private(&allocator, room);
            copier.copy(&vec![0xAA_u8; room], &mut there).unwrap();
            let copied = copier.copy_with(&source, &mut there, &options).unwrap();
            assert_eq!(copied.bytes, bytes * count);
            let back = |buffer: &Buffer| {
                let mut bytes = vec![0; room];
                copier.copy(buffer, &mut bytes).unwrap();
                bytes
            };
            assert!(back(&there) == expected, "{rows:?} to the device");
            let mut whole = private(&allocator, source.len());
            copier.copy(&source, &mut whole).unwrap();
            let mut second = private(&allocator, room);
            copier.copy(&vec![0xAA_u8; room], &mut second).unwrap();
            copier.copy_with(&whole, &mut second, &options).unwrap();
            assert!(back(&second) == expected, "{rows:?} within the device");
            let mut host = vec![0xAA; room];
            copier.copy_with(&whole, &mut host, &options).unwrap();
            assert!(host == expected, "{rows:?} from the device");
        }
    }
}

pub fn copies_that_do_not_fit_are_errors(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = Copier::new().unwrap();
    let mut buffer = allocator.allocate(1000).unwrap();
    let kind = |result: weldpool::Result<_>| {
        result
            .map(|_: weldpool::transfer::Copied| ())
            .unwrap_err()
            .kind()
    };
    assert_eq!(
        kind(copier.copy(&[0_u8; 1001], &mut buffer)),
        ErrorKind::InvalidRequest
    );
    let beyond = CopyOptions::new().destination_offset(usize::MAX);
    assert_eq!(
        kind(copier.copy_with(&[0_u8; 1], &mut buffer, &beyond)),
        ErrorKind::InvalidRequest
    );
    assert_eq!(copier.copy(&[0_u8; 0], &mut buffer).unwrap().bytes, 0);
    let view = buffer.share();
    let (head, tail) = (view.slice(0..600).unwrap(), view.slice(400..1000).unwrap());
    assert_eq!(kind(copier.copy(&head, &tail)), ErrorKind::InvalidRequest);
    let last = view.slice(600..1000).unwrap();
    let first = view.slice(0..400).unwrap();
    first.write::<u8>().unwrap().fill(9);
    copier.copy(&first, &last).unwrap();
    assert!(last.read::<u8>().unwrap().iter().all(|&byte| byte == 9));
    let guard = view.read::<u8>().unwrap();
    assert_eq!(kind(copier.copy(&[0_u8; 1], &view)), ErrorKind::Busy);
    drop(guard);
    for (threads_max, chunk_bytes) in [(0, None), (1, Some(1)), (usize::MAX, None)] {
        let config = CopierConfig {
            threads_max,
            chunk_bytes,
            ..CopierConfig::default()
        };
        let error = Copier::with_config(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
}

pub fn copies_wait_for_work_that_uses_either_side(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = Copier::new().unwrap();
    let queue = allocator.create_queue().unwrap();
    for uses_source in [true, false] {
        let mut used = allocator.allocate(100_000).unwrap();
        let (open, _) = block(&queue);
        queue.fill(&mut used, 6).unwrap();
        let mut other = vec![1; 100_000];
        thread::scope(|scope| {
            let copying = scope.spawn(|| {
                if uses_source {
                    copier.copy(&used, &mut other).unwrap();
                } else {
                    copier.copy(&other, &mut used).unwrap();
                }
            });
            thread::sleep(Duration::from_millis(30));
            assert!(!copying.is_finished());
            open.send(()).unwrap();
        });
        let expected = if uses_source { 6 } else { 1 };
        assert!(other.iter().all(|&byte| byte == expected));
        assert!(
            used.read::<u8>()
                .unwrap()
                .iter()
                .all(|&byte| byte == expected)
        );
    }
}

/// Polls a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

pub fn copies_and_allocations_are_futures(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = small_chunks();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let data = pattern(1 << 20, 5);
    let data = &data;
    let back = block_on(async {
        let buffer = copier
            .allocate_async(&allocator, Request::new(1 << 20))
            .await;
        let options = CopyOptions::new().progress(move |progress| {
            noted.lock().unwrap().push(progress.done_bytes);
        });
        let there = copier
            .copy_async(data.clone(), buffer.unwrap(), options)
            .await;
        assert_eq!(there.result.unwrap().bytes, 1 << 20);
        assert!(there.source == *data);
        let shared = there.destination.share();
        let room = vec![0; 1 << 20].into_boxed_slice();
        let back = copier.copy_async(shared, room, CopyOptions::new()).await;
        back.result.unwrap();
        drop(back.source);
        back.destination
    });
    assert!(back[..] == data[..]);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.last(), Some(&(1 << 20)));
    assert!(seen.len() >= 256 && seen.is_sorted(), "{}", seen.len());
    // Nothing goes with a future that is dropped, or was never polled.
    for bytes in [1 << 20, 3 << 20] {
        drop(copier.allocate_async(&allocator, Request::new(bytes)));
    }
    let none = copier.allocate_async(&allocator, Request::new(0));
    let error = none.wait().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    drop(copier);
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn a_cancelled_copy_is_a_prefix(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = small_chunks();
    for to_device in [true, false] {
        let data = pattern(4 << 20, 8);
        let mut there = private(&allocator, data.len());
        let old = vec![0xAA; data.len()];
        copier
            .copy(if to_device { &old } else { &data }, &mut there)
            .unwrap();
        let view = there.share();
        let (reached, is_reached) = channel();
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let options = CopyOptions::new().progress(move |progress| {
            if progress.done_bytes >= 1 << 20 && reached.send(()).is_ok() {
                let _opened = gate.lock().unwrap().recv();
            }
        });
        let check = |copied: usize, result: weldpool::Result<_>, bytes: &[u8]| {
            let error = result.map(|_: weldpool::transfer::Copied| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            assert!((1 << 20..3 << 20).contains(&copied), "{copied}");
            assert!(bytes[..copied] == data[..copied] && bytes[copied..] == old[copied..]);
        };
        if to_device {
            let copying = copier.copy_async(data.clone(), view.clone(), options);
            is_reached.recv().unwrap();
            if view.binding().host.is_some() {
                assert_eq!(view.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
            }
            copying.cancel();
            drop(open);
            let outcome = copying.wait().unwrap();
            assert!(outcome.source == data);
            let mut back = vec![0; data.len()];
            copier.copy(&view, &mut back).unwrap();
            check(outcome.copied_bytes, outcome.result, &back);
        } else {
            let copying = copier.copy_async(view.clone(), old.clone(), options);
            is_reached.recv().unwrap();
            copying.cancel();
            drop(open);
            let outcome = copying.wait().unwrap();
            check(outcome.copied_bytes, outcome.result, &outcome.destination);
        }
    }
    assert_eq!(copier.stats().cancelled, 2);
}

/// Cancels a copy after a wait; why it did not come to its end, if it did not.
fn kind_once_cancelled<S: Owned, D: Owned>(
    copying: CopyFuture<S, D>,
    wait: impl FnOnce(),
) -> Option<ErrorKind> {
    wait();
    copying.cancel();
    let outcome = copying.wait().unwrap();
    outcome.result.err().map(|error| error.kind())
}

pub fn a_cancelled_copy_is_over_whatever_the_driver_says(make: MakeDevice) {
    let device = Arc::new(FaultyDevice::new(make()));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let copier = small_chunks();
    for (call, to_device) in [
        (None, true),
        (None, false),
        (Some(Call::Copy), true),
        (Some(Call::Copy), false),
        (Some(Call::Signal), true),
        (Some(Call::Signal), false),
        (Some(Call::Wait), true),
        (Some(Call::Wait), false),
    ] {
        for at_chunk in [0, 5, 60] {
            let bytes = 1 << 20;
            let there = private(&allocator, bytes);
            let (reached, is_reached) = channel();
            let failing = device.clone();
            let options = CopyOptions::new().progress(move |progress| {
                if progress.done_bytes >= at_chunk * (4 << 10) && reached.send(()).is_ok() {
                    if let Some(call) = call {
                        failing.fail(call, ErrorKind::System, 3);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let until = Duration::from_millis(if at_chunk > 0 { 200 } else { 0 });
            let host = vec![3_u8; bytes];
            let wait = || {
                let _late = is_reached.recv_timeout(until);
            };
            let kind = if to_device {
                kind_once_cancelled(copier.copy_async(host, there, options), wait)
            } else {
                kind_once_cancelled(copier.copy_async(there, host, options), wait)
            };
            device.clear_faults();
            let possible = [None, Some(ErrorKind::Cancelled), Some(ErrorKind::System)];
            assert!(possible.contains(&kind), "{kind:?}");
            // The device is at none of it any more, or the fakes would tell.
            let _bytes = allocator.clear();
        }
    }
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn a_copy_cancelled_before_it_begins_asks_the_driver_for_nothing(make: MakeDevice) {
    let device = Arc::new(FaultyDevice::new(make()));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let copier = small_chunks();
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let [mut from, to] = [0, 1].map(|_| private(&allocator, 1 << 20));
    queue.fill(&mut from, 1).unwrap();
    device.fail(Call::CreateQueue, ErrorKind::System, 100);
    let copying = copier.copy_async(from, to, CopyOptions::new());
    copying.cancel();
    let outcome = copying.wait().unwrap();
    drop(open);
    let kind = outcome.result.map_err(|error| error.kind());
    assert_eq!(kind, Err(ErrorKind::Cancelled));
    assert_eq!(outcome.copied_bytes, 0);
    device.clear_faults();
}

pub fn a_dropped_copy_gives_everything_back(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = small_chunks();
    let polled = |mut future: Pin<Box<dyn Future<Output = ()> + Send>>| {
        let waker = Waker::noop();
        let _first = future.as_mut().poll(&mut Context::from_waker(waker));
    };
    for round in 0..20 {
        let buffer = private(&allocator, 1 << 20);
        let copying = copier.copy_async(pattern(1 << 20, 3), buffer, CopyOptions::new());
        if round % 2 == 0 {
            drop(copying);
        } else {
            polled(Box::pin(async move {
                let _outcome = copying.await;
            }));
        }
    }
    let start = Instant::now();
    // A buffer is not live any more before its memory is back.
    while allocator.stats().live.value > 0 || allocator.stats().reserved.value > 0 {
        assert!(start.elapsed() < Duration::from_secs(20));
        let _bytes = allocator.clear();
        thread::yield_now();
    }
}

pub fn queues_write_and_read_host_memory_in_order(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    for bytes in LENGTHS {
        let data = pattern(bytes, 4);
        let mut there = private(&allocator, bytes + 1);
        let mut second = private(&allocator, bytes + 1);
        queue.fill(&mut there, 0xAA).unwrap();
        let mut given = data.clone();
        queue.write(&given, &mut there).unwrap();
        // It was read when the call returned.
        given.fill(0);
        queue.copy(&there, &mut second).unwrap();
        queue.fill(&mut there, 0xBB).unwrap();
        let mut back = vec![0; bytes + 2];
        queue.read(&second, &mut back).unwrap();
        assert!(
            back[..bytes] == data && back[bytes..] == [0xAA, 0],
            "{bytes} bytes"
        );
        queue.read(&there, &mut back).unwrap();
        assert!(
            back[..=bytes].iter().all(|&byte| byte == 0xBB),
            "{bytes} bytes"
        );
    }
    let mut small = allocator.allocate(10).unwrap();
    assert_eq!(
        queue.write(&[0_u8; 11], &mut small).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    assert_eq!(
        queue.read(&small, &mut [0_u8; 9]).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let mut foreign = Allocator::host().unwrap().allocate(10).unwrap();
    assert_eq!(
        queue.write(&[0_u8; 9], &mut foreign).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    queue
        .write::<u8>(&[], &mut small)
        .unwrap()
        .wait(None)
        .unwrap();
}

pub fn registered_memory_is_copied_where_it_is(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = Copier::new().unwrap();
    let mut registered = allocator
        .register(Pages::new(8))
        .map_err(|e| e.error)
        .unwrap();
    let data = pattern(registered.len(), 2);
    registered.write::<u8>().unwrap().copy_from_slice(&data);
    let mut there = private(&allocator, data.len());
    let up = copier.copy(&registered, &mut there).unwrap();
    registered.write::<u8>().unwrap().fill(0);
    let down = copier.copy(&there, &mut registered).unwrap();
    assert!(registered.read::<u8>().unwrap()[..] == data[..]);
    let expected = match allocator.device().properties().kind {
        DeviceKind::Host => CopyPath::Host,
        _ => CopyPath::Direct,
    };
    assert_eq!([up.path, down.path], [expected; 2]);
    let outcome = copier
        .copy_async(registered, there, CopyOptions::new())
        .wait()
        .unwrap();
    assert_eq!(outcome.result.unwrap().path, expected);
    assert!(outcome.source.read::<u8>().unwrap()[..] == data[..]);
}

pub fn threads_copy_at_once(make: MakeDevice) {
    let allocator = allocator(make);
    let copier = small_chunks();
    let copied = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..4 {
            let (allocator, copier, copied) = (&allocator, &copier, &copied);
            scope.spawn(move || {
                for round in 0..10 {
                    let data = pattern(600_000 + round * 1000, number);
                    let mut there = private(allocator, data.len());
                    copier.copy(&data, &mut there).unwrap();
                    let mut back = vec![0; data.len()];
                    copier.copy(&there, &mut back).unwrap();
                    assert!(back == data);
                    copied.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(copied.load(Ordering::Relaxed), 40);
    assert!(copier.stats().threads <= 4);
}

pub fn every_failing_call_of_a_copy_is_survived(make: MakeDevice) {
    let device = Arc::new(FaultyDevice::new(make()));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let copier = small_chunks();
    let queue = allocator.create_queue().unwrap();
    let data = pattern(40_000, 1);
    for kind in [ErrorKind::OutOfMemory, ErrorKind::System] {
        let mut there = private(&allocator, data.len());
        let mut back = vec![0; data.len()];
        // Each call in turn, until a copy makes fewer.
        let try_all = |copy: &mut dyn FnMut() -> weldpool::Result<()>| {
            let mut failures = 0;
            for number in 1.. {
                let _bytes = allocator.clear();
                let at = device.calls() + number;
                device.fail_numbered(at..at + 1, kind);
                let result = copy();
                let reached = device.calls() >= at;
                device.clear_faults();
                if let Err(error) = &result {
                    assert_eq!(error.kind(), kind, "{error}");
                    failures += 1;
                }
                copy().unwrap();
                if !reached {
                    break;
                }
            }
            failures
        };
        // By the caller alone, and in chunks by several threads.
        let mut failures = 0;
        for options in [CopyOptions::new(), CopyOptions::new().progress(|_| ())] {
            failures += try_all(&mut || copier.copy_with(&data, &mut there, &options).map(drop));
            failures += try_all(&mut || {
                back.fill(0);
                copier.copy_with(&there, &mut back, &options).map(drop)
            });
            assert!(back == data);
        }
        failures += try_all(&mut || queue.write(&data, &mut there).map(drop));
        failures += try_all(&mut || queue.read(&there, &mut back));
        assert!(back == data);
        // The host's own queue is the only one that a copy by processors needs.
        assert!(failures >= 4, "{failures}");
    }
    let _bytes = allocator.clear();
    let stats = allocator.stats();
    assert_eq!(
        (stats.live.value, stats.reserved.value, stats.staging.value),
        (0, 0, 0)
    );
    assert_eq!(device.held().bytes(), 0);
}
