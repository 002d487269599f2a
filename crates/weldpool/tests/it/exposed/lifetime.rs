//! Who frees first, and what work in flight still uses.

use std::sync::Arc;

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Buffer, Device, ErrorKind, Export, Request, StorageMode};
use weldpool_testkit::{FaultyDevice, block, export, import};

use super::{MIB, fill, holds, open, private};

/// An allocator, and an exportable buffer of it.
struct Case {
    device: Arc<FaultyDevice>,
    allocator: Allocator,
    storage: StorageMode,
}

impl Case {
    fn each() -> [Self; 2] {
        let host: Arc<dyn Device> = Arc::new(HostDevice::new().unwrap());
        let fake: Arc<dyn Device> = Arc::new(FakeDiscrete::new().unwrap());
        [(host, StorageMode::Shared), (fake, StorageMode::Private)].map(|(device, storage)| {
            let device = Arc::new(FaultyDevice::new(device));
            Self {
                allocator: open(device.clone()),
                device,
                storage,
            }
        })
    }

    fn exportable(&self) -> Buffer {
        let request = private(4 * MIB, Export::FileDescriptor).storage(self.storage);
        self.allocator.allocate_with(&request).unwrap()
    }
}

#[test]
fn memory_stays_for_whoever_has_it() {
    for case in Case::each() {
        let allocator = &case.allocator;
        let mut buffer = case.exportable();
        fill(allocator, &mut buffer, 7);
        let exported = export(&buffer).unwrap();
        let first = import(allocator, &exported).unwrap();
        drop(buffer);
        assert!(holds(allocator, &first, 7));
        drop(first);
        let second = import(allocator, &exported).unwrap();
        drop(exported);
        assert!(holds(allocator, &second, 7), "the descriptor alone kept it");
        drop(second);
        let _bytes = allocator.clear();
        assert_eq!(case.device.held().bytes(), 0);
    }
}

/// Frees a buffer in each of the ways there are while a queue has yet to write it.
#[test]
fn memory_goes_back_after_its_uses() {
    for case in Case::each() {
        let allocator = &case.allocator;
        for imported in [false, true] {
            for way in ["drop", "free_on", "free_on_another", "view"] {
                let what = format!("{} {imported} {way}", case.storage);
                let queue = allocator.create_queue().unwrap();
                let other = allocator.create_queue().unwrap();
                let origin = case.exportable();
                let mut buffer = match imported {
                    true => import(allocator, &export(&origin).unwrap()).unwrap(),
                    false => case.exportable(),
                };
                drop(origin);
                let (open, _) = block(&queue);
                if way != "free_on" {
                    queue.fill(&mut buffer, 3).unwrap();
                    let error = buffer.read::<u8>().unwrap_err().kind();
                    let busy = [ErrorKind::Busy, ErrorKind::Unsupported];
                    assert!(busy.contains(&error), "{what}");
                }
                match way {
                    "free_on" => buffer.free_on(&queue),
                    "free_on_another" => buffer.free_on(&other),
                    "view" => drop(buffer.share()),
                    _ => drop(buffer),
                }
                let stats = allocator.stats();
                assert_eq!(stats.live.value, 0, "{what}");
                assert_eq!(stats.reserved.value, 4 * MIB as u64, "{what}");
                assert_eq!(stats.deferred_bytes, 4 * MIB as u64, "{what}");
                assert_eq!(allocator.clear(), 0, "{what}: work still uses it");
                open.send(()).unwrap();
                queue.fence().unwrap().wait(None).unwrap();
                other.fence().unwrap().wait(None).unwrap();
                let _bytes = allocator.clear();
                assert_eq!(allocator.stats().reserved.value, 0, "{what}");
                assert_eq!(case.device.held().bytes(), 0, "{what}");
            }
        }
    }
}

#[test]
fn the_next_request_takes_back_what_is_over() {
    for case in Case::each() {
        let queue = case.allocator.create_queue().unwrap();
        for _ in 0..20 {
            let mut buffer = case.exportable();
            queue.fill(&mut buffer, 1).unwrap();
            drop(buffer);
            queue.fence().unwrap().wait(None).unwrap();
        }
        let reserved = case.allocator.stats().reserved;
        assert!(reserved.peak <= 8 * MIB as u64, "{reserved:?}");
    }
}

#[test]
fn a_closed_pool_returns_it_after_its_work() {
    for Case {
        device,
        allocator,
        storage,
    } in Case::each()
    {
        let queue = allocator.create_queue().unwrap();
        let request = Request::new(4 * MIB).storage(storage);
        let request = request.exportable(Export::FileDescriptor);
        let mut buffer = allocator.allocate_with(&request).unwrap();
        let (open, _) = block(&queue);
        queue.fill(&mut buffer, 1).unwrap();
        drop(allocator);
        let opener = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(30));
            drop(open);
        });
        drop(buffer);
        drop(queue);
        opener.join().unwrap();
        // Whoever made or closed a pool meanwhile may have come to it first.
        let start = std::time::Instant::now();
        while device.held().bytes() > 0 {
            assert!(start.elapsed().as_secs() < 20, "memory stays");
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_a_device_refuses_to_take_back_is_kept_and_tried_again() {
    for case in Case::each() {
        let (device, allocator) = (&case.device, &case.allocator);
        let buffer = case.exportable();
        device.fail(Call::ReleaseSegment, ErrorKind::System, 2);
        drop(buffer);
        let stats = allocator.stats();
        assert_eq!(stats.reserved.value, 4 * MIB as u64);
        assert_eq!((stats.cached_bytes, stats.segments), (4 * MIB as u64, 1));
        assert_eq!(allocator.clear(), 0, "refused again");
        assert_eq!(allocator.clear(), 4 * MIB);
        assert_eq!(allocator.stats().reserved.value, 0);
        assert_eq!(device.held().bytes(), 0);
    }
}

/// It is a segment of its own, and never memory of others.
#[test]
fn a_request_for_held_memory_does_not_get_it() {
    for case in Case::each() {
        let allocator = &case.allocator;
        let (first, second) = (
            allocator.create_queue().unwrap(),
            allocator.create_queue().unwrap(),
        );
        let mut buffer = case.exportable();
        let fences = [&first, &second].map(|queue| queue.fill(&mut buffer, 1).unwrap());
        let gates = [&first, &second].map(block);
        let fence = first.fill(&mut buffer, 2).unwrap();
        drop(buffer);
        drop(gates);
        for fence in fences.iter().chain([&fence]) {
            fence.wait(None).unwrap();
        }
        let held = Request::new(4 * MIB).storage(case.storage).held_only(true);
        let error = allocator.allocate_with(&held).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        let _returned = allocator.clear();
        assert_eq!(allocator.stats().reserved.value, 0);
        assert_eq!(case.device.held().bytes(), 0);
    }
}
