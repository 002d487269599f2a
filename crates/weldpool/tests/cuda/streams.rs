//! Streams of others, and functions that streams call.

#![allow(unsafe_code)]

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use weldpool::device::cuda::{AdoptedStreams, CudaDevice};
use weldpool::{Allocator, Device, ErrorKind, Request, StorageMode};
use weldpool_testkit::in_time;

use crate::gpu::Stream;

fn open() -> (Arc<CudaDevice>, Allocator) {
    let device = Arc::new(CudaDevice::open(0).unwrap());
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>);
    (device, allocator.build().unwrap())
}

#[test]
fn streams_are_found_by_their_ids_until_they_are_forgotten() {
    let (device, allocator) = open();
    let streams = AdoptedStreams::new(allocator.clone(), device.clone());
    let made = Stream::new(&device, &allocator);
    // SAFETY: the stream is never destroyed.
    let find = |stream| unsafe { streams.queue(stream) };
    let queue = find(made.handle()).unwrap();
    assert!(Arc::ptr_eq(&queue, &find(made.handle()).unwrap()));
    let legacy = find(std::ptr::null_mut()).unwrap();
    assert!(!Arc::ptr_eq(&queue, &legacy));
    let per_thread = find(std::ptr::without_provenance_mut(2)).unwrap_err();
    assert_eq!(per_thread.kind(), ErrorKind::InvalidRequest);

    let request = Request::new(1 << 20).storage(StorageMode::Private);
    let buffer = allocator.allocate_with(&request.queue(&queue)).unwrap();
    buffer.free_on(&queue);
    // SAFETY: as above.
    let forget = |stream| unsafe { streams.forget(stream) };
    assert!(forget(made.handle()).unwrap());
    assert!(!forget(made.handle()).unwrap());
    // Whoever still holds the queue cannot submit to it; what was freed on it comes back.
    let mut target = allocator.allocate(4096).unwrap();
    assert_eq!(
        queue.fill(&mut target, 1).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    made.synchronize();
    let calls = allocator.stats().driver_calls;
    drop(allocator.allocate_with(&request).unwrap());
    assert_eq!(allocator.stats().driver_calls, calls);
    // Nor does what is freed on it afterwards wait for ever.
    let late = allocator.allocate_with(&request).unwrap();
    late.free_on(&queue);
    drop(target);
    for _ in 0..2 {
        let _bytes = allocator.clear();
    }
    assert_eq!(allocator.stats().reserved.value, 0);
    drop(queue);
}

#[test]
fn a_stream_that_records_a_graph_is_given_nothing() {
    let (device, allocator) = open();
    let stream = Stream::new(&device, &allocator);
    let source = allocator.allocate(4096).unwrap();
    let request = Request::new(4096).storage(StorageMode::Private);
    let mut target = allocator.allocate_with(&request).unwrap();
    stream.begin_capture();
    assert_eq!(
        stream.queue.copy(&source, &mut target).unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert_eq!(
        stream.queue.fill(&mut target, 1).unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert_eq!(
        stream.queue.call(|| {}).unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert_eq!(stream.queue.fence().unwrap_err().kind(), ErrorKind::Busy);
    assert!(stream.end_capture());
    stream
        .queue
        .copy(&source, &mut target)
        .unwrap()
        .wait(None)
        .unwrap();
}

#[test]
fn a_function_that_a_stream_calls_may_use_the_allocator_but_not_the_driver() {
    let (device, allocator) = open();
    let stream = Stream::new(&device, &allocator);
    let busy = allocator
        .allocate_with(&Request::new(1 << 20).storage(StorageMode::Private))
        .unwrap();
    let other = Stream::new(&device, &allocator);
    other.write_late(&busy, 1, 20_000_000);
    busy.note_use(&other.queue).unwrap();
    let said = Arc::new(Mutex::new(Vec::new()));
    let (inside, writes) = (allocator.clone(), Arc::clone(&said));
    let warm = allocator.allocate(4096).unwrap();
    drop(warm);
    let fence = stream
        .queue
        .call(move || {
            let small = inside.allocate(4096).map(drop);
            let queue = inside.create_queue().map(drop);
            // Dropped while a kernel writes to it: not reused before that is over.
            drop(busy);
            let deferred = inside.stats().deferred_bytes;
            writes.lock().unwrap().push((small, queue, deferred));
        })
        .unwrap();
    fence.wait(Some(Duration::from_secs(20))).unwrap();
    let said = said.lock().unwrap();
    let (small, queue, deferred) = &said[0];
    assert!(small.is_ok(), "{small:?}");
    assert_eq!(queue.as_ref().unwrap_err().kind(), ErrorKind::Busy);
    assert!(*deferred >= 1 << 20, "{deferred}");
    other.synchronize();
}

/// Others put so much behind a function that the driver blocks whoever signals the stream until it has returned.
#[test]
fn a_function_frees_while_the_driver_waits_for_it() {
    in_time(|| {
        let (device, allocator) = open();
        let stream = Arc::new(Stream::new(&device, &allocator));
        let request = Request::new(4096).storage(StorageMode::Private);
        let target = allocator.allocate_with(&request).unwrap();
        let used = allocator.allocate_with(&request).unwrap();
        used.note_use(&stream.queue).unwrap();
        let (free, may_free) = channel();
        let function = move || {
            may_free.recv().unwrap();
            drop(used);
        };
        stream.queue.call(function).unwrap();
        let launches = {
            let stream = Arc::clone(&stream);
            thread::spawn(move || {
                // More than the driver takes.
                for _ in 0..4000 {
                    stream.write_late(&target, 1, 0);
                }
                stream.queue.fence().unwrap().wait(None).unwrap();
            })
        };
        // Until they are in the driver.
        thread::sleep(Duration::from_millis(300));
        let signals = {
            let stream = Arc::clone(&stream);
            thread::spawn(move || drop(stream.queue.fence().unwrap()))
        };
        // Somebody asks what is over, meanwhile.
        let asks = {
            let (allocator, stream) = (allocator.clone(), Arc::clone(&stream));
            thread::spawn(move || {
                let request = Request::new(8 << 20).storage(StorageMode::Private);
                for _ in 0..50 {
                    let buffer = allocator.allocate_with(&request).unwrap();
                    buffer.free_on(&stream.queue);
                    let _bytes = allocator.clear();
                    thread::sleep(Duration::from_millis(10));
                }
            })
        };
        thread::sleep(Duration::from_millis(300));
        free.send(()).unwrap();
        signals.join().unwrap();
        asks.join().unwrap();
        launches.join().unwrap();
    });
}

/// The last of a pool is freed where the driver must not be called.
#[test]
fn a_pool_ends_elsewhere_than_in_a_function_of_a_queue() {
    in_time(|| {
        let (device, allocator) = open();
        let free_before = device.budget().unwrap().available.unwrap();
        let queue = allocator.create_queue().unwrap();
        let request = Request::new(1 << 30).storage(StorageMode::Private);
        let buffer = allocator.allocate_with(&request.queue(&queue)).unwrap();
        let (end, may_end) = channel::<()>();
        let function = move || {
            may_end.recv().unwrap();
            drop(buffer);
        };
        queue.call(function).unwrap();
        drop((queue, allocator));
        end.send(()).unwrap();
        while Arc::strong_count(&device) > 1 {
            thread::sleep(Duration::from_millis(1));
        }
        let free = device.budget().unwrap().available.unwrap();
        assert!(free + (512 << 20) > free_before, "{free} of {free_before}");
    });
}
