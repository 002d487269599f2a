//! Which source serves whom.

use std::sync::Arc;
use std::time::Duration;

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::pinned::{PinnedConfig, PinnedPool};
use weldpool::{Allocator, Config, StorageMode};
use weldpool_triton_sys::{ErrorCode, MemoryType};

use super::fake::{Recorded, Triton, allocator};
use crate::{ErrorKind, Options, Order, Place, ResponseAllocator, Source};

const CPU: (i32, i64) = (0, 0);
const PINNED: (i32, i64) = (1, 0);
const GPU: (i32, i64) = (2, 1);
const MIB: usize = 1 << 20;

fn discrete(limit: u64) -> Allocator {
    let config = Config {
        reserved_bytes_max: Some(limit),
        wait_max: Duration::ZERO,
        ..Config::default()
    };
    let device = Arc::new(FakeDiscrete::new().unwrap());
    Allocator::builder(device).config(config).build().unwrap()
}

/// Memory of the host, pinned memory, and memory that passes for that of GPU 1.
fn three_kinds(limit: u64) -> [Source; 3] {
    let gpu = Place {
        memory_type: MemoryType::Gpu,
        id: 1,
    };
    [
        Source::pool(&Allocator::host().unwrap(), StorageMode::Shared).unwrap(),
        Source::pool(&discrete(limit), StorageMode::Shared).unwrap(),
        Source::pretended(&discrete(limit), StorageMode::Private, gpu),
    ]
}

fn place(output: &Recorded) -> (i32, i64) {
    (output.memory_type, output.id)
}

fn fill_up(triton: &Triton, wanted: (i32, i64)) -> Vec<Recorded> {
    let mut held = Vec::new();
    loop {
        let output = triton.output(4 * MIB, wanted).unwrap();
        if place(&output) != wanted {
            triton.release(output).unwrap();
            return held;
        }
        held.push(output);
    }
}

#[test]
fn the_kind_that_is_asked_for_is_served_and_the_next_best_when_it_is_out() {
    let triton = allocator(three_kinds(16 << 20), &Options::default());
    for wanted in [CPU, PINNED, GPU] {
        let output = triton.output(100, wanted).unwrap();
        assert_eq!(place(&output), wanted);
        assert_ne!(output.buffer, 0);
        triton.release(output).unwrap();
    }
    assert_eq!(triton.allocator.stats().fallbacks, 0);
    let gpu = fill_up(&triton, GPU);
    assert!(!gpu.is_empty());
    let next = triton.output(4 * MIB, GPU).unwrap();
    assert_eq!(place(&next), PINNED, "pinned memory is the next best");
    let pinned = fill_up(&triton, PINNED);
    let last = triton.output(4 * MIB, GPU).unwrap();
    assert_eq!(place(&last), CPU);
    assert!(triton.allocator.stats().fallbacks >= 4);
    assert_eq!(triton.allocator.stats().failures, 0);
    for output in gpu.into_iter().chain(pinned).chain([next, last]) {
        triton.release(output).unwrap();
    }
    let output = triton.output(4 * MIB, GPU).unwrap();
    assert_eq!(place(&output), GPU, "what was released serves again");
    triton.release(output).unwrap();
    assert_eq!(triton.allocator.stats().live_buffers, 0);
}

/// Nothing lies nowhere: what `alloc` says of an output of no bytes is what its attributes say, whatever was asked for.
#[test]
fn an_output_of_no_bytes_is_described_as_it_was_given() {
    let triton = allocator(three_kinds(16 << 20), &Options::default());
    for wanted in [CPU, PINNED, GPU] {
        let (told, empty) = triton.alloc_alone(0, wanted);
        told.unwrap();
        let attributes = triton.attributes(&empty).unwrap();
        assert_eq!((attributes.memory_type, attributes.id), place(&empty));
        assert_eq!((attributes.bytes, empty.buffer), (0, 0));
    }
}

#[test]
fn a_list_may_be_kept_to() {
    let [host, pinned, gpu] = three_kinds(64 << 20);
    let options = Options {
        order: Order::Listed,
        ..Options::default()
    };
    let triton = allocator([gpu, pinned, host], &options);
    for wanted in [CPU, PINNED, GPU] {
        assert_eq!(triton.query(wanted).unwrap(), GPU);
        let output = triton.output(100, wanted).unwrap();
        assert_eq!(place(&output), GPU);
        triton.release(output).unwrap();
    }
}

#[test]
fn plain_memory_serves_when_all_pools_are_out_and_is_in_none() {
    let pool = discrete(8 << 20);
    let source = Source::pool(&pool, StorageMode::Shared).unwrap();
    let triton = allocator([Source::plain(), source], &Options::default());
    assert_eq!(triton.query(CPU).unwrap(), PINNED, "plain memory is last");
    let large = triton.output(32 * MIB, CPU).unwrap();
    assert_eq!(place(&large), CPU);
    assert!(large.buffer.is_multiple_of(256));
    assert_eq!(pool.stats().live.value, 0);
    assert_eq!(triton.allocator.stats().fallbacks, 1);
    triton.release(large).unwrap();
    let (code, message) = triton.output(usize::MAX / 4, CPU).unwrap_err();
    assert!(message.contains("the system's heap"), "{message}");
    assert_eq!(code, ErrorCode::Unavailable);
}

#[test]
fn memory_that_apples_gpus_share_is_the_hosts_at_its_contents() {
    let device = Arc::new(FakeApple::new().unwrap());
    let pool = Allocator::builder(device).build().unwrap();
    let source = Source::pool(&pool, StorageMode::Shared).unwrap();
    assert_eq!(source.place(), Place::CPU);
    let triton = allocator([source], &Options::default());
    let output = triton.output(MIB, GPU).unwrap();
    assert_eq!(place(&output), CPU);
    let found = pool.find(std::ptr::without_provenance(output.buffer));
    assert_eq!(found.unwrap().address, output.buffer);
    triton.release(output).unwrap();
    let private = Source::pool(&pool, StorageMode::Private).unwrap_err();
    assert_eq!(private.kind(), ErrorKind::Unsupported);
    assert!(
        private.to_string().contains("Triton has no type"),
        "{private}"
    );
}

#[test]
fn what_could_not_be_pinned_in_time_is_told_as_what_it_is() {
    let pool = PinnedPool::builder(&discrete(4 << 20))
        .config(PinnedConfig {
            growth_bytes: 2 << 20,
            ..PinnedConfig::default()
        })
        .build()
        .unwrap();
    let triton = allocator([Source::pinned(&pool).unwrap()], &Options::default());
    let small = triton.output(64 << 10, PINNED).unwrap();
    let large = triton.output(32 * MIB, PINNED).unwrap();
    assert_eq!(place(&large), CPU, "the limit lets nothing be pinned");
    let stats = pool.stats();
    assert_eq!(stats.live.value, 2);
    triton.release(small).unwrap();
    triton.release(large).unwrap();
    assert_eq!(pool.stats().live.value, 0);
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let none = ResponseAllocator::new([], &Options::default()).unwrap_err();
    // There is no Triton in this process.
    assert_eq!(none.kind(), ErrorKind::Missing);
    for count in [0, 65] {
        let refused = super::fake::made(vec![Source::plain(); count], &Options::default());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
    super::fake::made(vec![Source::plain(); 64], &Options::default()).unwrap();
    let host = Allocator::host().unwrap();
    let absent = Source::pool(&host, StorageMode::Private).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::Unsupported);
}
