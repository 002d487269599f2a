//! The allocator on placement sparse buffers.

use std::sync::Arc;

use tracing::Level;
use weldpool::device::fake::{FakeApple, NoPlacementSparse, PlacementSparse, Rule};
use weldpool::{Allocator, Buffer, Config, Device, ErrorKind, Request, StorageMode};

use super::{Checked, broken};
use crate::log;

const MIB: usize = 1 << 20;

fn private(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request).unwrap()
}

/// With driver time to spend, and hardly any memory beyond what is in use.
fn tight() -> Config {
    Config {
        driver_ns_per_operation: 10_000_000,
        slack_per_1024: 0,
        ..Config::default()
    }
}

#[test]
fn growth_maps_what_is_free_in_several_places_instead_of_obtaining_more() {
    let fake = FakeApple::builder().seed(11).placement_sparse(true);
    let device = Arc::new(Checked(fake.build().unwrap()));
    let allocator = Allocator::builder(device.clone()).config(tight()).build();
    let allocator = allocator.unwrap();
    let queue = allocator.create_queue().unwrap();
    let idle = device.0.metal().current_allocated_size();
    let mut blocks: Vec<_> = (0..8).map(|_| private(&allocator, 4 * MIB)).collect();
    for (number, block) in blocks.iter_mut().enumerate() {
        queue.fill(block, number as u8).unwrap();
    }
    queue.fence().unwrap().wait(None).unwrap();
    // Every other one goes.
    let mut number = 0;
    blocks.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    let held = device.0.metal().current_allocated_size();
    let before = allocator.stats();
    let mut large = private(&allocator, 16 * MIB);
    let after = allocator.stats();
    assert_eq!(after.remaps, before.remaps + 1);
    assert_eq!(after.reserved.value, before.reserved.value);
    assert_eq!(device.0.metal().current_allocated_size(), held);
    // It is memory like other memory, and nobody else's.
    queue.fill(&mut large, 0xA5).unwrap();
    let mut seen = vec![0_u8; 16 * MIB];
    queue.read(&large, &mut seen[..]).unwrap();
    assert!(seen.iter().all(|&byte| byte == 0xA5));
    for (block, number) in blocks.iter().zip([1_u8, 3, 5, 7]) {
        queue.read(block, &mut seen[..4 * MIB]).unwrap();
        assert!(seen[..4 * MIB].iter().all(|&byte| byte == number));
    }
    drop((blocks, large));
    let _bytes = allocator.clear();
    assert_eq!(device.0.metal().current_allocated_size(), idle);
}

#[test]
fn where_there_are_none_segments_serve_and_the_reason_is_told_once() {
    let build = || {
        let fake = FakeApple::builder().placement_sparse(true).macos(15);
        Arc::new(Checked(fake.build().unwrap()))
    };
    let mut device = None;
    let lines = log::lines(|| {
        let made = device.insert(build());
        let allocator = Allocator::builder(made.clone()).build().unwrap();
        drop(private(&allocator, 4 * MIB));
    });
    let device = device.unwrap();
    let warnings: Vec<_> = lines
        .iter()
        .filter(|line| line.level == Level::WARN)
        .collect();
    assert_eq!(warnings.len(), 1, "{lines:?}");
    assert!(warnings[0].field("why").contains("macOS 26"), "{lines:?}");
    let told = device.0.placement_sparse();
    assert!(matches!(
        told,
        PlacementSparse::Unavailable(NoPlacementSparse::System)
    ));
    assert!(told.to_string().contains("macOS 26"));
    assert!(device.virtual_memory(StorageMode::Private).is_none());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let _block = private(&allocator, 4 * MIB);
    assert!(device.0.metal().current_allocated_size() >= 4 << 20);
}

#[test]
fn memory_that_may_not_stay_resident_is_out_of_memory() {
    let fake = FakeApple::builder()
        .placement_sparse(true)
        .recommended_max_working_set_size(64 << 20);
    let device = Arc::new(Checked(fake.build().unwrap()));
    let allocator = Allocator::builder(device).build().unwrap();
    let block = private(&allocator, 40 * MIB);
    let request = Request::new(40 * MIB).storage(StorageMode::Private);
    let error = allocator.allocate_with(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    // Other storage does not need to.
    drop(allocator.allocate(40 * MIB).unwrap());
    drop(block);
    drop(allocator.allocate_with(&request).unwrap());
}

/// Others wait for a point of the queue, which stands for all mappings before it.
#[test]
fn work_that_others_submit_finds_what_was_mapped_before_it_was_announced() {
    for early in [false, true] {
        let fake = FakeApple::builder().seed(13).placement_sparse(true);
        let device = Arc::new(fake.build().unwrap());
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let queue = allocator.create_queue().unwrap();
        queue.fence().unwrap();
        let before = early.then(|| queue.before_external_submit().unwrap());
        let block = private(&allocator, 4 * MIB);
        let submission = before.unwrap_or_else(|| queue.before_external_submit().unwrap());
        let order = submission.order().unwrap();
        let touches = [(block.binding(), true)];
        device.submit_external(&order, &touches, || ()).unwrap();
        let fence = queue.after_external_submit(submission).unwrap();
        block.note_use(&queue).unwrap();
        fence.wait(None).unwrap();
        let rules = broken(device.control());
        // Work that comes too early may come before the mapping is there at all.
        let of_mapping = |rule: &Rule| matches!(rule, Rule::MappingAwaited | Rule::Mapped);
        assert!(rules.iter().all(of_mapping), "{rules:?}");
        assert_eq!(rules.is_empty(), !early, "{rules:?}");
    }
}
