//! Every driver call fails, alone and with those behind it, at every point of a workload that does
//! everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::{
    Allocator, Buffer, Config, Device, Error, ErrorKind, Export, Queue, Request, StorageMode,
};
use weldpool_testkit::{FaultyDevice, export, import, offered};

use crate::fake::{Fake, assert_all_returned};

const KINDS: [ErrorKind; 3] = [
    ErrorKind::OutOfMemory,
    ErrorKind::System,
    ErrorKind::DeviceLost,
];

/// A buffer and what it must contain, where that is known.
struct Live {
    buffer: Buffer,
    stamp: Option<u8>,
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % end
    }
}

struct Workload<'a> {
    allocator: &'a Allocator,
    queues: Vec<Queue>,
    live: Vec<Live>,
    numbers: Numbers,
    storage: StorageMode,
    errors: Vec<Error>,
}

impl Workload<'_> {
    fn run(allocator: &Allocator, storage: StorageMode) -> Vec<Error> {
        let mut workload = Workload {
            allocator,
            queues: Vec::new(),
            live: Vec::new(),
            numbers: Numbers(0x9E37_79B9_7F4A_7C15),
            storage,
            errors: Vec::new(),
        };
        workload.all();
        workload.errors
    }

    fn all(&mut self) {
        for _ in 0..2 {
            let queue = self.allocator.create_queue();
            let queue = self.noted(queue);
            self.queues.extend(queue);
        }
        self.mixed(24);
        self.holes();
        self.other_threads();
        let _bytes = self.allocator.clear();
        self.mixed(12);
        self.limits();
        self.exposed();
        let pooling = self.allocator.set_pooling(false);
        self.mixed(4);
        self.allocator.set_pooling(pooling);
        self.mixed(6);
        while !self.live.is_empty() {
            self.free();
        }
    }

    fn noted<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn mixed(&mut self, steps: usize) {
        for step in 0..steps {
            let bytes = match step % 4 {
                0 => 1 + self.numbers.below(4096),
                1 => 1 + self.numbers.below(200 << 10),
                _ => 1 + self.numbers.below(1 << 20),
            };
            self.allocate(bytes);
            if step % 3 == 2 {
                self.free();
            }
        }
    }

    fn allocate(&mut self, bytes: usize) {
        let kind = self.numbers.below(8);
        let storage = if kind.is_multiple_of(3) {
            self.storage
        } else {
            StorageMode::Shared
        };
        let queue = kind.is_multiple_of(2).then(|| self.queues.pop()).flatten();
        let mut request = Request::new(bytes).storage(storage).name("faulty");
        if kind == 5 {
            request = request.alignment(64 << 10);
        }
        if let Some(queue) = &queue {
            request = request.queue(queue);
        } else if storage != StorageMode::Private {
            request = request.zeroed(kind == 7);
        }
        let buffer = self.allocator.allocate_with(&request);
        if let Some(buffer) = self.noted(buffer) {
            if kind == 7 && queue.is_none() && storage != StorageMode::Private {
                assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
            }
            self.stamp(buffer, queue.as_ref());
        }
        if let Some(queue) = queue {
            self.queues.insert(0, queue);
        }
    }

    /// Gives the buffer contents of its own, on the queue or from the host.
    fn stamp(&mut self, mut buffer: Buffer, queue: Option<&Queue>) {
        let stamp = self.numbers.below(255) as u8 + 1;
        let stamped = match queue {
            Some(queue) => {
                let filled = queue.fill(&mut buffer, stamp);
                self.noted(filled).is_some()
            }
            None if buffer.storage_mode() == StorageMode::Private => false,
            None => match buffer.write::<u8>() {
                Ok(mut contents) => {
                    contents.fill(stamp);
                    true
                }
                // Memory that other work still uses, whose fence the driver refused.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Busy);
                    false
                }
            },
        };
        let stamp = stamped.then_some(stamp);
        self.live.push(Live { buffer, stamp });
    }

    /// Frees one of those alive in one of the ways there are, having looked at its contents.
    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let index = self.numbers.below(self.live.len());
        let Live { buffer, stamp } = self.live.swap_remove(index);
        if let Some(stamp) = stamp
            && buffer.storage_mode() != StorageMode::Private
            && buffer.wait(Some(Duration::from_secs(10))).is_ok()
            && let Ok(contents) = buffer.read::<u8>()
        {
            assert!(contents.iter().all(|&byte| byte == stamp), "{buffer:?}");
        }
        match self.numbers.below(3) {
            0 => drop(buffer),
            1 => match self.queues.first() {
                Some(queue) => buffer.free_on(queue),
                None => drop(buffer),
            },
            _ => drop(buffer.share()),
        }
    }

    /// Holes between blocks that stay, then what fits only where they are joined; then free memory on both
    /// sides of what the holes left, and what fits only over all of it.
    fn holes(&mut self) {
        let mut stay = Vec::new();
        for number in 0..16_u8 {
            let bytes = (300 << 10) + usize::from(number) * 4096;
            let buffer = self.allocator.allocate(bytes);
            match self.noted(buffer) {
                Some(mut buffer) if number % 2 == 0 => {
                    buffer.write::<u8>().unwrap().fill(number);
                    stay.push((number, buffer));
                }
                _ => {}
            }
        }
        let mut large = Vec::new();
        for _ in 0..3 {
            let buffer = self.allocator.allocate(1_500 << 10);
            large.extend(self.noted(buffer));
        }
        for _ in 0..2 {
            stay.drain(..2.min(stay.len()));
            let buffer = self.allocator.allocate(850 << 10);
            if let Some(buffer) = self.noted(buffer) {
                self.stamp(buffer, None);
            }
        }
        for (number, buffer) in stay {
            let contents = buffer.read::<u8>().unwrap();
            assert!(contents.iter().all(|&byte| byte == number), "{number}");
        }
    }

    fn other_threads(&mut self) {
        let half = self.live.split_off(self.live.len() / 2);
        let allocator = self.allocator;
        let error = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                drop(half);
                allocator.allocate(50_000).err()
            });
            thread.join().unwrap()
        });
        self.errors.extend(error);
    }

    /// Memory that others reach: exported, imported, used by queues and freed in either order.
    fn exposed(&mut self) {
        let Some((form, storage)) = offered(self.allocator.device().as_ref()) else {
            return;
        };
        for legacy_last in [false, true] {
            let request = Request::new(3000).storage(storage).exportable(form);
            let buffer = self.allocator.allocate_with(&request);
            let Some(mut buffer) = self.noted(buffer) else {
                continue;
            };
            let exported = export(&buffer);
            let imported = match self.noted(exported) {
                Some(exported) => {
                    let imported = import(self.allocator, &exported);
                    self.noted(imported)
                }
                None => None,
            };
            if let Some(queue) = self.queues.pop() {
                let filled = queue.fill(&mut buffer, 1);
                self.noted(filled);
                self.queues.insert(0, queue);
            }
            // A descriptor's memory has no order of frees.
            if legacy_last && form == Export::FileDescriptor {
                drop(buffer);
                drop(imported);
            } else {
                drop(imported);
                drop(buffer);
            }
        }
    }

    fn limits(&mut self) {
        let reserved = self.allocator.stats().reserved.value;
        let _none = self
            .allocator
            .set_reserved_bytes_max(Some(reserved + 1))
            .unwrap();
        let refused = self.allocator.allocate(64 << 20);
        assert!(refused.is_err());
        let buffer = self.allocator.allocate(100 << 10);
        if let Ok(buffer) = buffer {
            self.stamp(buffer, None);
        }
        let _limit = self.allocator.set_reserved_bytes_max(None).unwrap();
        let most = self.allocator.set_cached_bytes_max(1 << 20);
        self.free();
        self.free();
        self.allocator.set_cached_bytes_max(most);
    }
}

/// Calls that fail.
#[derive(Debug, Clone, Copy)]
struct Fault {
    number: u64,
    count: u64,
    kind: ErrorKind,
}

/// Runs the workload with some calls failing; returns how many calls it made.
fn run(device: FaultyDevice, storage: StorageMode, fault: Fault) -> u64 {
    let device = Arc::new(device);
    device.fail_numbered(fault.number..fault.number + fault.count, fault.kind);
    let config = Config {
        // A queue that could not be signalled is waited for in vain.
        wait_max: Duration::from_millis(100),
        cached_bytes_max: Some(1 << 30),
        ..Config::default()
    };
    let built = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>)
        .config(config)
        .build();
    let Ok(allocator) = built else {
        assert_eq!(device.held().bytes(), 0);
        return device.calls();
    };
    let errors = Workload::run(&allocator, storage);
    let what = || format!("{fault:?} {:?} {errors:?}", device.failed());
    assert!(errors.len() as u64 <= fault.count, "{}", what());
    for error in &errors {
        assert_eq!(error.kind(), fault.kind, "{}", what());
    }
    let start = Instant::now();
    loop {
        let _bytes = allocator.clear();
        let stats = allocator.stats();
        assert_eq!(stats.live.value, 0, "{}", what());
        assert_eq!(stats.allocations, stats.frees, "{}", what());
        assert_eq!(stats.reserved.value, device.held().bytes(), "{}", what());
        if stats.reserved.value == 0 {
            assert_eq!(
                (stats.cached_bytes, stats.block_bytes, stats.free_bytes),
                (0, 0, 0)
            );
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{} {stats:?}",
            what()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let buffer = allocator.allocate(1 << 20);
    drop(buffer);
    let before = device.calls();
    drop(allocator);
    // At the end each piece is tried twice; a device that goes on refusing keeps it.
    if fault.count == 1 || before >= fault.number + fault.count {
        assert_eq!(device.held().bytes(), 0, "{}", what());
    }
    device.calls()
}

/// Each call of the workload fails, in one way after the other; some fail together with those behind them,
/// as when a device goes away for a while.
fn fail_each(make: impl Fn() -> FaultyDevice, check: impl Fn(), storage: StorageMode) {
    for (first, step, count) in [(1, 1, 1), (2, 5, 1), (3, 7, 6)] {
        let mut number = first;
        for kind in KINDS.into_iter().cycle() {
            let fault = Fault {
                number,
                count,
                kind,
            };
            if run(make(), storage, fault) < number {
                break;
            }
            if count == 1 {
                check();
            }
            number += step;
        }
        assert!(number > 60, "{number} calls");
    }
}

#[test]
fn on_the_host() {
    let make = || FaultyDevice::new(Arc::new(HostDevice::new().unwrap()));
    fail_each(make, || {}, StorageMode::Private);
}

#[test]
fn on_the_host_without_virtual_memory() {
    let make = || FaultyDevice::new(Arc::new(HostDevice::new().unwrap())).without_virtual_memory();
    fail_each(make, || {}, StorageMode::Private);
}

/// Fakes tell their violations and what is held.
fn fail_each_on<D: Fake + 'static>(make: fn() -> D, storage: StorageMode) {
    let last = std::cell::RefCell::new(None::<Arc<D>>);
    let check = || {
        let device = last.borrow_mut().take();
        if let Some(device) = device {
            assert_eq!(device.control().violations(), []);
            assert_all_returned(device.as_ref(), "all calls failed in turn");
        }
    };
    let make = || {
        let device = Arc::new(make());
        *last.borrow_mut() = Some(Arc::clone(&device));
        FaultyDevice::new(device)
    };
    fail_each(make, check, storage);
}

#[test]
fn on_the_discrete_fake() {
    fail_each_on(|| FakeDiscrete::new().unwrap(), StorageMode::Private);
}

#[test]
fn on_the_apple_fake() {
    fail_each_on(|| FakeApple::new().unwrap(), StorageMode::Private);
}
