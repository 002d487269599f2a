//! A context that is lost: every call says so, nothing hangs, and nothing stays on the host.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::cuda::CudaDevice;
use weldpool::{Allocator, Device, ErrorKind, Request, StorageMode};

use crate::gpu::Stream;
use crate::heap::live_allocations;

/// Rounds of refused calls; what a round leaves behind would be seen as often.
const ROUNDS: i64 = 100;

/// Runs this test again in a process of its own, since a lost context stays lost.
#[test]
fn after_a_lost_context_every_call_says_so_and_nothing_hangs() {
    const CHILD: &str = "WELDPOOL_TEST_LOSE_THE_CONTEXT";
    if std::env::var_os(CHILD).is_some() {
        lose_the_context();
        return;
    }
    let start = Instant::now();
    let name = "lost::after_a_lost_context_every_call_says_so_and_nothing_hangs";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(said.contains("1 passed"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(60));
}

fn lose_the_context() {
    let threads_before = threads_of_ours();
    let device = Arc::new(CudaDevice::open(0).unwrap());
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>);
    let allocator = allocator.build().unwrap();
    let stream = Stream::new(&device, &allocator);
    let private = Request::new(32 << 20).storage(StorageMode::Private);
    let live = allocator
        .allocate_with(&private.queue(&stream.queue))
        .unwrap();
    let pinned = allocator.allocate(8 << 20).unwrap();
    let registered = allocator.register(vec![3_u8; 5000]).unwrap();
    registered.note_use(&stream.queue).unwrap();
    let kept = Arc::new(());
    // A queue that was never signalled, so that no event of it tells of the loss.
    let silent = Stream::new(&device, &allocator);
    let noted = allocator.register(vec![4_u8; 5000]).unwrap();
    let freed = allocator.allocate_with(&private).unwrap();
    stream.write_nowhere();
    let held = Arc::clone(&kept);
    // Never called, if the context is lost before; dropped all the same.
    let called = stream.queue.call(move || drop(held));
    drop(called);
    let start = Instant::now();
    let lost = loop {
        match stream
            .queue
            .fence()
            .and_then(|fence| fence.wait(Some(Duration::from_millis(10))))
        {
            Err(error) if error.kind() == ErrorKind::DeviceLost => break error,
            _ if start.elapsed() > Duration::from_secs(30) => panic!("the context is not lost"),
            _ => {}
        }
    };
    assert!(lost.to_string().contains("cu"), "{lost}");
    let kinds = [
        allocator.create_queue().map(drop).unwrap_err().kind(),
        device.budget().map(drop).unwrap_err().kind(),
        allocator
            .allocate_with(&Request::new(1 << 30).storage(StorageMode::Private))
            .map(drop)
            .unwrap_err()
            .kind(),
        stream.queue.call(|| {}).map(drop).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::DeviceLost; 4]);
    // A thread of its own drops what is never called.
    while Arc::strong_count(&kept) > 1 {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(1));
    }
    let refused = || refused_by_all(&device, &allocator, &stream, &kept);
    (0..ROUNDS).for_each(|_| refused());
    let heap = live_allocations();
    (0..ROUNDS).for_each(|_| refused());
    let more = live_allocations() - heap;
    assert!(
        more < ROUNDS,
        "{ROUNDS} refused rounds left {more} on the heap"
    );
    live.free_on(&stream.queue);
    let refused = noted.note_use(&silent.queue).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DeviceLost);
    assert_eq!(noted.into_inner().unwrap().len(), 5000);
    freed.free_on(&silent.queue);
    assert_eq!(registered.into_inner().unwrap().len(), 5000);
    drop((pinned, stream, silent));
    assert_eq!(allocator.stats().live.value, 0);
    drop(allocator);
    let gone = Arc::downgrade(&device);
    drop(device);
    assert_eq!(gone.strong_count(), 0, "somebody keeps the device");
    while threads_of_ours() > threads_before {
        assert!(start.elapsed() < Duration::from_secs(30), "a thread stays");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One of each call that a lost device refuses; what was passed in comes back or is dropped.
fn refused_by_all(
    device: &Arc<CudaDevice>,
    allocator: &Allocator,
    stream: &Stream,
    kept: &Arc<()>,
) {
    let private = Request::new(1 << 30).storage(StorageMode::Private);
    let held = Arc::clone(kept);
    let refused = [
        allocator.create_queue().map(drop),
        device.budget().map(drop),
        allocator.allocate_with(&private).map(drop),
        allocator
            .allocate_with(&private.queue(&stream.queue))
            .map(drop),
        stream.queue.call(move || drop(held)).map(drop),
        stream.queue.fence().map(drop),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::DeviceLost);
    }
    let refused = allocator.register(vec![1_u8; 5000]).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::DeviceLost);
    assert_eq!(refused.memory.len(), 5000);
    assert_eq!(Arc::strong_count(kept), 1);
}

/// Threads of this process that Weldpool started.
fn threads_of_ours() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks
        .filter_map(name)
        .filter(|name| name.starts_with("weldpool-"))
        .count()
}
