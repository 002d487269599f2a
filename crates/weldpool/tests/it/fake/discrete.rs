//! The rules and costs of the discrete fake.

#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::{Call, Costs, FakeDiscrete, Fault, Rule, When};
use weldpool::device::{AddressRange, DeviceQueue, Location, Physical, VirtualMemory};
use weldpool::{Allocator, Device, ErrorKind, Request, Result, StorageMode};

use super::broken;

const G: usize = 2 << 20;
const MIB: usize = 1 << 20;

fn private(device: &FakeDiscrete) -> &dyn VirtualMemory {
    device.virtual_memory(StorageMode::Private).unwrap()
}

fn map(range: &dyn AddressRange, at: usize, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: these tests wait for all work before they change a mapping.
    unsafe { range.map(at, physical, bytes) }
}

fn unmap(range: &dyn AddressRange, at: usize, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { range.unmap(at, bytes) }
}

fn release(device: &FakeDiscrete, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { private(device).release(physical, bytes) }
}

fn at(address: u64) -> Location {
    Location {
        host: None,
        device: Some(address),
        resource: None,
    }
}

fn fill(queue: &dyn DeviceQueue, address: u64, bytes: usize, value: u8) -> Result<()> {
    // SAFETY: the fake looks every address up before it touches memory.
    unsafe { queue.fill(at(address), bytes, value) }
}

fn copy(queue: &dyn DeviceQueue, source: Location, target: Location, bytes: usize) -> Result<()> {
    // SAFETY: as for `fill`; host memory in these tests outlives the work.
    unsafe { queue.copy(source, target, bytes) }
}

fn finish(queue: &dyn DeviceQueue) {
    let value = queue.signal().unwrap();
    let timeout = Some(Duration::from_secs(60));
    assert!(queue.timeline().wait(value, timeout).unwrap());
}

/// Contents of device memory, by a copy to pageable host memory.
fn contents(queue: &dyn DeviceQueue, address: u64, bytes: usize) -> Vec<u8> {
    let mut seen = vec![0; bytes];
    let target = Location {
        host: std::ptr::NonNull::new(seen.as_mut_ptr()),
        device: None,
        resource: None,
    };
    copy(queue, at(address), target, bytes).unwrap();
    finish(queue);
    seen
}

#[test]
fn each_broken_rule_is_an_error_and_remembered() {
    type Case = (
        Rule,
        fn(&FakeDiscrete, &dyn AddressRange, Physical) -> Result<()>,
    );
    // The range has 8 granules; the handle has two and is mapped at granule 2, accessible.
    let cases: [Case; 19] = [
        (Rule::Granularity, |device, _, _| {
            private(device).reserve(0).map(drop)
        }),
        (Rule::Granularity, |device, _, _| {
            private(device).reserve(G + 4096).map(drop)
        }),
        (Rule::Granularity, |device, _, _| {
            private(device).create(4096, StorageMode::Private).map(drop)
        }),
        (Rule::Granularity, |device, _, _| {
            device.create_segment(4096, StorageMode::Private).map(drop)
        }),
        (Rule::Granularity, |_, range, handle| {
            map(range, 4096, handle, 2 * G)
        }),
        (Rule::WholeHandle, |_, range, handle| {
            map(range, 5 * G, handle, G)
        }),
        (Rule::WholeHandle, |_, range, handle| {
            map(range, 5 * G, handle.offset(G), G)
        }),
        (Rule::WholeHandle, |device, _, handle| {
            release(device, handle, G)
        }),
        (Rule::KnownHandle, |_, range, _| {
            map(range, 5 * G, Physical::new(1 << 60), G)
        }),
        (Rule::KnownHandle, |device, _, _| {
            release(device, Physical::new(1 << 60), G)
        }),
        (Rule::InsideRange, |_, range, handle| {
            map(range, 7 * G, handle, 2 * G)
        }),
        (Rule::InsideRange, |_, range, _| {
            range.allow_access(usize::MAX / G * G, 2 * G)
        }),
        (Rule::InsideRange, |_, range, _| unmap(range, 0, 9 * G)),
        (Rule::FreeAddresses, |_, range, handle| {
            map(range, G, handle, 2 * G)
        }),
        (Rule::FreeAddresses, |_, range, handle| {
            map(range, 3 * G, handle, 2 * G)
        }),
        (Rule::WholeMapping, |_, range, _| unmap(range, 0, 3 * G)),
        (Rule::WholeMapping, |_, range, _| unmap(range, 3 * G, 2 * G)),
        (Rule::WholeMapping, |_, range, _| {
            range.allow_access(2 * G, G)
        }),
        (Rule::WholeMapping, |_, range, _| {
            range.allow_access(5 * G, G)
        }),
    ];
    for (number, (rule, case)) in cases.into_iter().enumerate() {
        let device = FakeDiscrete::new().unwrap();
        let range = private(&device).reserve(8 * G).unwrap();
        let handle = private(&device)
            .create(2 * G, StorageMode::Private)
            .unwrap();
        map(range.as_ref(), 2 * G, handle, 2 * G).unwrap();
        range.allow_access(2 * G, 2 * G).unwrap();
        let queue = device.create_queue().unwrap();
        let start = range.device_address().unwrap();
        fill(queue.as_ref(), start + 2 * G as u64, 2 * G, 0x33).unwrap();
        let before = device.charged_ns();
        let error = case(&device, range.as_ref(), handle).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::InvalidRequest,
            "case {number}: {error}"
        );
        assert_eq!(broken(device.control()), [rule], "case {number}: {error}");
        assert_eq!(device.control().violation_count(), 1);
        assert!(
            device.charged_ns() - before < 1000,
            "what is refused costs nothing"
        );
        // Nothing changed.
        let seen = contents(queue.as_ref(), start + 2 * G as u64, 2 * G);
        assert!(seen.iter().all(|&byte| byte == 0x33), "case {number}");
        unmap(range.as_ref(), 2 * G, 2 * G).unwrap();
        release(&device, handle, 2 * G).unwrap();
        assert_eq!(device.control().violation_count(), 1);
    }
}

#[test]
fn work_touches_only_mapped_and_accessible_memory() {
    let device = FakeDiscrete::new().unwrap();
    let queue = device.create_queue().unwrap();
    let range = private(&device).reserve(4 * G).unwrap();
    assert!(range.host_address().is_none());
    let start = range.device_address().unwrap();
    let refused = |address: u64, bytes: usize, rule: Rule| {
        let error = fill(queue.as_ref(), address, bytes, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!(broken(device.control()).last(), Some(&rule), "{error}");
    };
    refused(start, 1, Rule::Mapped);
    let handle = private(&device).create(G, StorageMode::Private).unwrap();
    map(range.as_ref(), G, handle, G).unwrap();
    refused(start + G as u64, 1, Rule::Accessible);
    range.allow_access(G, G).unwrap();
    fill(queue.as_ref(), start + G as u64, G, 1).unwrap();
    refused(start + G as u64, G + 1, Rule::Mapped);
    refused(start + G as u64 - 1, 2, Rule::Mapped);
    finish(queue.as_ref());
    // Memory that was mapped again has to be made accessible again.
    unmap(range.as_ref(), G, G).unwrap();
    map(range.as_ref(), G, handle, G).unwrap();
    refused(start + G as u64, 1, Rule::Accessible);
    range.allow_access(G, G).unwrap();
    // A handle may be released while it is mapped, and is not to be touched from then on.
    release(&device, handle, G).unwrap();
    refused(start + G as u64, 1, Rule::NotReleased);
    let error = release(&device, handle, G).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    // Neither a range that is gone nor a place without an address.
    drop(range);
    refused(start + G as u64, 1, Rule::Mapped);
    let nowhere = Location {
        host: None,
        device: None,
        resource: None,
    };
    let error = copy(queue.as_ref(), nowhere, nowhere, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(broken(device.control()).last(), Some(&Rule::OwnMemory));
}

#[test]
fn work_that_comes_too_late_is_found_when_it_runs() {
    let device = FakeDiscrete::builder().manual(true).build().unwrap();
    let queue = device.create_queue().unwrap();
    let range = private(&device).reserve(G).unwrap();
    let handle = private(&device).create(G, StorageMode::Private).unwrap();
    map(range.as_ref(), 0, handle, G).unwrap();
    range.allow_access(0, G).unwrap();
    let start = range.device_address().unwrap();
    fill(queue.as_ref(), start, 10, 1).unwrap();
    // Unmapped before the fill has run: the mistake of an allocator that forgets a fence.
    unmap(range.as_ref(), 0, G).unwrap();
    assert!(device.violations().is_empty());
    device.control().run_all();
    assert_eq!(broken(device.control()), [Rule::Mapped]);

    let segment = device.create_segment(G, StorageMode::Shared).unwrap();
    let pinned = segment.device_address().unwrap();
    fill(queue.as_ref(), pinned, 10, 1).unwrap();
    device.release_segment(segment).unwrap();
    device.control().run_all();
    assert_eq!(broken(device.control()), [Rule::Mapped, Rule::Mapped]);
}

#[test]
fn a_copy_between_two_addresses_of_one_memory_is_refused() {
    let device = FakeDiscrete::new().unwrap();
    let queue = device.create_queue().unwrap();
    let range = private(&device).reserve(2 * G).unwrap();
    let handle = private(&device).create(G, StorageMode::Private).unwrap();
    for offset in [0, G] {
        map(range.as_ref(), offset, handle, G).unwrap();
    }
    range.allow_access(0, 2 * G).unwrap();
    let start = range.device_address().unwrap();
    copy(queue.as_ref(), at(start), at(start + G as u64 + 100), 100).unwrap();
    finish(queue.as_ref());
    assert!(device.violations().is_empty(), "different bytes of it");
    copy(queue.as_ref(), at(start), at(start + G as u64 + 99), 100).unwrap();
    finish(queue.as_ref());
    assert_eq!(broken(device.control()), [Rule::Disjoint]);
}

#[test]
fn memory_is_taken_until_its_last_mapping_is_gone() {
    let device = FakeDiscrete::builder().memory(8 << 20).build().unwrap();
    let left = || device.budget().unwrap().available.unwrap();
    let range = private(&device).reserve(4 * G).unwrap();
    assert_eq!(left(), 8 << 20, "addresses are free of cost");
    let handle = private(&device)
        .create(2 * G, StorageMode::Private)
        .unwrap();
    let segment = device.create_segment(G, StorageMode::Private).unwrap();
    assert_eq!(left(), 2 << 20);
    let error = private(&device)
        .create(2 * G, StorageMode::Private)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(
        device
            .create_segment(2 * G, StorageMode::Private)
            .unwrap_err()
            .kind(),
        ErrorKind::OutOfMemory
    );
    map(range.as_ref(), 0, handle, 2 * G).unwrap();
    map(range.as_ref(), 2 * G, handle, 2 * G).unwrap();
    release(&device, handle, 2 * G).unwrap();
    unmap(range.as_ref(), 0, 2 * G).unwrap();
    assert_eq!(left(), 2 << 20, "still mapped once");
    unmap(range.as_ref(), 2 * G, 2 * G).unwrap();
    assert_eq!(left(), 6 << 20);
    device.release_segment(segment).unwrap();
    assert_eq!(left(), 8 << 20);
    assert!(device.violations().is_empty());
}

#[test]
fn pinned_memory_has_a_limit_of_its_own() {
    let device = FakeDiscrete::builder()
        .pinned_memory(4 << 20)
        .build()
        .unwrap();
    let segment = device.create_segment(2 * G, StorageMode::Shared).unwrap();
    assert_eq!(device.pinned_bytes(), 4 << 20);
    let address = segment.host_address().unwrap().as_ptr().addr();
    assert_eq!(segment.device_address(), Some(address as u64));
    assert_eq!(
        device
            .create_segment(G, StorageMode::Shared)
            .unwrap_err()
            .kind(),
        ErrorKind::OutOfMemory
    );
    assert_eq!(
        device
            .create_segment(G, StorageMode::Managed)
            .unwrap_err()
            .kind(),
        ErrorKind::Unsupported
    );
    device.release_segment(segment).unwrap();
    assert_eq!(device.pinned_bytes(), 0);
}

#[test]
fn new_and_released_memory_is_poison() {
    let device = FakeDiscrete::builder().poison(true).build().unwrap();
    let queue = device.create_queue().unwrap();
    let segment = device
        .create_segment(8 * MIB, StorageMode::Private)
        .unwrap();
    let seen = contents(queue.as_ref(), segment.device_address().unwrap(), 8 * MIB);
    assert!(seen.iter().all(|&byte| byte == 0xDB));
    // Up to 4 MiB without being asked.
    let device = FakeDiscrete::new().unwrap();
    let queue = device.create_queue().unwrap();
    for (bytes, expected) in [(4 * MIB, 0xDB), (8 * MIB, 0)] {
        let segment = device.create_segment(bytes, StorageMode::Private).unwrap();
        let seen = contents(queue.as_ref(), segment.device_address().unwrap(), bytes);
        assert!(seen.iter().all(|&byte| byte == expected), "{bytes}");
    }
}

#[test]
fn a_segment_of_another_device_is_refused_and_kept() {
    let one = FakeDiscrete::builder().ordinal(0).build().unwrap();
    let other = FakeDiscrete::builder().ordinal(1).build().unwrap();
    for storage in [StorageMode::Shared, StorageMode::Private] {
        let segment = one.create_segment(G, storage).unwrap();
        let refused = other.release_segment(segment).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::InvalidRequest);
        one.release_segment(refused.segment).unwrap();
    }
    assert_eq!(broken(other.control()), [Rule::OwnMemory; 2]);
    assert!(one.violations().is_empty());
}

#[test]
fn memory_that_nobody_touches_costs_nothing() {
    let device = FakeDiscrete::new().unwrap();
    let total = device.budget().unwrap().total;
    assert_eq!(total, 139 << 30);
    let half = (total / 2) as usize / G * G;
    let segment = device.create_segment(half, StorageMode::Private).unwrap();
    let handle = private(&device).create(half, StorageMode::Private).unwrap();
    let range = private(&device).reserve(half).unwrap();
    map(range.as_ref(), 0, handle, half).unwrap();
    range.allow_access(0, half).unwrap();
    let queue = device.create_queue().unwrap();
    let last = range.device_address().unwrap() + half as u64 - 1;
    fill(queue.as_ref(), last, 1, 7).unwrap();
    assert_eq!(contents(queue.as_ref(), last, 1), [7]);
    drop(segment);
    assert!(device.violations().is_empty());
}

#[test]
fn calls_are_charged_by_the_size_of_the_handle() {
    let device = FakeDiscrete::new().unwrap();
    let charged = |call: &mut dyn FnMut()| {
        let before = device.charged_ns();
        call();
        device.charged_ns() - before
    };
    let memory = private(&device);
    let properties = memory.properties();
    assert_eq!((properties.granularity, properties.divisible), (G, false));
    assert_eq!(
        (properties.create_ns, properties.remap_ns),
        (29_500, 35_100)
    );
    let mut handles = Vec::new();
    for (bytes, ns) in [(2, 7_200), (20, 6_200), (128, 8_200), (512, 13_600)] {
        let mut create = || {
            handles.push((
                memory.create(bytes * MIB, StorageMode::Private).unwrap(),
                bytes * MIB,
            ))
        };
        assert_eq!(charged(&mut create), ns, "{bytes} MiB");
    }
    let range = memory.reserve(1024 * MIB).unwrap();
    let expected = [
        [1_000, 21_300, 12_800, 8_300],
        [400, 20_600, 13_200, 13_700],
        [400, 24_700, 14_700, 49_700],
        [500, 39_200, 19_700, 136_000],
    ];
    for ((handle, bytes), [mapped, allowed, unmapped, released]) in
        handles.into_iter().zip(expected)
    {
        assert_eq!(
            charged(&mut || map(range.as_ref(), 0, handle, bytes).unwrap()),
            mapped
        );
        assert_eq!(
            charged(&mut || range.allow_access(0, bytes).unwrap()),
            allowed
        );
        assert_eq!(
            charged(&mut || unmap(range.as_ref(), 0, bytes).unwrap()),
            unmapped
        );
        assert_eq!(
            charged(&mut || release(&device, handle, bytes).unwrap()),
            released
        );
    }
    // One call over several mappings costs what each does.
    let pair = [0, G].map(|offset| {
        let handle = memory.create(G, StorageMode::Private).unwrap();
        map(range.as_ref(), offset, handle, G).unwrap();
        handle
    });
    assert_eq!(
        charged(&mut || range.allow_access(0, 2 * G).unwrap()),
        2 * 21_300
    );
    assert_eq!(
        charged(&mut || unmap(range.as_ref(), 0, 2 * G).unwrap()),
        2 * 12_800
    );
    for handle in pair {
        release(&device, handle, G).unwrap();
    }
    let queue = device.create_queue().unwrap();
    let mut signal = || assert_eq!(queue.signal().unwrap(), 1);
    assert_eq!(charged(&mut signal), 170);
    let mut query = || assert!(queue.timeline().completed().unwrap() <= 1);
    assert_eq!(charged(&mut query), 120);
    let pairs = [
        (StorageMode::Private, 16, 73_586),
        (StorageMode::Shared, 256, 100_000_000),
    ];
    for (storage, bytes, ns) in pairs {
        let mut pair = || drop(device.create_segment(bytes * MIB, storage).unwrap());
        assert_eq!(charged(&mut pair), ns, "{storage}");
    }
    assert!(device.violations().is_empty());
}

#[test]
fn a_device_without_costs_charges_nothing() {
    let device = Arc::new(
        FakeDiscrete::builder()
            .costs(Costs::free())
            .build()
            .unwrap(),
    );
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut buffer = allocator
        .allocate_with(&Request::new(5 << 20).storage(StorageMode::Private))
        .unwrap();
    queue.fill(&mut buffer, 1).unwrap().wait(None).unwrap();
    drop((buffer, queue, allocator));
    assert_eq!(device.charged_ns(), 0);
}

#[test]
fn memory_calls_fail_when_told() {
    let fault = |call, when| Fault {
        call,
        when,
        error: ErrorKind::OutOfMemory,
    };
    let device = FakeDiscrete::builder()
        .faults([
            fault(Call::CreatePhysical, When::From(3)),
            fault(Call::CreateSegment, When::Nth(1)),
            fault(Call::ReleaseSegment, When::Nth(1)),
            fault(Call::Budget, When::Probability(1.0)),
        ])
        .build()
        .unwrap();
    let created: Vec<_> = (0..5)
        .map(|_| private(&device).create(G, StorageMode::Private).is_ok())
        .collect();
    assert_eq!(created, [true, true, false, false, false]);
    assert!(device.create_segment(G, StorageMode::Private).is_err());
    let segment = device.create_segment(G, StorageMode::Private).unwrap();
    let refused = device.release_segment(segment).unwrap_err();
    device.release_segment(refused.segment).unwrap();
    assert!(device.budget().is_err());
    assert_eq!(device.control().clear_faults().len(), 4);
    assert_eq!(
        device.budget().unwrap().available,
        Some((139 << 30) - 2 * G as u64)
    );
    assert_eq!(device.control().calls(Call::CreatePhysical), 5);
    device.control().inject(fault(Call::Reserve, When::From(1)));
    assert!(private(&device).reserve(G).is_err());
    assert!(device.violations().is_empty(), "a fault breaks no rule");
}

#[test]
fn sizes_that_nobody_has_are_errors() {
    let device = FakeDiscrete::builder()
        .memory(u64::MAX)
        .pinned_memory(u64::MAX)
        .build()
        .unwrap();
    let most = usize::MAX / G * G;
    for bytes in [1 << 47, 1 << 62, most] {
        let kind = |error: weldpool::Error| assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        kind(private(&device).reserve(bytes).unwrap_err());
        for storage in [StorageMode::Private, StorageMode::Shared] {
            kind(device.create_segment(bytes, storage).unwrap_err());
        }
    }
    // A handle without an address is but a number; two of them are more than there is.
    let handle = private(&device).create(most, StorageMode::Private).unwrap();
    assert!(private(&device).create(most, StorageMode::Private).is_err());
    release(&device, handle, most).unwrap();
    let queue = device.create_queue().unwrap();
    for address in [0, 1 << 48, u64::MAX] {
        assert!(fill(queue.as_ref(), address, usize::MAX, 0).is_err());
    }
}

#[test]
fn faults_by_probability_depend_on_the_seed_alone() {
    let failed = |seed| {
        let device = FakeDiscrete::builder()
            .seed(seed)
            .faults([Fault {
                call: Call::Reserve,
                when: When::Probability(0.3),
                error: ErrorKind::System,
            }])
            .build()
            .unwrap();
        let calls = (0..64).map(|_| private(&device).reserve(G).is_err());
        calls.collect::<Vec<_>>()
    };
    assert_eq!(failed(1), failed(1));
    assert_ne!(failed(1), failed(2));
}

/// Random handles at random addresses, against a list of what every handle holds.
#[test]
fn contents_belong_to_handles_and_not_to_addresses() {
    const SLOTS: usize = 12;
    let device = FakeDiscrete::builder().seed(9).build().unwrap();
    let queue = device.create_queue().unwrap();
    let range = private(&device).reserve(SLOTS * G).unwrap();
    let start = range.device_address().unwrap();
    let address = |slot: usize| start + (slot * G) as u64;
    // Each handle with what it holds, none until it was filled; each slot with its handle.
    let mut handles: Vec<(Physical, Option<u8>)> = Vec::new();
    let mut slots: [Option<Physical>; SLOTS] = [None; SLOTS];
    let mut random = 0x1234_5678_9ABC_DEF1_u64;
    for step in 0..600 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let slot = (random >> 8) as usize % SLOTS;
        let index = (random >> 24) as usize % handles.len().max(1);
        match (random >> 40) % 5 {
            0 if handles.len() < 8 => {
                let handle = private(&device).create(G, StorageMode::Private).unwrap();
                handles.push((handle, None));
            }
            1 if slots[slot].is_none() && !handles.is_empty() => {
                map(range.as_ref(), slot * G, handles[index].0, G).unwrap();
                range.allow_access(slot * G, G).unwrap();
                slots[slot] = Some(handles[index].0);
            }
            2 if slots[slot].is_some() => {
                unmap(range.as_ref(), slot * G, G).unwrap();
                slots[slot] = None;
            }
            3 if !handles.is_empty() && !slots.contains(&Some(handles[index].0)) => {
                release(&device, handles.swap_remove(index).0, G).unwrap();
            }
            _ => {
                let Some(handle) = slots[slot] else { continue };
                let holds = handles.iter_mut().find(|(other, _)| *other == handle);
                let (_, holds) = holds.unwrap();
                let seen = contents(queue.as_ref(), address(slot) + 4096, 64);
                if let Some(value) = *holds {
                    assert!(seen.iter().all(|&byte| byte == value), "step {step}");
                }
                fill(queue.as_ref(), address(slot), 8192, step as u8).unwrap();
                finish(queue.as_ref());
                *holds = Some(step as u8);
            }
        }
    }
    assert!(device.violations().is_empty());
    let held = handles.len() as u64 * G as u64;
    let budget = device.budget().unwrap();
    assert_eq!(budget.available, Some(budget.total - held));
}
