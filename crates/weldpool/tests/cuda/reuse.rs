//! Memory is not reused while kernels and copies that use it may still run. A memory checker does not see
//! reuse inside a mapped pool, so kernels check patterns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::cuda::CudaDevice;
use weldpool::pinned::{PinnedConfig, PinnedPool};
use weldpool::transfer::{Copier, CopyOptions};
use weldpool::{Allocator, Buffer, Config, Device, ErrorKind, Request, StorageMode};

use crate::gpu::Stream;

/// Some 5 ms at 2 GHz: long enough that the host is done with everything else before.
const LATE: u64 = 10_000_000;

fn open(change: impl FnOnce(&mut Config)) -> (Arc<CudaDevice>, Allocator) {
    let device = Arc::new(CudaDevice::open(0).unwrap());
    let mut config = Config::default();
    change(&mut config);
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>)
        .config(config)
        .build()
        .unwrap();
    (device, allocator)
}

fn private(allocator: &Allocator, bytes: usize, stream: &Stream) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator
        .allocate_with(&request.queue(&stream.queue))
        .unwrap()
}

fn address(buffer: &Buffer) -> u64 {
    buffer.binding().device_address.unwrap()
}

/// A counter of wrong words, in memory that host and device reach.
fn counter(allocator: &Allocator) -> Buffer {
    allocator
        .allocate_with(&Request::new(256).zeroed(true))
        .unwrap()
}

fn counted(counter: &Buffer) -> u32 {
    counter.read::<u32>().unwrap()[0]
}

#[test]
fn another_stream_does_not_get_what_a_kernel_still_writes() {
    let (device, allocator) = open(|_| {});
    let (busy, other) = (
        Stream::new(&device, &allocator),
        Stream::new(&device, &allocator),
    );
    let wrong = counter(&allocator);
    for bytes in [4096, 300_000, 5 << 20] {
        let written = private(&allocator, bytes, &busy);
        let old = address(&written);
        busy.write_late(&written, 1, LATE);
        written.free_on(&busy.queue);
        let mut taken = Vec::new();
        for value in 2..10 {
            let buffer = private(&allocator, bytes, &other);
            assert_ne!(address(&buffer), old, "{bytes} bytes");
            other.write_late(&buffer, value, 0);
            taken.push((buffer, value));
        }
        // The same stream has it at once, since it runs in order.
        let again = private(&allocator, bytes, &busy);
        assert_eq!(address(&again), old, "{bytes} bytes");
        busy.write_late(&again, 20, 0);
        busy.count_wrong(&again, 20, &wrong);
        again.free_on(&busy.queue);
        busy.synchronize();
        for (buffer, value) in taken {
            other.count_wrong(&buffer, value, &wrong);
            buffer.free_on(&other.queue);
        }
        other.synchronize();
    }
    assert_eq!(counted(&wrong), 0);
}

#[test]
fn the_host_does_not_write_what_a_copy_has_yet_to_read() {
    let (device, allocator) = open(|_| {});
    let stream = Stream::new(&device, &allocator);
    let wrong = counter(&allocator);
    let bytes = 1 << 20;
    let blocker = private(&allocator, bytes, &stream);
    for value in 1..20_u32 {
        let mut source = allocator.allocate(bytes).unwrap();
        source.write::<u32>().unwrap().fill(value);
        let mut target = private(&allocator, bytes, &stream);
        stream.write_late(&blocker, 0, LATE / 10);
        stream.queue.copy(&source, &mut target).unwrap();
        assert_eq!(source.write::<u32>().unwrap_err().kind(), ErrorKind::Busy);
        drop(source);
        // Whatever the host gets now is not what the copy reads.
        let mut next = allocator.allocate(bytes).unwrap();
        next.write::<u32>().unwrap().fill(0xDEAD);
        stream.count_wrong(&target, value, &wrong);
        target.free_on(&stream.queue);
    }
    blocker.free_on(&stream.queue);
    stream.synchronize();
    assert_eq!(counted(&wrong), 0);
}

#[test]
fn a_queue_may_be_dropped_before_its_kernels() {
    let (device, allocator) = open(|_| {});
    let wrong = counter(&allocator);
    let bytes = 3 << 20;
    let ended = Stream::new(&device, &allocator);
    let buffer = private(&allocator, bytes, &ended);
    ended.write_late(&buffer, 1, LATE);
    buffer.free_on(&ended.queue);
    let Stream { queue, .. } = ended;
    drop(queue);
    let other = Stream::new(&device, &allocator);
    let taken = private(&allocator, bytes, &other);
    other.write_late(&taken, 2, 0);
    std::thread::sleep(Duration::from_millis(30));
    other.count_wrong(&taken, 2, &wrong);
    other.synchronize();
    assert_eq!(counted(&wrong), 0);
}

/// Streams that allocate, write late, check and free at random, within so little memory that blocks wander
/// between streams and handles are mapped a second time while kernels use them.
#[test]
fn patterns_survive_wandering_and_remapped_memory() {
    const STREAMS: usize = 4;
    const LIMIT: u64 = 256 << 20;
    let (device, allocator) = open(|config| {
        config.reserved_bytes_max = Some(LIMIT);
        // As tight as can be: every hole is worth a mapping.
        config.slack_per_1024 = 1;
        config.driver_ns_per_operation = 1_000_000;
    });
    let wrong = counter(&allocator);
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| Stream::new(&device, &allocator))
        .collect();
    let mut live: Vec<(usize, Buffer, u32)> = Vec::new();
    let mut bytes_live = 0_u64;
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut owners = std::collections::HashMap::new();
    let mut wandered = 0;
    for value in 1..6_000_u32 {
        let bytes = 256 << random(17);
        let bytes = bytes + random(bytes / 256) * 256;
        let room = LIMIT * 3 / 5;
        while bytes_live + bytes > room {
            let at = random(live.len() as u64) as usize;
            let (stream, buffer, value) = live.swap_remove(at);
            streams[stream].count_wrong(&buffer, value, &wrong);
            bytes_live -= buffer.len() as u64;
            buffer.free_on(&streams[stream].queue);
        }
        let stream = random(STREAMS as u64) as usize;
        let buffer = private(&allocator, bytes as usize, &streams[stream]);
        if owners
            .insert(address(&buffer), stream)
            .is_some_and(|before| before != stream)
        {
            wandered += 1;
        }
        streams[stream].write_late(&buffer, value, random(200_000));
        bytes_live += bytes;
        live.push((stream, buffer, value));
    }
    for (stream, buffer, value) in live {
        streams[stream].count_wrong(&buffer, value, &wrong);
        buffer.free_on(&streams[stream].queue);
    }
    streams.iter().for_each(Stream::synchronize);
    assert_eq!(counted(&wrong), 0);
    let stats = allocator.stats();
    assert!(wandered > 100, "{wandered}");
    assert!(stats.remaps > 20, "{}", stats.remaps);
    assert!(stats.reserved.peak <= LIMIT);
}

#[test]
fn threads_in_the_background_break_no_capture() {
    let (device, allocator) = open(|config| {
        config.gc.enabled = true;
        config.gc.interval = Duration::from_millis(10);
        config.gc.policy.idle_max = Some(Duration::from_millis(1));
    });
    let captured = Stream::new(&device, &allocator);
    let other = Stream::new(&device, &allocator);
    let buffer = private(&allocator, 1 << 20, &captured);
    let copier = Copier::new().unwrap();
    captured.begin_capture();
    captured.write_late(&buffer, 1, 0);
    // One thread pins memory, others copy and allocate, and one takes idle memory back.
    let pool = PinnedPool::builder(&allocator)
        .config(PinnedConfig {
            reserve_bytes: 64 << 20,
            ..PinnedConfig::default()
        })
        .build()
        .unwrap();
    let target = private(&allocator, 32 << 20, &other);
    let copy = copier.copy_async(vec![7_u8; 32 << 20], target, CopyOptions::new());
    let request = Request::new(48 << 20).storage(StorageMode::Private);
    let allocated = copier.allocate_async(&allocator, request).wait().unwrap();
    let outcome = copy.wait().unwrap();
    assert_eq!(outcome.result.unwrap().bytes, 32 << 20);
    drop((allocated.unwrap(), outcome.destination));
    let start = Instant::now();
    let done = || pool.stats().growths > 0 && allocator.stats().gc.given_back_bytes > 0;
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{}",
            pool.stats()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(captured.end_capture());
    buffer.free_on(&captured.queue);
}

#[test]
fn no_call_breaks_a_capture() {
    let (device, allocator) = open(|_| {});
    let captured = Stream::new(&device, &allocator);
    let other = Stream::new(&device, &allocator);
    let buffer = private(&allocator, 1 << 20, &captured);
    captured.begin_capture();
    captured.write_late(&buffer, 1, 0);
    // Growth, pinned memory, copies, queries and trimming meanwhile, from this thread and another.
    let work = || {
        let large = private(&allocator, 64 << 20, &other);
        let mut pinned = allocator.allocate(4 << 20).unwrap();
        pinned.write::<u8>().unwrap().fill(1);
        let mut target = private(&allocator, 4 << 20, &other);
        other
            .queue
            .copy(&pinned, &mut target)
            .unwrap()
            .wait(None)
            .unwrap();
        drop((large, target, pinned));
        let _bytes = allocator.clear();
    };
    work();
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    assert!(captured.end_capture());
    buffer.free_on(&captured.queue);
}
