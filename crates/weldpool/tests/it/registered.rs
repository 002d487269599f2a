//! Memory that exists already, registered with a device.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::{
    Allocator, Device, ErrorKind, RawBytes, RegisterError, Request, StableBytes, StorageMode,
};
use weldpool_testkit::{FaultyDevice, Pages, in_time};

const LONG: Duration = Duration::from_secs(30);
const PAGE: usize = Pages::PAGE_BYTES;
fn discrete(manual: bool) -> (Arc<FakeDiscrete>, Allocator) {
    let builder = FakeDiscrete::builder()
        .manual(manual)
        .delays(Duration::ZERO);
    let device = Arc::new(builder.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn devices() -> [Arc<dyn Device>; 3] {
    [
        Arc::new(HostDevice::new().unwrap()),
        Arc::new(FakeDiscrete::new().unwrap()),
        Arc::new(FakeApple::new().unwrap()),
    ]
}

#[test]
fn work_reads_and_writes_it_where_it_is() {
    for device in devices() {
        let allocator = Allocator::builder(device).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let reserved = allocator.stats().reserved;
        let bytes = 4 * PAGE;
        let pages = Pages::new(4);
        let start = pages.start();
        let mut memory = allocator.register(pages).unwrap();
        assert_eq!((memory.len(), memory.is_read_only()), (bytes, false));
        let binding = memory.binding();
        assert_eq!((binding.host, binding.bytes), (Some(start), bytes));
        let stats = allocator.stats();
        assert_eq!(stats.registered.value, bytes as u64);
        assert_eq!(stats.reserved, reserved, "it is not the allocator's");
        for (at, byte) in memory.write::<u8>().unwrap().iter_mut().enumerate() {
            *byte = at as u8;
        }
        let private = Request::new(bytes).storage(StorageMode::Private);
        let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
        queue.copy(&memory, &mut middle).unwrap();
        let mut other = allocator.register(Pages::new(4)).unwrap();
        queue.copy(&middle, &mut other).unwrap();
        queue.fill(&mut memory, 9).unwrap();
        let other = other.into_inner().unwrap();
        let expected: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        assert!(other.contents() == expected, "it waited for the copy");
        memory.wait(Some(LONG)).unwrap();
        assert!(memory.read::<u8>().unwrap().iter().all(|&byte| byte == 9));
        drop(memory);
        let registered = allocator.stats().registered;
        assert_eq!((registered.value, registered.total), (0, 2 * bytes as u64));
    }
}

#[test]
fn vectors_of_any_address_and_length_are_registered_where_pages_are_locked() {
    let (device, allocator) = discrete(false);
    let queue = allocator.create_queue().unwrap();
    let unaligned: Vec<u8> = (0..4099_u32).map(|at| at as u8).collect();
    let copied = unaligned.clone();
    let bytes = allocator.register(unaligned).unwrap();
    assert_eq!(device.pinned_bytes(), 4099);
    let address = bytes.binding();
    assert_eq!(
        address.device_address,
        address.host.map(|host| host.as_ptr().addr() as u64),
        "one address for both"
    );
    let floats = allocator
        .register(vec![1.5_f32; 1000].into_boxed_slice())
        .unwrap();
    let private = Request::new(5000).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private).unwrap();
    let mut target = allocator.register(vec![0_u8; 5000]).unwrap();
    queue.copy(&bytes, &mut middle).unwrap();
    queue.copy(&middle, &mut target).unwrap();
    let target = target.into_inner().unwrap();
    assert!(target[..4099] == copied[..]);
    assert_eq!(floats.read::<f32>().unwrap()[999], 1.5);
    assert_eq!(bytes.into_inner().unwrap(), copied);
    assert_eq!(&*floats.into_inner().unwrap(), [1.5; 1000]);
    assert_eq!((device.pinned_bytes(), device.violations().len()), (0, 0));
}

#[test]
fn what_another_allocator_of_the_device_registered_is_refused_and_breaks_no_rule() {
    let (device, first) = discrete(false);
    let second = Allocator::builder(device.clone()).build().unwrap();
    let memory = Pages::new(1);
    // SAFETY: the pages outlive what is registered of them, and are not touched.
    let raw = || unsafe { RawBytes::new(memory.start(), PAGE) };
    let registered = first.register(raw()).unwrap();
    let error = second.register(raw()).unwrap_err().error;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(
        error.to_string().contains("another of its allocators"),
        "{error}"
    );
    assert_eq!(device.violations(), []);
    drop(registered);
    drop(second.register(raw()).unwrap());
    drop(memory);
}

#[test]
fn what_overlaps_is_refused() {
    let (_, allocator) = discrete(false);
    let memory = Pages::new(4);
    let start = memory.start();
    let part = |from: usize, bytes| {
        let start = NonNull::new(start.as_ptr().wrapping_add(from)).unwrap();
        // SAFETY: the parts lie inside of `memory`, which outlives what is registered of them.
        unsafe { RawBytes::new(start, bytes) }
    };
    let first = allocator.register(part(100, 1000)).unwrap();
    for (from, bytes) in [(0, 101), (1099, 1), (500, 10), (0, 4 * PAGE)] {
        let error = allocator.register(part(from, bytes)).unwrap_err().error;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{from} {bytes}");
        assert!(error.to_string().contains("registered already"), "{error}");
    }
    // Beside it, on the same page.
    let second = allocator.register(part(1100, 10)).unwrap();
    drop(first);
    let first = allocator.register(part(0, 1100)).unwrap();
    drop((first, second));
    let kind = |error: RegisterError<_>| error.error.kind();
    let empty = allocator.register(Vec::<u8>::new()).map_err(kind);
    assert_eq!(empty.unwrap_err(), ErrorKind::InvalidRequest);
    let buffer = allocator.allocate(4096).unwrap();
    let host = buffer.binding().host.unwrap();
    let before = NonNull::new(host.as_ptr().wrapping_sub(64)).unwrap();
    for (start, bytes) in [(host, 100), (before, 65)] {
        // SAFETY: it is not registered, and the buffer is not touched.
        let own = allocator.register(unsafe { RawBytes::new(start, bytes) });
        let error = own.unwrap_err().error;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("of this allocator"), "{error}");
    }
    drop(memory);
}

#[test]
fn memory_that_is_read_only_is_not_written() {
    for device in devices() {
        let allocator = Allocator::builder(device).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let owner = Pages::new(1);
        let start = owner.start();
        // SAFETY: the memory outlives what is registered of it, and nobody writes to it.
        let memory = unsafe { RawBytes::read_only(start, PAGE) };
        let mut memory = allocator.register(memory).unwrap();
        assert!(memory.is_read_only());
        let refused = [
            memory.write::<u8>().map(drop).unwrap_err(),
            queue.fill(&mut memory, 1).map(drop).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        }
        let mut copy = allocator.allocate(PAGE).unwrap();
        copy.write::<u8>().unwrap().fill(1);
        queue.copy(&memory, &mut copy).unwrap();
        assert!(memory.read::<u8>().is_ok(), "the copy only reads");
        copy.wait(Some(LONG)).unwrap();
        assert_eq!(copy.read::<u8>().unwrap()[0], 0);
        drop(memory);
        assert!(owner.contents().iter().all(|&byte| byte == 0));
    }
}

#[test]
fn guards_are_refused_while_work_could_race() {
    let (device, allocator) = discrete(true);
    let queue = allocator.create_queue().unwrap();
    let mut memory = allocator.register(vec![1_u8; 100]).unwrap();
    let mut buffer = allocator.allocate(100).unwrap();
    queue.copy(&memory, &mut buffer).unwrap();
    assert_eq!(memory.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    assert!(memory.read::<u8>().is_ok());
    queue.fill(&mut memory, 2).unwrap();
    assert_eq!(memory.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    let late = memory.wait(Some(Duration::from_millis(1))).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert!(device.control().run_all() > 0);
    assert_eq!(memory.read::<u8>().unwrap()[..], [2; 100]);
    // Work that somebody else submitted.
    memory.note_use(&queue).unwrap();
    assert_eq!(memory.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    assert!(device.control().run_all() > 0);
    assert_eq!(memory.into_inner().unwrap(), [2; 100]);
}

#[test]
fn on_a_lost_device_it_is_given_back_at_once() {
    let (device, allocator) = discrete(true);
    let queue = allocator.create_queue().unwrap();
    let memories = [1_u8, 2].map(|value| allocator.register(vec![value; 1000]).unwrap());
    let mut buffer = allocator.allocate(1000).unwrap();
    for memory in &memories {
        queue.copy(memory, &mut buffer).unwrap();
    }
    device.control().lose();
    let [first, second] = memories;
    drop(first);
    assert_eq!(second.into_inner().unwrap(), [2; 1000]);
    assert_eq!(allocator.stats().registered.value, 0);
    assert_eq!(
        allocator.register(vec![1_u8; 9]).unwrap_err().error.kind(),
        ErrorKind::DeviceLost
    );
}

#[test]
fn a_lost_queue_does_not_hold_it() {
    let (device, allocator) = discrete(true);
    let (lost, other) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    let memory = allocator.register(vec![7_u8; 1000]).unwrap();
    let mut targets = [(); 2].map(|()| allocator.allocate(1000).unwrap());
    lost.copy(&memory, &mut targets[0]).unwrap();
    other.copy(&memory, &mut targets[1]).unwrap();
    device.control().lose_queue(0);
    let ending = thread::spawn(move || memory.into_inner().unwrap());
    thread::sleep(Duration::from_millis(20));
    assert!(!ending.is_finished(), "the other queue still uses it");
    assert!(device.control().run_all() > 0);
    assert_eq!(ending.join().unwrap(), [7; 1000]);
    assert_eq!(device.violations(), []);
}

#[test]
fn a_driver_that_refuses_loses_no_memory() {
    for inner in devices() {
        let device = Arc::new(FaultyDevice::new(inner));
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        device.fail(Call::Register, ErrorKind::OutOfMemory, 1);
        let failed = allocator.register(Pages::new(1)).unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::OutOfMemory);
        let memory = allocator.register(failed.memory).unwrap();
        device.fail(Call::Unregister, ErrorKind::System, 1);
        let failed = memory.into_inner().unwrap_err();
        assert_eq!(failed.error.kind(), ErrorKind::System);
        assert_eq!(allocator.stats().registered.value, PAGE as u64);
        let memory = failed.memory;
        assert_eq!(memory.read::<u8>().unwrap().len(), PAGE, "as it was");
        let stats = allocator.stats();
        assert_eq!((stats.driver_calls, stats.driver_failures), (3, 2));
        drop(memory.into_inner().unwrap());
        assert_eq!(allocator.stats().registered.value, 0);
        assert_eq!(device.held().bytes(), 0);
    }
}

/// What the driver still knows must not be anybody else's.
#[test]
fn what_cannot_be_unregistered_at_its_end_is_kept() {
    struct Counted(
        Vec<u8>,
        #[expect(dead_code, reason = "counts its owner")] Arc<()>,
    );
    // SAFETY: it is the vector's.
    unsafe impl StableBytes for Counted {
        fn as_bytes(&mut self) -> NonNull<[u8]> {
            self.0.as_bytes()
        }
    }
    let device = Arc::new(FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap())));
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let kept = Arc::new(());
    let memory = Counted(vec![1; 100], Arc::clone(&kept));
    let memory = allocator.register(memory).unwrap();
    device.fail(Call::Unregister, ErrorKind::System, 1);
    drop(memory);
    assert_eq!(Arc::strong_count(&kept), 2);
    assert_eq!(allocator.stats().registered.value, 100);
    let memory = Counted(vec![1; 100], Arc::clone(&kept));
    drop(allocator.register(memory).unwrap());
    assert_eq!(Arc::strong_count(&kept), 2, "the second was dropped");
}

/// As with CUDA, whose queues call nothing until the function has returned.
#[test]
fn a_function_that_a_queue_calls_gets_it_back_only_where_the_driver_may_be_called() {
    in_time(|| {
        let device = FaultyDevice::new(Arc::new(FakeDiscrete::new().unwrap()));
        let device = device.without_calls_from_functions();
        let allocator = Allocator::builder(Arc::new(device)).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        let registered = allocator.register(vec![7_u8; 4096]).unwrap();
        registered.note_use(&queue).unwrap();
        let (back, is_back) = channel();
        queue
            .call(move || back.send(registered.into_inner()).unwrap())
            .unwrap();
        let refused = is_back.recv().unwrap().unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Busy);
        queue.fence().unwrap().wait(None).unwrap();
        assert_eq!(refused.memory.into_inner().unwrap(), [7_u8; 4096]);
    });
}
