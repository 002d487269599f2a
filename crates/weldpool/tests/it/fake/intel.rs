//! Managed storage of an Intel Mac's discrete GPU, of which host and device have a copy each.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::fake::{AppleGpu, FakeApple};
use weldpool::device::{ChipFamily, DeviceQueue, Location};
use weldpool::transfer::{Copier, CopyPath};
use weldpool::{Allocator, Buffer, Device, ErrorKind, Request, StorageMode};
use weldpool_testkit::FaultyDevice;

const BYTES: usize = 10_000;
const LONG: Duration = Duration::from_secs(60);

fn open() -> (Arc<FakeApple>, Allocator) {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    let device = Arc::new(builder.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn managed(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Managed);
    allocator.allocate_with(&request).unwrap()
}

/// What the device sees.
fn seen(allocator: &Allocator, buffer: &impl weldpool::Operand, bytes: usize) -> Vec<u8> {
    let queue = allocator.create_queue().unwrap();
    let mut shared = allocator.allocate(bytes).unwrap();
    queue.copy(buffer, &mut shared).unwrap().wait(None).unwrap();
    shared.read::<u8>().unwrap().to_vec()
}

fn all(bytes: &[u8], value: u8) -> bool {
    bytes.iter().all(|&byte| byte == value)
}

#[test]
fn the_device_says_that_it_is_discrete() {
    let (device, _) = open();
    let properties = Device::properties(device.as_ref());
    assert!(!properties.unified && properties.managed_copies);
    assert_eq!(properties.chip, Some(ChipFamily::Mac2));
    assert_eq!(properties.page_bytes, 4096);
    assert_eq!(properties.storage_modes, StorageMode::ALL);
    // Of memory of its own, not of the host's.
    let built = FakeApple::builder().gpu(AppleGpu::Discrete);
    let small = built.memory(8 << 30).host_memory(64 << 30).build().unwrap();
    let shared = small.create_segment(1 << 30, StorageMode::Shared).unwrap();
    let budget = small.budget().unwrap();
    assert_eq!((budget.ceiling(), budget.available), (8 << 30, None));
    drop(shared);
}

#[test]
fn work_sees_what_guards_wrote() {
    let (device, allocator) = open();
    let mut buffer = managed(&allocator, BYTES);
    for value in 1..4 {
        buffer.write::<u8>().unwrap().fill(value);
        assert!(all(&seen(&allocator, &buffer, BYTES), value));
    }
    // A guard that never ended is told of too, since nobody saw the buffer meanwhile.
    let mut guard = buffer.write::<u8>().unwrap();
    guard.fill(9);
    std::mem::forget(guard);
    assert!(all(&seen(&allocator, &buffer, BYTES), 9));
    let view = buffer.share();
    let half = view.slice(0..5000).unwrap();
    half.write::<u8>().unwrap().fill(5);
    let contents = seen(&allocator, &view, BYTES);
    assert!(all(&contents[..5000], 5) && all(&contents[5000..], 9));
    assert_eq!(device.violations(), []);
}

#[test]
fn no_thread_submits_work_on_what_a_guard_wrote_before_the_device_was_told() {
    let (device, _) = open();
    let faulty = Arc::new(FaultyDevice::new(device.clone()));
    let allocator = Allocator::builder(faulty.clone()).build().unwrap();
    let mut buffer = managed(&allocator, BYTES);
    buffer.write::<u8>().unwrap().fill(7);
    let (say, said) = channel();
    let (open, opened) = channel::<()>();
    let opened = Mutex::new(Some(opened));
    faulty.before_host_write(move || {
        if let Some(opened) = opened.lock().unwrap().take() {
            say.send(()).unwrap();
            opened.recv_timeout(LONG).unwrap();
        }
    });
    let copied = |done: Sender<bool>| {
        let contents = seen(&allocator, &buffer, BYTES);
        done.send(all(&contents, 7)).unwrap();
    };
    let (first, first_done) = channel();
    let (second, second_done) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| copied(first));
        said.recv_timeout(LONG).unwrap();
        scope.spawn(|| copied(second));
        let early = second_done.recv_timeout(Duration::from_millis(300));
        assert_eq!(early, Err(RecvTimeoutError::Timeout));
        open.send(()).unwrap();
    });
    assert_eq!(
        [first_done.recv(), second_done.recv()],
        [Ok(true), Ok(true)]
    );
    assert_eq!(device.violations(), []);
}

#[test]
fn the_host_sees_what_work_wrote() {
    let (device, allocator) = open();
    let queue = allocator.create_queue().unwrap();
    let mut buffer = managed(&allocator, BYTES);
    queue.fill(&mut buffer, 3).unwrap().wait(None).unwrap();
    assert!(all(&buffer.read::<u8>().unwrap(), 3));
    let mut source = allocator.allocate(BYTES).unwrap();
    source.write::<u8>().unwrap().fill(4);
    let fence = queue.copy(&source, &mut buffer).unwrap();
    fence.wait(None).unwrap();
    assert!(all(&buffer.read::<u8>().unwrap(), 4));
    // Bytes that no blit moves.
    let view = buffer.share();
    let mut odd = view.slice(1..7).unwrap();
    queue.fill(&mut odd, 6).unwrap().wait(None).unwrap();
    assert_eq!(view.read::<u8>().unwrap()[..8], [4, 6, 6, 6, 6, 6, 6, 4]);
    drop((odd, view));
    let zeroed = Request::new(BYTES)
        .storage(StorageMode::Managed)
        .zeroed(true);
    let by_host = allocator.allocate_with(&zeroed).unwrap();
    assert!(all(&seen(&allocator, &by_host, BYTES), 0));
    let by_queue = allocator.allocate_with(&zeroed.queue(&queue)).unwrap();
    by_queue.wait(None).unwrap();
    assert!(all(&by_queue.read::<u8>().unwrap(), 0));
    assert_eq!(device.violations(), []);
}

/// A synchronisation is of a whole buffer of Metal's, so what the host is writing lies on another.
#[test]
fn what_the_host_is_writing_survives_work_on_other_buffers() {
    let (device, allocator) = open();
    let queue = allocator.create_queue().unwrap();
    let (mut ours, mut other) = (managed(&allocator, 256), managed(&allocator, 256));
    let mut guard = ours.write::<u8>().unwrap();
    guard.fill(1);
    queue.fill(&mut other, 2).unwrap().wait(None).unwrap();
    assert!(all(&guard, 1), "written over by a synchronisation");
    drop(guard);
    assert!(all(&seen(&allocator, &ours, 256), 1));
    assert_ne!(
        ours.binding().resource.unwrap().0,
        other.binding().resource.unwrap().0
    );
    drop((ours, other));
    assert_eq!(allocator.stats().live.value, 0);
    assert_eq!(device.violations(), []);
}

#[test]
fn copiers_copy_from_and_to_both_copies() {
    let (device, allocator) = open();
    let copier = Copier::new().unwrap();
    for bytes in [100, 3 << 20] {
        let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let mut buffer = managed(&allocator, bytes);
        let copied = copier.copy(&data, &mut buffer).unwrap();
        assert_eq!(copied.path, CopyPath::Host);
        assert!(*buffer.read::<u8>().unwrap() == data[..]);
        assert!(seen(&allocator, &buffer, bytes) == data, "{bytes} bytes");
        let mut private = allocator
            .allocate_with(&Request::new(bytes).storage(StorageMode::Private))
            .unwrap();
        let copied = copier.copy(&buffer, &mut private).unwrap();
        assert_eq!(copied.path, CopyPath::Direct);
        let mut back = managed(&allocator, bytes);
        copier.copy(&private, &mut back).unwrap();
        assert!(*back.read::<u8>().unwrap() == data[..]);
        // From a device of another kind, by way of the host.
        let host = Allocator::host().unwrap();
        let mut theirs = host.allocate(bytes).unwrap();
        theirs.write::<u8>().unwrap().fill(8);
        copier.copy(&theirs, &mut back).unwrap();
        assert!(all(&seen(&allocator, &back, bytes), 8));
    }
    assert_eq!(device.violations(), []);
}

#[test]
fn queues_of_other_devices_leave_it_alone() {
    let (device, allocator) = open();
    let host = Allocator::host().unwrap();
    let queue = host.create_queue().unwrap();
    let mut buffer = managed(&allocator, BYTES);
    let mut local = host.allocate(BYTES).unwrap();
    for refused in [
        queue.fill(&mut buffer, 1).map(drop),
        queue.copy(&local, &mut buffer).map(drop),
        queue.copy(&buffer, &mut local).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("Runtime::copy"), "{error}");
    }
    assert_eq!(device.violations(), []);
}

/// The place of a buffer, as somebody who submits work by himself has it.
fn location(buffer: &Buffer) -> Location {
    let binding = buffer.binding();
    Location {
        host: binding.host,
        device: binding.device_address,
        resource: binding.resource,
    }
}

#[test]
fn what_others_wrote_is_seen_once_it_was_noted() {
    let (device, allocator) = open();
    let buffer = managed(&allocator, 4096);
    let place = location(&buffer);
    // By the model's own means, which synchronise nothing.
    let (resource, _) = buffer.binding().resource.unwrap();
    device.metal().fill_by_others(resource, 7).unwrap();
    assert!(all(&buffer.read::<u8>().unwrap(), 0), "a stale copy");
    let queue = allocator.create_queue().unwrap();
    buffer.note_use(&queue).unwrap();
    buffer.wait(None).unwrap();
    assert!(all(&buffer.read::<u8>().unwrap(), 7));
    let foreign: Arc<dyn DeviceQueue> = device.create_queue().unwrap();
    let beyond = foreign.note_device_write(&place, 4097).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::InvalidRequest);
    assert_eq!(device.violations(), []);
}

#[test]
fn what_was_written_by_address_is_seen_once_it_was_noted() {
    let (device, allocator) = open();
    let buffer = managed(&allocator, 4096);
    let host: NonNull<u8> = buffer.binding().host.unwrap();
    // SAFETY: the buffer is so long, and no work uses it.
    unsafe { host.write_bytes(6, 4096) };
    buffer.note_host_write(0..4096).unwrap();
    assert!(all(&seen(&allocator, &buffer, 4096), 6));
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "it is the wrong range under test"
    )]
    for wrong in [0..4097, 5..4] {
        let error = buffer.note_host_write(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
    // Other storage has nothing to be told.
    let shared = allocator.allocate(100).unwrap();
    shared.note_host_write(0..100).unwrap();
    assert_eq!(device.violations(), []);
}
