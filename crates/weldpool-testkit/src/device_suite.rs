//! The suite that every device runs, through the allocator and its queues.
//!
//! A device joins it with one line in a test binary:
//!
//! ```text
//! weldpool_testkit::device_suite!(host, || Arc::new(HostDevice::new().unwrap()));
//! ```

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these functions are tests: their names say what holds, and they report by panicking"
)]

use std::collections::HashSet;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use weldpool::device::{AddressRange, DeviceQueue, Location, Physical, Segment, VirtualMemory};
use weldpool::{
    Allocator, Buffer, Config, Device, ErrorKind, Fence, LeakHandler, Queue, Request, Result,
    SizeClasses, StorageMode,
};

use crate::{Call, FaultyDevice};

/// Makes the device under test.
pub type MakeDevice = fn() -> Arc<dyn Device>;

/// Runs the suite on a device as a module of tests: `device_suite!(name, make)`.
#[macro_export]
macro_rules! device_suite {
    ($name:ident, $make:expr) => {
        $crate::device_suite!(@cases $name, $make,
            properties_and_budget_are_sane,
            segments_are_aligned_disjoint_and_zero,
            a_freed_buffer_is_reused_without_a_driver_call,
            every_size_and_alignment_is_kept,
            wrong_requests_are_errors,
            a_limit_is_an_error_that_passes,
            guards_check_type_length_and_each_other,
            private_storage_refuses_the_host,
            every_storage_mode_keeps_contents,
            mapped_memory_is_what_was_obtained,
            work_in_flight_keeps_guards_away,
            freed_memory_waits_for_its_fence,
            queues_wait_for_each_other,
            a_queue_may_be_dropped_before_its_work,
            a_fence_that_never_passes_costs_only_its_memory,
            copies_check_length_and_overlap,
            addresses_find_their_buffers,
            pre_allocation_clear_and_pooling,
            presets_start_and_stop_where_documented,
            leaks_are_reported_by_name,
            buffers_outlive_their_allocator,
            idle_memory_has_a_limit,
            segments_outgrown_give_way,
            threads_share_one_pool,
            every_failing_driver_call_is_survived,
            every_failing_virtual_memory_call_changes_nothing
        );
    };
    (@cases $name:ident, $make:expr, $($case:ident),+) => {
        mod $name {
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::device_suite::$case($make);
                }
            )+
        }
    };
}

fn allocator(make: MakeDevice) -> Allocator {
    Allocator::builder(make()).build().unwrap()
}

fn with_config(make: MakeDevice, change: impl FnOnce(&mut Config)) -> Allocator {
    let mut config = Config::default();
    change(&mut config);
    Allocator::builder(make()).config(config).build().unwrap()
}

fn address(buffer: &Buffer) -> usize {
    buffer.binding().host.unwrap().as_ptr().addr()
}

/// Holds a queue at its present end until the sender is used or dropped.
fn block(queue: &Queue) -> (Sender<()>, Fence) {
    let (open, gate) = channel();
    let fence = queue
        .call(move || {
            let _opened = gate.recv();
        })
        .unwrap();
    (open, fence)
}

pub fn properties_and_budget_are_sane(make: MakeDevice) {
    let device = make();
    let properties = device.properties();
    assert!(properties.page_bytes.is_power_of_two());
    assert!(properties.granularity.is_multiple_of(properties.page_bytes));
    assert!(properties.alignment_min.is_power_of_two());
    assert!(properties.segment_bytes_max >= 1 << 30);
    assert!(!properties.storage_modes.is_empty());
    assert!(!properties.name.is_empty());
    let budget = device.budget().unwrap();
    assert!(budget.total > 0 && budget.ceiling() <= budget.total);
    assert!(
        budget
            .available
            .is_none_or(|available| available <= budget.total)
    );
}

pub fn segments_are_aligned_disjoint_and_zero(make: MakeDevice) {
    let device = make();
    let granularity = device.properties().granularity;
    let segments: Vec<_> = (1..=8)
        .map(|count| {
            device
                .create_segment(count * granularity, StorageMode::Shared)
                .unwrap()
        })
        .collect();
    let mut ranges: Vec<_> = segments
        .iter()
        .filter_map(|segment| {
            let start = segment.host_address()?.as_ptr().addr();
            assert_eq!(start % granularity, 0);
            Some((start, start + segment.bytes()))
        })
        .collect();
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{ranges:?}"
    );
    for segment in segments {
        device.release_segment(segment).unwrap();
    }
    // Memory that was written and released comes back as zeroes.
    let allocator = with_config(make, |config| config.pooling = false);
    for _ in 0..3 {
        let mut buffer = allocator.allocate(5 * granularity).unwrap();
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
        buffer.write::<u8>().unwrap().fill(0xA5);
    }
}

pub fn a_freed_buffer_is_reused_without_a_driver_call(make: MakeDevice) {
    let allocator = allocator(make);
    for bytes in [1, 256, 4096, 65_536, 100_000, 1 << 20, 40 << 20] {
        let first = allocator.allocate(bytes).unwrap();
        let before = (address(&first), allocator.stats());
        drop(first);
        let second = allocator.allocate(bytes).unwrap();
        let after = allocator.stats();
        assert_eq!(address(&second), before.0, "{bytes} bytes");
        assert_eq!(after.driver_calls, before.1.driver_calls, "{bytes} bytes");
        assert_eq!(after.hits, before.1.hits + 1, "{bytes} bytes");
        assert_eq!(after.live.value, bytes as u64);
        drop(second);
    }
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0));
    assert_eq!(stats.allocations, stats.frees);
    assert_eq!(stats.hits + stats.misses, stats.allocations);
    assert_eq!(stats.cached_bytes, stats.reserved.value);
    assert_eq!(stats.live.peak, 40 << 20);
}

pub fn every_size_and_alignment_is_kept(make: MakeDevice) {
    let allocator = allocator(make);
    let mut live = Vec::new();
    for bytes in [1, 3, 255, 257, 4095, 65_537, 1_000_003] {
        for shift in [0, 4, 8, 9, 12, 14, 21] {
            let alignment = 1 << shift;
            let buffer = allocator
                .allocate_with(&Request::new(bytes).alignment(alignment))
                .unwrap();
            assert_eq!(
                address(&buffer) % alignment.max(256),
                0,
                "{bytes} at {alignment}"
            );
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.alignment() >= alignment && buffer.block_bytes() >= bytes);
            live.push(buffer);
        }
    }
    for (number, buffer) in live.iter_mut().enumerate() {
        buffer.write::<u8>().unwrap().fill(number as u8);
    }
    for (number, buffer) in live.iter().enumerate() {
        assert!(
            buffer
                .read::<u8>()
                .unwrap()
                .iter()
                .all(|&byte| byte == number as u8)
        );
    }
    drop(live);
    let mut dirty = allocator.allocate(4096).unwrap();
    dirty.write::<u8>().unwrap().fill(1);
    drop(dirty);
    let clean = allocator
        .allocate_with(&Request::new(4096).zeroed(true))
        .unwrap();
    assert!(clean.read::<u64>().unwrap().iter().all(|&word| word == 0));
}

pub fn wrong_requests_are_errors(make: MakeDevice) {
    let allocator = allocator(make);
    let max = allocator.device().properties().segment_bytes_max;
    for (request, kind) in [
        (Request::new(0), ErrorKind::InvalidRequest),
        (Request::new(usize::MAX), ErrorKind::InvalidRequest),
        (Request::new(max + 1), ErrorKind::InvalidRequest),
        (
            Request::new(max).alignment(1 << 30),
            ErrorKind::LimitExceeded,
        ),
        (Request::new(64).alignment(0), ErrorKind::InvalidRequest),
        (Request::new(64).alignment(48), ErrorKind::InvalidRequest),
        (
            Request::new(64).alignment(1 << 31),
            ErrorKind::InvalidRequest,
        ),
    ] {
        let error = allocator
            .allocate_with(&request.name("the wrong one"))
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{request:?}: {error}");
        assert!(error.to_string().contains("the wrong one"), "{error}");
    }
    let stats = allocator.stats();
    assert_eq!(
        (stats.allocations, stats.failures, stats.reserved.value),
        (0, 7, 0)
    );
}

pub fn a_limit_is_an_error_that_passes(make: MakeDevice) {
    let allocator = with_config(make, |config| config.reserved_bytes_max = Some(8 << 20));
    let first = allocator.allocate(6 << 20).unwrap();
    let error = allocator
        .allocate_with(&Request::new(3 << 20).name("second"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let text = error.to_string();
    for part in ["3145728", "second", "live 6291456", "limit 8388608"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    // Idle memory of another shape must not stand in the way.
    drop(first);
    let small: Vec<_> = (0..64).map(|_| allocator.allocate(4096).unwrap()).collect();
    drop(small);
    let whole = allocator.allocate(8 << 20).unwrap();
    assert_eq!(allocator.stats().reserved.value, 8 << 20);
    drop(whole);
    assert!(allocator.stats().reserved.peak <= 8 << 20);
}

pub fn guards_check_type_length_and_each_other(make: MakeDevice) {
    let allocator = allocator(make);
    let mut buffer = allocator.allocate(12).unwrap();
    assert_eq!(
        buffer.read::<u64>().unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    buffer.write::<u32>().unwrap().copy_from_slice(&[1, 2, 3]);
    let whole = buffer.share();
    let tail = whole.slice(4..12).unwrap();
    assert_eq!(*tail.read::<u32>().unwrap(), [2, 3]);
    assert_eq!(
        whole.slice(1..9).unwrap().read::<u32>().unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "it is the wrong range under test"
    )]
    let wrong = [0..13, 5..4, usize::MAX - 1..usize::MAX];
    for range in wrong {
        assert_eq!(
            whole.slice(range).unwrap_err().kind(),
            ErrorKind::InvalidRequest
        );
    }
    let reading = whole.read::<u8>().unwrap();
    let _also = tail.read::<u8>().unwrap();
    assert_eq!(tail.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    drop((reading, _also));
    let writing = tail.write::<u8>().unwrap();
    assert_eq!(whole.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    drop(writing);
    assert!(whole.slice(6..6).unwrap().read::<u16>().unwrap().is_empty());
    let whole = whole.try_into_buffer().unwrap_err();
    drop(tail);
    assert!(whole.is_unique());
    assert_eq!(whole.try_into_buffer().unwrap().len(), 12);
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn private_storage_refuses_the_host(make: MakeDevice) {
    let allocator = allocator(make);
    let request = Request::new(1000).storage(StorageMode::Private);
    if !allocator
        .device()
        .properties()
        .storage_modes
        .contains(&StorageMode::Private)
    {
        assert_eq!(
            allocator.allocate_with(&request).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        return;
    }
    let mut private = allocator.allocate_with(&request).unwrap();
    assert_eq!(
        private.read::<u8>().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        private.write::<u8>().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert!(private.binding().host.is_none());
    let queue = allocator.create_queue().unwrap();
    queue.fill(&mut private, 9).unwrap();
    let mut shared = allocator.allocate(1000).unwrap();
    queue
        .copy(&private, &mut shared)
        .unwrap()
        .wait(None)
        .unwrap();
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 9));
    let private = private.into_raw().unwrap_err();
    drop(private);
    let zeroed = allocator
        .allocate_with(&request.zeroed(true).queue(&queue))
        .unwrap();
    queue
        .copy(&zeroed, &mut shared)
        .unwrap()
        .wait(None)
        .unwrap();
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
}

/// Blocks of each storage mode, written and read on two queues, through reuse of their memory.
pub fn every_storage_mode_keeps_contents(make: MakeDevice) {
    let device = make();
    let allocator = Allocator::builder(Arc::clone(&device)).build().unwrap();
    let queues = [0, 1].map(|_| allocator.create_queue().unwrap());
    for &storage in &device.properties().storage_modes {
        let mut seen = allocator.allocate(300_000).unwrap();
        let mut live: Vec<(u8, Buffer)> = Vec::new();
        for step in 0..120_usize {
            let queue = &queues[step % 2];
            if live.len() > 6 {
                let (mark, buffer) = live.swap_remove(step * 7 % 6);
                queue.copy(&buffer, &mut seen).unwrap().wait(None).unwrap();
                let contents = seen.read::<u8>().unwrap();
                let kept = contents[..buffer.len()].iter().all(|&byte| byte == mark);
                assert!(kept, "{storage}: step {step}");
            }
            let bytes = [200, 5000, 70_000, 300_000][step % 4];
            let alignment = [256, 4096, 1 << 16][step % 3];
            let request = Request::new(bytes)
                .storage(storage)
                .alignment(alignment)
                .queue(queue);
            let mut buffer = allocator.allocate_with(&request).unwrap();
            let binding = buffer.binding();
            if let Some(address) = binding.device_address {
                // Where the host has an address too, larger alignments are that one's.
                let promised = match binding.host {
                    Some(_) => alignment.min(device.properties().granularity),
                    None => alignment,
                };
                assert_eq!(address % promised as u64, 0, "{storage}");
            }
            queue.fill(&mut buffer, step as u8).unwrap();
            live.push((step as u8, buffer));
        }
    }
    assert_eq!(allocator.stats().live.value, 0);
}

/// A device's own queue, and shared memory through which contents are seen.
struct Probe {
    queue: Arc<dyn DeviceQueue>,
    seen: Box<dyn Segment>,
}

impl Probe {
    fn new(device: &dyn Device, bytes: usize) -> Self {
        Self {
            queue: device.create_queue().unwrap(),
            seen: device.create_segment(bytes, StorageMode::Shared).unwrap(),
        }
    }

    fn wait(&self) {
        let value = self.queue.signal().unwrap();
        assert!(
            self.queue
                .timeline()
                .wait(value, Some(Duration::from_secs(60)))
                .unwrap()
        );
    }

    #[allow(unsafe_code)]
    fn fill(&self, range: &dyn AddressRange, at: usize, bytes: usize, value: u8) {
        // SAFETY: the tests map the memory first and wait for the work before they change anything.
        unsafe { self.queue.fill(place(range, at), bytes, value) }.unwrap();
        self.wait();
    }

    /// Whether every byte has this value.
    #[allow(unsafe_code)]
    fn holds(&self, range: &dyn AddressRange, at: usize, bytes: usize, value: u8) -> bool {
        let host = self.seen.host_address().unwrap();
        let seen = Location {
            host: Some(host),
            device: self.seen.device_address(),
            resource: self.seen.resource().map(|resource| (resource, 0)),
        };
        // SAFETY: as for `fill`, and the segment is long enough.
        unsafe { self.queue.copy(place(range, at), seen, bytes) }.unwrap();
        self.wait();
        // SAFETY: the segment is that long, initialised, and no work uses it any more.
        let contents = unsafe { std::slice::from_raw_parts(host.as_ptr(), bytes) };
        contents.iter().all(|&byte| byte == value)
    }
}

fn place(range: &dyn AddressRange, at: usize) -> Location {
    Location {
        host: range.host_address().map(|host| {
            #[allow(unsafe_code)]
            // SAFETY: the tests stay inside the range.
            unsafe {
                host.add(at)
            }
        }),
        device: range.device_address().map(|address| address + at as u64),
        resource: None,
    }
}

#[allow(unsafe_code)]
fn map(range: &dyn AddressRange, at: usize, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: the tests wait for all work before they change a mapping, and write through one mapping
    // of a handle at a time.
    unsafe { range.map(at, physical, bytes) }
}

#[allow(unsafe_code)]
fn unmap(range: &dyn AddressRange, at: usize, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { range.unmap(at, bytes) }
}

#[allow(unsafe_code)]
fn release(memory: &dyn VirtualMemory, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { memory.release(physical, bytes) }
}

/// Physical memory shows the same contents wherever it is mapped, and keeps them while it is nowhere.
pub fn mapped_memory_is_what_was_obtained(make: MakeDevice) {
    let device = make();
    for &storage in &device.properties().storage_modes {
        let Some(memory) = device.virtual_memory(storage) else {
            continue;
        };
        let properties = memory.properties();
        let granule = properties.granularity;
        assert!(granule.is_power_of_two());
        assert!(properties.address_bytes_max >= 1 << 30);
        let probe = Probe::new(
            device.as_ref(),
            2 * device.properties().granularity.max(granule),
        );
        let range = memory.reserve(8 * granule).unwrap();
        assert_eq!(range.bytes(), 8 * granule);
        assert!(range.host_address().is_some() || storage == StorageMode::Private);
        let both = memory.create(2 * granule, storage).unwrap();
        let one = memory.create(granule, storage).unwrap();
        map(range.as_ref(), 0, both, 2 * granule).unwrap();
        map(range.as_ref(), 4 * granule, both, 2 * granule).unwrap();
        map(range.as_ref(), 2 * granule, one, granule).unwrap();
        range.allow_access(0, 3 * granule).unwrap();
        range.allow_access(4 * granule, 2 * granule).unwrap();
        probe.fill(range.as_ref(), 0, 2 * granule, 0x5A);
        probe.fill(range.as_ref(), 2 * granule, granule, 0x11);
        assert!(probe.holds(range.as_ref(), 4 * granule, 2 * granule, 0x5A));
        // Work may cross from one mapping to the next.
        probe.fill(range.as_ref(), 2 * granule - 100, 200, 0x77);
        assert!(probe.holds(range.as_ref(), 6 * granule - 100, 100, 0x77));
        assert!(probe.holds(range.as_ref(), 2 * granule, 100, 0x77));
        assert!(probe.holds(range.as_ref(), 2 * granule + 100, granule - 100, 0x11));
        unmap(range.as_ref(), 0, 3 * granule).unwrap();
        unmap(range.as_ref(), 4 * granule, 2 * granule).unwrap();
        map(range.as_ref(), granule, both, 2 * granule).unwrap();
        range.allow_access(granule, 2 * granule).unwrap();
        assert!(probe.holds(range.as_ref(), granule, 2 * granule - 100, 0x5A));
        if properties.divisible {
            map(range.as_ref(), 6 * granule, both.offset(granule), granule).unwrap();
            range.allow_access(6 * granule, granule).unwrap();
            assert!(probe.holds(range.as_ref(), 7 * granule - 100, 100, 0x77));
        }
        // The end of a range unmaps what is in it.
        drop(range);
        release(memory, both, 2 * granule).unwrap();
        release(memory, one, granule).unwrap();
    }
}

/// A call that fails leaves address space, handles, mappings and contents as they were.
pub fn every_failing_virtual_memory_call_changes_nothing(make: MakeDevice) {
    let device = FaultyDevice::new(make());
    for storage in StorageMode::ALL {
        let Some(memory) = device.virtual_memory(storage) else {
            continue;
        };
        let granule = memory.properties().granularity;
        let probe = Probe::new(&device, device.properties().granularity.max(granule));
        let range = memory.reserve(2 * granule).unwrap();
        let physical = memory.create(granule, storage).unwrap();
        map(range.as_ref(), 0, physical, granule).unwrap();
        range.allow_access(0, granule).unwrap();
        probe.fill(range.as_ref(), 0, granule, 0x42);
        for kind in [
            ErrorKind::OutOfMemory,
            ErrorKind::System,
            ErrorKind::DeviceLost,
        ] {
            for call in Call::VIRTUAL_MEMORY {
                device.fail(call, kind, 1);
                let error = match call {
                    Call::Reserve => memory.reserve(granule).map(drop),
                    Call::CreatePhysical => memory.create(granule, storage).map(drop),
                    Call::ReleasePhysical => release(memory, physical, granule),
                    Call::Map => map(range.as_ref(), granule, physical, granule),
                    Call::AllowAccess => range.allow_access(0, granule),
                    Call::Unmap => unmap(range.as_ref(), 0, granule),
                    other => panic!("{other:?} is not exercised"),
                };
                assert_eq!(error.unwrap_err().kind(), kind, "{call:?}");
                assert!(probe.holds(range.as_ref(), 0, granule, 0x42), "{call:?}");
            }
        }
        map(range.as_ref(), granule, physical, granule).unwrap();
        unmap(range.as_ref(), 0, 2 * granule).unwrap();
        release(memory, physical, granule).unwrap();
    }
}

pub fn work_in_flight_keeps_guards_away(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let mut source = allocator.allocate(4096).unwrap();
    source.write::<u8>().unwrap().fill(1);
    let mut target = allocator.allocate(4096).unwrap();
    let (open, _) = block(&queue);
    let fence = queue.copy(&source, &mut target).unwrap();
    assert!(!fence.is_complete().unwrap());
    assert_eq!(
        fence
            .wait(Some(Duration::from_millis(2)))
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
    assert!(source.read::<u8>().is_ok(), "two readers do not race");
    assert_eq!(source.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(target.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    open.send(()).unwrap();
    target.wait(None).unwrap();
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    source.write::<u8>().unwrap().fill(2);
}

pub fn freed_memory_waits_for_its_fence(make: MakeDevice) {
    let allocator = allocator(make);
    let (busy, other) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    for bytes in [4096, 300_000] {
        let mut source = allocator.allocate(bytes).unwrap();
        source.write::<u8>().unwrap().fill(3);
        let mut target = allocator.allocate(bytes).unwrap();
        let (open, _) = block(&busy);
        busy.copy(&source, &mut target).unwrap();
        let old = address(&source);
        drop(source);
        assert!(allocator.stats().deferred_bytes >= bytes as u64);
        // Neither the host nor another queue gets the memory that the copy has yet to read.
        let mut host = allocator.allocate(bytes).unwrap();
        assert_ne!(address(&host), old);
        host.write::<u8>().unwrap().fill(0xEE);
        let foreign = allocator
            .allocate_with(&Request::new(bytes).queue(&other))
            .unwrap();
        assert_ne!(address(&foreign), old);
        // The same queue does, at once; the host still has to wait.
        let mut same = allocator
            .allocate_with(&Request::new(bytes).queue(&busy))
            .unwrap();
        assert_eq!(address(&same), old);
        assert_eq!(same.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
        busy.fill(&mut same, 0xDD).unwrap();
        open.send(()).unwrap();
        target.wait(None).unwrap();
        assert!(
            target.read::<u8>().unwrap().iter().all(|&byte| byte == 3),
            "{bytes} bytes"
        );
        same.wait(None).unwrap();
        drop((same, host, foreign, target));
    }
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn queues_wait_for_each_other(make: MakeDevice) {
    let allocator = allocator(make);
    let (first, second) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    let mut middle = allocator.allocate(1 << 16).unwrap();
    let mut result = allocator.allocate(1 << 16).unwrap();
    let (open, _) = block(&first);
    first.fill(&mut middle, 5).unwrap();
    let copied = second.copy(&middle, &mut result).unwrap();
    let refilled = first.fill(&mut middle, 6).unwrap();
    assert_eq!(
        copied
            .wait(Some(Duration::from_millis(5)))
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
    open.send(()).unwrap();
    copied.wait(None).unwrap();
    refilled.wait(None).unwrap();
    assert!(result.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
    assert!(middle.read::<u8>().unwrap().iter().all(|&byte| byte == 6));
}

pub fn a_queue_may_be_dropped_before_its_work(make: MakeDevice) {
    let allocator = allocator(make);
    let mut target = allocator.allocate(8192).unwrap();
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let fence = queue.fill(&mut target, 4).unwrap();
    drop(queue);
    open.send(()).unwrap();
    fence.wait(Some(Duration::from_secs(20))).unwrap();
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 4));
}

pub fn a_fence_that_never_passes_costs_only_its_memory(make: MakeDevice) {
    // Room for one large and one small segment, whatever they are rounded to.
    let granularity = make().properties().granularity as u64;
    let allocator = with_config(make, |config| {
        config.reserved_bytes_max = Some((4 << 20) + granularity);
        config.wait_max = Duration::from_millis(20);
    });
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let mut stuck = allocator.allocate(3 << 20).unwrap();
    queue.fill(&mut stuck, 1).unwrap();
    drop(stuck);
    let error = allocator.allocate(3 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    drop(allocator.allocate(1 << 16).unwrap());
    open.send(()).unwrap();
    queue.fence().unwrap().wait(None).unwrap();
    drop(allocator.allocate(3 << 20).unwrap());
    assert_eq!(allocator.stats().deferred_bytes, 0);
}

pub fn copies_check_length_and_overlap(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let long = allocator.allocate(100).unwrap();
    let mut short = allocator.allocate(99).unwrap();
    assert_eq!(
        queue.copy(&long, &mut short).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let whole = long.share();
    let mut late = whole.slice(40..100).unwrap();
    let early = whole.slice(0..60).unwrap();
    assert_eq!(
        queue.copy(&early, &mut late).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let guard = whole.read::<u8>().unwrap();
    let first = whole.slice(0..40).unwrap();
    assert_eq!(
        queue.copy(&first, &mut late).unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(guard);
    first.write::<u8>().unwrap().fill(8);
    queue.copy(&first, &mut late).unwrap().wait(None).unwrap();
    assert_eq!(late.read::<u8>().unwrap()[..40], [8; 40]);
    queue.copy(&first, &mut short).unwrap().wait(None).unwrap();
    assert_eq!(short.read::<u8>().unwrap()[..40], [8; 40]);
}

pub fn addresses_find_their_buffers(make: MakeDevice) {
    let allocator = allocator(make);
    let buffers: Vec<_> = [100, 70_000, 5 << 20]
        .map(|bytes| {
            allocator
                .allocate_with(&Request::new(bytes).name("found"))
                .unwrap()
        })
        .into_iter()
        .collect();
    for buffer in &buffers {
        let start = buffer.binding().host.unwrap().as_ptr();
        for offset in [0, 1, buffer.len() - 1] {
            let info = allocator.find(start.wrapping_add(offset)).unwrap();
            assert_eq!((info.address, info.bytes), (start.addr(), buffer.len()));
            assert_eq!(info.name.as_str(), "found");
        }
        let beyond = allocator.find(start.wrapping_add(buffer.len()));
        assert!(beyond.is_none_or(|info| info.address != start.addr()));
    }
    assert_eq!(allocator.find(std::ptr::null()), None);
    assert_eq!(
        allocator.find(std::ptr::without_provenance(usize::MAX)),
        None
    );
    let raw: Vec<_> = buffers
        .into_iter()
        .map(|buffer| buffer.into_raw().unwrap())
        .collect();
    assert!(allocator.stats().live.value > 5 << 20);
    for address in raw {
        #[allow(unsafe_code)]
        let reclaim = || {
            // SAFETY: the address is used nowhere else.
            unsafe { allocator.reclaim(address) }
        };
        let buffer = reclaim().unwrap();
        assert_eq!(
            reclaim().unwrap_err().kind(),
            ErrorKind::InvalidRequest,
            "taken back already"
        );
        drop(buffer);
        assert_eq!(reclaim().unwrap_err().kind(), ErrorKind::InvalidRequest);
        assert_eq!(allocator.find(address.as_ptr()), None);
    }
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn pre_allocation_clear_and_pooling(make: MakeDevice) {
    let allocator = allocator(make);
    assert_eq!(allocator.pre_allocate(4096, 50).unwrap(), 50);
    let before = allocator.stats().driver_calls;
    let taken: Vec<_> = (0..50).map(|_| allocator.allocate(4096).unwrap()).collect();
    assert_eq!(allocator.stats().driver_calls, before);
    assert_eq!(allocator.clear(), 0, "everything is in use");
    drop(taken);
    let reserved = allocator.stats().reserved.value;
    assert_eq!(allocator.clear() as u64, reserved);
    assert_eq!(allocator.stats().reserved.value, 0);

    assert!(allocator.set_pooling(false));
    let direct = allocator.allocate(4096).unwrap();
    let also = allocator.allocate(4096).unwrap();
    let two = allocator.stats().reserved.value;
    drop(direct);
    assert_eq!(allocator.stats().reserved.value, two / 2);
    assert!(!allocator.set_pooling(true));
    drop(also);
    assert_eq!(allocator.stats().reserved.value, 0);
    drop(allocator.allocate(4096).unwrap());
    assert!(allocator.stats().cached_bytes > 0);
}

pub fn presets_start_and_stop_where_documented(make: MakeDevice) {
    let allocator = with_config(make, |config| config.classes = SizeClasses::seed());
    let stats = allocator.stats();
    assert_eq!((stats.live.peak, stats.allocations), (0, 0));
    let held = |bytes: u64| {
        let stats = allocator.stats();
        let mut classes = stats.classes.iter();
        let class = classes.find(|class| class.bytes as u64 == bytes).unwrap();
        class.held_bytes / bytes
    };
    assert_eq!((held(256), held(64 << 20)), (64, 1));
    let taken: Vec<_> = (0..1000)
        .map(|_| allocator.allocate(200).unwrap())
        .collect();
    assert!(held(256) >= 1000);
    drop(taken);
    let kept = held(256);
    assert!(
        (256..=256 + 128).contains(&kept),
        "{kept}: the class's and the thread's maximum"
    );
    let large: Vec<_> = (0..4)
        .map(|_| allocator.allocate(64 << 20).unwrap())
        .collect();
    drop(large);
    assert_eq!(held(64 << 20), 1);
    let rounded = allocator.allocate(4097).unwrap();
    assert_eq!(rounded.block_bytes(), 8192);
}

pub fn leaks_are_reported_by_name(make: MakeDevice) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let allocator = with_config(make, move |config| {
        config.on_leak = Some(LeakHandler::new(move |report| {
            sink.lock().unwrap().push(report.clone());
        }));
    });
    let leaked = [
        allocator
            .allocate_with(&Request::new(100).name("small"))
            .unwrap(),
        allocator
            .allocate_with(&Request::new(5000).name("large"))
            .unwrap(),
        allocator
            .allocate_with(&Request::new(300).name("small"))
            .unwrap(),
    ];
    let second = allocator.clone();
    drop(allocator);
    assert!(reports.lock().unwrap().is_empty(), "a handle is left");
    drop(second);
    let report = reports.lock().unwrap().pop().unwrap();
    assert_eq!((report.count(), report.bytes()), (3, 5400));
    assert_eq!(report.buffers[0].name.as_str(), "large");
    assert_eq!((report.buffers[1].count, report.buffers[1].bytes), (2, 400));
    assert!(
        report
            .to_string()
            .contains("3 buffers of 5400 bytes are alive"),
        "{report}"
    );
    drop(leaked);
}

pub fn buffers_outlive_their_allocator(make: MakeDevice) {
    let allocator = allocator(make);
    let mut buffer = allocator.allocate(10_000).unwrap();
    drop(allocator);
    buffer.write::<u8>().unwrap().fill(7);
    let view = buffer.share();
    let part = view.slice(9_999..10_000).unwrap();
    drop(view);
    assert_eq!(*part.read::<u8>().unwrap(), [7]);
}

pub fn idle_memory_has_a_limit(make: MakeDevice) {
    let allocator = with_config(make, |config| config.cached_bytes_max = Some(16 << 20));
    let live: Vec<_> = (0..16)
        .map(|_| allocator.allocate(8 << 20).unwrap())
        .collect();
    drop(live);
    let stats = allocator.stats();
    assert!(stats.cached_bytes <= 64 << 20, "{stats}");
    assert!(stats.reserved.value < stats.reserved.peak, "{stats}");
}

pub fn segments_outgrown_give_way(make: MakeDevice) {
    let allocator = allocator(make);
    for _ in 0..3 {
        for bytes in [3 << 20, 5 << 20, 9 << 20, 20 << 20, 60 << 20] {
            drop(allocator.allocate(bytes).unwrap());
        }
    }
    let stats = allocator.stats();
    assert_eq!(stats.reserved.value, 60 << 20, "{stats}");
    assert_eq!(stats.growths, 5, "the second and third round need none");
}

pub fn threads_share_one_pool(make: MakeDevice) {
    let allocator = allocator(make);
    std::thread::scope(|scope| {
        let run = |thread: u64| {
            let allocator = &allocator;
            scope.spawn(move || {
                let mut random = thread.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                let mut live: Vec<(u64, Buffer)> = Vec::new();
                for step in 0..2_000_u64 {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    if live.len() > 20 || (random & 3 == 0 && !live.is_empty()) {
                        let (mark, buffer) = live.swap_remove(random as usize % live.len());
                        let contents = buffer.read::<u8>().unwrap();
                        let length = contents.len();
                        assert!(
                            [0, length / 2, length - 1].map(|at| contents[at]) == [mark as u8; 3]
                        );
                    } else {
                        let bytes = 1 + random as usize % (1 << (4 + random % 18));
                        let mut buffer = allocator.allocate(bytes).unwrap();
                        let mark = step ^ thread;
                        let mut contents = buffer.write::<u8>().unwrap();
                        for at in [0, bytes / 2, bytes - 1] {
                            contents[at] = mark as u8;
                        }
                        drop(contents);
                        live.push((mark, buffer));
                    }
                }
            })
        };
        // Joining, unlike the end of the scope, waits until a thread has given back its cache.
        let threads: Vec<_> = (0..4).map(run).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0), "{stats}");
    assert_eq!(stats.allocations, stats.frees);
    assert_eq!(stats.cached_bytes, stats.reserved.value);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
}

pub fn every_failing_driver_call_is_survived(make: MakeDevice) {
    let mut seen = HashSet::new();
    for kind in [
        ErrorKind::OutOfMemory,
        ErrorKind::System,
        ErrorKind::DeviceLost,
    ] {
        for call in Call::ALL {
            let device = Arc::new(FaultyDevice::new(make()));
            if !is_made(device.as_ref(), call) {
                continue;
            }
            let allocator = Allocator::builder(device.clone()).build().unwrap();
            let queue = allocator.create_queue().unwrap();
            let other = allocator.create_queue().unwrap();
            let mut kept = allocator.allocate(5000).unwrap();
            kept.write::<u8>().unwrap().fill(1);
            let mut target = allocator.allocate(5000).unwrap();
            device.fail(call, kind, usize::MAX);
            let error = match call {
                Call::Budget => allocator.device().budget().map(drop),
                Call::Reserve => {
                    let fresh = Allocator::builder(device.clone()).build().unwrap();
                    fresh.allocate(8 << 20).map(drop)
                }
                Call::CreateSegment | Call::CreatePhysical | Call::Map | Call::AllowAccess => {
                    allocator.allocate(8 << 20).map(drop)
                }
                Call::ReleaseSegment | Call::Unmap | Call::ReleasePhysical => {
                    drop(allocator.allocate(8 << 20).unwrap());
                    let before = allocator.stats();
                    assert_eq!(allocator.clear(), 0);
                    let after = allocator.stats();
                    assert_eq!(after.reserved.value, before.reserved.value);
                    assert_eq!(after.cached_bytes, before.cached_bytes);
                    drop(allocator.allocate(8 << 20).unwrap());
                    assert_eq!(
                        allocator.stats().growths,
                        before.growths,
                        "the segment is reused"
                    );
                    Ok(())
                }
                Call::CreateQueue => allocator.create_queue().map(drop),
                Call::Copy | Call::Signal => queue.copy(&kept, &mut target).map(drop),
                Call::Fill => queue.fill(&mut target, 2).map(drop),
                Call::HostCall => queue.call(|| ()).map(drop),
                Call::WaitFor => {
                    let (open, _) = block(&other);
                    other.fill(&mut target, 2).unwrap();
                    let result = queue.copy(&kept, &mut target).map(drop);
                    open.send(()).unwrap();
                    result
                }
                other => panic!("{other:?} is not exercised"),
            };
            match error {
                Err(error) => assert_eq!(error.kind(), kind, "{call:?}"),
                Ok(()) => assert!(
                    matches!(
                        call,
                        Call::ReleaseSegment | Call::Unmap | Call::ReleasePhysical
                    ),
                    "{call:?} did not fail"
                ),
            }
            device.fail(call, kind, 0);
            // Everything works again, and nothing was lost.
            drop(allocator.allocate(8 << 20).unwrap());
            queue.copy(&kept, &mut target).unwrap().wait(None).unwrap();
            assert!(
                target.read::<u8>().unwrap().iter().all(|&byte| byte == 1),
                "{call:?}"
            );
            drop((kept, target));
            assert_eq!(allocator.stats().live.value, 0, "{call:?}");
            let _bytes = allocator.clear();
            let stats = allocator.stats();
            assert_eq!(
                (stats.reserved.value, stats.segments),
                (0, 0),
                "{call:?}: {stats}"
            );
            seen.insert(call);
        }
    }
    let made = |call: &&Call| is_made(make().as_ref(), **call);
    assert_eq!(seen.len(), Call::ALL.iter().filter(made).count());
}

/// Whether an allocator of shared storage ever makes this call on the device.
fn is_made(device: &dyn Device, call: Call) -> bool {
    match device.virtual_memory(StorageMode::Shared) {
        None => !Call::VIRTUAL_MEMORY.contains(&call),
        Some(memory) => match call {
            Call::CreateSegment | Call::ReleaseSegment => false,
            Call::AllowAccess => memory.properties().needs_access,
            _ => true,
        },
    }
}
