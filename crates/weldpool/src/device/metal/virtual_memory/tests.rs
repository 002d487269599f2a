//! The device's code over the model.

#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::time::{Duration, Instant};

use super::*;
use crate::device::fake::{Call, FakeApple, FakeAppleBuilder, Fault, Metal as Model, Rule, When};
use crate::device::metal::{MetalDevice, PlacementSparse, ResidencyConfig};
use crate::device::{Device as _, DeviceKind};

const MIB: usize = 1 << 20;

fn wanted() -> MetalConfig {
    MetalConfig {
        placement_sparse: true,
        ..MetalConfig::default()
    }
}

/// A device's code over the model of another, which stays for its queues.
fn device(fake: &FakeApple, config: MetalConfig) -> MetalDevice<Model> {
    MetalDevice::new(fake.metal().clone(), DeviceKind::FakeApple, 0, config)
}

fn sparse() -> FakeAppleBuilder {
    FakeApple::builder().seed(7).placement_sparse(true)
}

fn private(fake: &FakeApple) -> &dyn VirtualMemory {
    fake.virtual_memory(StorageMode::Private).unwrap()
}

fn map(range: &dyn AddressRange, at: usize, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: no work is submitted.
    unsafe { range.map(at, physical, bytes) }
}

fn unmap(range: &dyn AddressRange, at: usize, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { range.unmap(at, bytes) }
}

fn release(fake: &FakeApple, physical: Physical, bytes: usize) -> Result<()> {
    // SAFETY: as for `map`.
    unsafe { private(fake).release(physical, bytes) }
}

/// Why the device has no placement sparse buffers; it has segments then.
fn why<M: Metal>(device: &MetalDevice<M>) -> NoPlacementSparse {
    assert!(device.virtual_memory(StorageMode::Private).is_none());
    let segment = device.create_segment(MIB, StorageMode::Private).unwrap();
    device.release_segment(segment).unwrap();
    match device.placement_sparse() {
        PlacementSparse::Unavailable(why) => why.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn it_is_off_unless_asked_for() {
    let fake = FakeApple::new().unwrap();
    let device = device(&fake, MetalConfig::default());
    assert!(matches!(device.placement_sparse(), PlacementSparse::Off));
    assert!(device.virtual_memory(StorageMode::Private).is_none());
}

#[test]
fn what_cannot_be_had_is_done_without_and_the_device_says_why() {
    let old = FakeApple::builder().macos(15).build().unwrap();
    let reason = why(&device(&old, wanted()));
    assert!(matches!(reason, NoPlacementSparse::System), "{reason}");
    let other = FakeApple::builder().metal4(false).build().unwrap();
    let reason = why(&device(&other, wanted()));
    assert!(matches!(reason, NoPlacementSparse::Family), "{reason}");
    let fake = FakeApple::new().unwrap();
    let config = MetalConfig {
        residency: ResidencyConfig {
            enabled: false,
            ..ResidencyConfig::default()
        },
        ..wanted()
    };
    let reason = why(&device(&fake, config));
    assert!(matches!(reason, NoPlacementSparse::Residency), "{reason}");
    let in_a_virtual_machine = Model::pooled(|| open(fake.metal(), &wanted(), false));
    assert!(matches!(
        in_a_virtual_machine.unwrap_err(),
        NoPlacementSparse::Virtual
    ));
    // Not even asked for where it is known to be missing.
    for device in [old, other, fake] {
        assert_eq!(device.violations(), []);
    }
}

#[test]
fn what_metal_does_not_make_is_done_without() {
    let refused = Fault {
        call: Call::CreateQueue,
        when: When::Nth(1),
        error: ErrorKind::System,
    };
    let fake = FakeApple::builder().faults([refused]).build().unwrap();
    let device = device(&fake, wanted());
    match why(&device) {
        NoPlacementSparse::Refused(error) => assert_eq!(error.kind(), ErrorKind::System),
        other => panic!("{other}"),
    }
}

#[test]
fn pages_are_the_largest_that_metal_makes() {
    for page in SparsePageSize::LARGEST_FIRST {
        let fake = sparse().sparse_page_max(page).build().unwrap();
        let PlacementSparse::On { page_bytes } = *fake.placement_sparse() else {
            panic!("{}", fake.placement_sparse());
        };
        assert_eq!(page_bytes, page.bytes());
        assert_eq!(fake.metal().current_allocated_size(), 0, "a trial stays");
    }
}

#[test]
fn only_private_memory_is_mapped() {
    let fake = sparse().build().unwrap();
    assert!(fake.virtual_memory(StorageMode::Shared).is_none());
    let error = private(&fake).create(GRANULARITY, StorageMode::Shared);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    let range = private(&fake).reserve(GRANULARITY).unwrap();
    assert_eq!(range.host_address(), None);
    assert_eq!(fake.violations(), []);
}

#[test]
fn addresses_begin_at_a_multiple_of_the_granularity_wherever_the_buffer_does() {
    let fake = sparse().build().unwrap();
    let page = SparsePageSize::Size256;
    // Buffers of one page between them, so that they lie at every multiple of one.
    let between = || {
        fake.metal()
            .new_sparse_buffer(page.bytes(), StorageMode::Private, page)
    };
    let both = [0; 8].map(|_| {
        let range = private(&fake).reserve(GRANULARITY).unwrap();
        (range, Model::pooled(between).unwrap())
    });
    let ranges = both.each_ref().map(|(range, _)| range);
    let starts = ranges.each_ref().map(|range| range.resource().unwrap().1);
    for range in ranges {
        let address = range.device_address().unwrap();
        assert!(address.is_multiple_of(GRANULARITY as u64));
    }
    assert!(starts.iter().any(|&start| start > 0), "{starts:?}");
    assert_eq!(fake.metal().current_allocated_size(), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let fake = sparse().build().unwrap();
    let memory = private(&fake);
    for bytes in [0, GRANULARITY - 1, MIB] {
        assert!(memory.reserve(bytes).is_err());
        assert!(memory.create(bytes, StorageMode::Private).is_err());
    }
    let most = memory.properties().address_bytes_max;
    drop(memory.reserve(most).unwrap());
    let error = memory.reserve(most + GRANULARITY).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let range = memory.reserve(4 * GRANULARITY).unwrap();
    let range = range.as_ref();
    let two = memory
        .create(2 * GRANULARITY, StorageMode::Private)
        .unwrap();
    let invalid = |result: Result<()>| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidRequest);
    };
    invalid(map(range, 0, two, GRANULARITY));
    invalid(map(range, MIB, two, 2 * GRANULARITY));
    invalid(map(range, 3 * GRANULARITY, two, 2 * GRANULARITY));
    invalid(map(
        range,
        usize::MAX & !(GRANULARITY - 1),
        two,
        2 * GRANULARITY,
    ));
    invalid(map(range, 0, Physical::new(99), 2 * GRANULARITY));
    map(range, GRANULARITY, two, 2 * GRANULARITY).unwrap();
    invalid(map(range, 0, two, 2 * GRANULARITY));
    invalid(map(range, 2 * GRANULARITY, two, 2 * GRANULARITY));
    invalid(unmap(range, 0, 2 * GRANULARITY));
    invalid(unmap(range, 2 * GRANULARITY, 2 * GRANULARITY));
    invalid(release(&fake, two, GRANULARITY));
    unmap(range, 0, 4 * GRANULARITY).unwrap();
    release(&fake, two, 2 * GRANULARITY).unwrap();
    invalid(release(&fake, two, 2 * GRANULARITY));
    assert_eq!(fake.metal().current_allocated_size(), 0);
    assert_eq!(fake.violations(), []);
}

#[test]
fn released_memory_goes_back_at_once_or_with_its_last_mapping() {
    let fake = sparse().build().unwrap();
    let memory = private(&fake);
    let range = memory.reserve(4 * GRANULARITY).unwrap();
    for _ in 0..20 {
        let one = memory.create(GRANULARITY, StorageMode::Private).unwrap();
        map(range.as_ref(), 0, one, GRANULARITY).unwrap();
        map(range.as_ref(), 2 * GRANULARITY, one, GRANULARITY).unwrap();
        unmap(range.as_ref(), 0, 4 * GRANULARITY).unwrap();
        release(&fake, one, GRANULARITY).unwrap();
        assert_eq!(fake.metal().current_allocated_size(), 0);
    }
    let one = memory.create(GRANULARITY, StorageMode::Private).unwrap();
    map(range.as_ref(), 0, one, GRANULARITY).unwrap();
    release(&fake, one, GRANULARITY).unwrap();
    let held = fake.metal().current_allocated_size();
    assert_eq!(held, GRANULARITY as u64, "it is mapped");
    unmap(range.as_ref(), 0, GRANULARITY).unwrap();
    let other = memory.create(GRANULARITY, StorageMode::Private).unwrap();
    release(&fake, other, GRANULARITY).unwrap();
    assert_eq!(fake.metal().current_allocated_size(), 0);
    assert_eq!(fake.violations(), []);
}

/// The first queue is the one that maps.
const MAPPINGS: u64 = 0;

#[test]
fn a_hung_gpu_holds_up_neither_the_host_nor_what_its_updates_name() {
    let fake = sparse().build().unwrap();
    let memory = private(&fake);
    let range = memory.reserve(GRANULARITY).unwrap();
    let one = memory.create(GRANULARITY, StorageMode::Private).unwrap();
    assert!(fake.control().hang(MAPPINGS));
    map(range.as_ref(), 0, one, GRANULARITY).unwrap();
    unmap(range.as_ref(), 0, GRANULARITY).unwrap();
    let start = Instant::now();
    release(&fake, one, GRANULARITY).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    drop(range);
    let held = fake.metal().current_allocated_size();
    assert_eq!(held, GRANULARITY as u64, "an update names it");
    assert!(fake.control().resume(MAPPINGS));
    let deadline = Instant::now() + Duration::from_secs(60);
    while fake.metal().current_allocated_size() > 0 && Instant::now() < deadline {
        // Whatever is done next lets go of it.
        let other = memory.create(GRANULARITY, StorageMode::Private).unwrap();
        release(&fake, other, GRANULARITY).unwrap();
    }
    assert_eq!(fake.metal().current_allocated_size(), 0);
    assert_eq!(fake.violations(), []);
}

#[test]
fn what_may_not_stay_resident_is_refused() {
    let bytes = 64 * MIB;
    let fake = sparse()
        .recommended_max_working_set_size(bytes as u64)
        .build()
        .unwrap();
    let memory = private(&fake);
    let share = bytes / 4 * 3;
    let most = memory.create(share, StorageMode::Private).unwrap();
    let error = memory.create(GRANULARITY, StorageMode::Private);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(fake.metal().current_allocated_size(), share as u64);
    release(&fake, most, share).unwrap();
    let other = memory.create(GRANULARITY, StorageMode::Private).unwrap();
    release(&fake, other, GRANULARITY).unwrap();
}

#[test]
fn calls_are_charged_as_the_costs_say() {
    let fake = sparse().build().unwrap();
    let costs = crate::device::fake::AppleCosts::assumed();
    let memory = private(&fake);
    let bytes = GRANULARITY as u64;
    let charged = |call: &dyn Fn()| {
        let before = fake.charged_ns();
        call();
        fake.charged_ns() - before
    };
    let range = memory.reserve(GRANULARITY).unwrap();
    let create = || memory.create(GRANULARITY, StorageMode::Private).unwrap();
    let physical = std::cell::Cell::new(None);
    let ns = charged(&|| physical.set(Some(create())));
    assert_eq!(ns, costs.heap.ns(bytes));
    let physical = physical.get().unwrap();
    let ns = charged(&|| map(range.as_ref(), 0, physical, GRANULARITY).unwrap());
    assert_eq!(ns, costs.map.ns(bytes));
    let ns = charged(&|| unmap(range.as_ref(), 0, GRANULARITY).unwrap());
    assert_eq!(ns, costs.unmap.ns(bytes));
    let ns = charged(&|| release(&fake, physical, GRANULARITY).unwrap());
    assert_eq!(ns, costs.release.ns(bytes));
    let properties = memory.properties();
    let (map, unmap) = (costs.map.ns(bytes), costs.unmap.ns(bytes));
    assert_eq!(u64::from(properties.remap_ns), map + unmap);
    assert_eq!(u64::from(properties.create_ns), costs.heap.ns(bytes) + map);
}

#[test]
fn work_of_every_queue_waits_for_mappings() {
    let fake = sparse().delays(Duration::from_millis(2)).build().unwrap();
    let memory = private(&fake);
    let range = memory.reserve(8 * GRANULARITY).unwrap();
    let queues = [0; 3].map(|_| fake.create_queue().unwrap());
    for at in 0..8 {
        let one = memory.create(GRANULARITY, StorageMode::Private).unwrap();
        map(range.as_ref(), at * GRANULARITY, one, GRANULARITY).unwrap();
        let (resource, start) = range.resource().unwrap();
        for (number, queue) in queues.iter().enumerate() {
            // Each its own bytes; without commands first, which must not count as having waited.
            let place = |bytes: usize| crate::device::Location {
                host: None,
                device: None,
                resource: Some((
                    resource,
                    start + at * GRANULARITY + number * MIB / 2 + bytes,
                )),
            };
            // SAFETY: the places are mapped, and nobody else uses them.
            unsafe { queue.fill(place(0), 0, 1) }.unwrap();
            // SAFETY: as above.
            unsafe { queue.fill(place(1), 4096, 1) }.unwrap();
        }
    }
    for queue in &queues {
        queue.finish().unwrap();
    }
    let broken: Vec<Rule> = fake.violations().iter().map(|one| one.rule).collect();
    assert_eq!(broken, []);
}
