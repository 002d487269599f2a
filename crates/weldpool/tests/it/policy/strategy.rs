//! Strategies decide how requests are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weldpool::device::fake::FakeDiscrete;
use weldpool::strategy::{Adaptive, Asked, Choice, Fixed, SeedDocument, Strategy, Surroundings};
use weldpool::{Allocator, Config, Request, StorageMode};

use super::{MIB, on_apple, on_host};

fn with(strategy: impl Strategy + 'static) -> Config {
    Config {
        strategy: Some(Arc::new(strategy)),
        ..Config::default()
    }
}

#[test]
fn fixed_serves_every_request_alike() {
    let allocator = on_host(with(Fixed {
        pool: false,
        storage: Some(StorageMode::Managed),
        alignment: 4096,
    }));
    let buffer = allocator.allocate(100).unwrap();
    assert_eq!(buffer.storage_mode(), StorageMode::Managed);
    assert_eq!(buffer.binding().host.unwrap().as_ptr().addr() % 4096, 0);
    drop(buffer);
    assert_eq!(allocator.stats().reserved.value, 0, "it was not pooled");
    let coarser = Request::new(100).alignment(1 << 16);
    let buffer = allocator.allocate_with(&coarser).unwrap();
    assert_eq!(buffer.alignment(), 1 << 16);
    assert!(!Fixed::default().chooses());
}

#[test]
fn the_seed_document_shares_what_is_large_where_memory_is_unified() {
    let private = |bytes| Request::new(bytes).storage(StorageMode::Private);
    let storage_of = |allocator: &Allocator, bytes| {
        let buffer = allocator.allocate_with(&private(bytes)).unwrap();
        buffer.storage_mode()
    };
    let unified = on_apple(with(SeedDocument::default()));
    assert_eq!(storage_of(&unified, 16 * MIB), StorageMode::Shared);
    assert_eq!(storage_of(&unified, 16 * MIB - 1), StorageMode::Private);
    let off = on_apple(with(SeedDocument {
        unified: false,
        ..SeedDocument::default()
    }));
    assert_eq!(storage_of(&off, 16 * MIB), StorageMode::Private);
    let device = Arc::new(FakeDiscrete::new().unwrap());
    let discrete = Allocator::builder(device)
        .config(with(SeedDocument::default()))
        .build()
        .unwrap();
    assert_eq!(storage_of(&discrete, 16 * MIB), StorageMode::Private);
}

/// Pools what has a name, given how the allocator stands.
#[derive(Debug, Default)]
struct ByName(Arc<AtomicU64>);

impl Strategy for ByName {
    fn choose(&self, asked: &Asked, surroundings: &Surroundings<'_>) -> Choice {
        self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(surroundings.limit_bytes(), Some(64 << 20));
        assert!(surroundings.live_bytes() <= surroundings.reserved_bytes());
        assert_eq!(surroundings.stats().live.value, surroundings.live_bytes());
        Choice {
            pool: asked.name == "pooled",
            ..Choice::of(asked)
        }
    }
}

#[test]
fn a_strategy_of_ones_own_is_asked_for_each_request() {
    let asked = Arc::new(AtomicU64::new(0));
    let allocator = on_host(Config {
        reserved_bytes_max: Some(64 << 20),
        ..with(ByName(Arc::clone(&asked)))
    });
    for _ in 0..10 {
        drop(
            allocator
                .allocate_with(&Request::new(MIB).name("pooled"))
                .unwrap(),
        );
        drop(
            allocator
                .allocate_with(&Request::new(MIB).name("direct"))
                .unwrap(),
        );
    }
    assert_eq!(asked.load(Ordering::Relaxed), 20);
    let stats = allocator.stats();
    assert_eq!((stats.allocations, stats.misses), (20, 11), "{stats}");
    assert_eq!(stats.reserved.value, 1 << 20);
}

#[test]
fn a_choice_that_cannot_be_had_fails_the_request() {
    let allocator = on_host(with(Fixed {
        alignment: 3000,
        ..Fixed::default()
    }));
    allocator.allocate(100).unwrap_err();
    let stats = allocator.stats();
    assert_eq!((stats.failures, stats.live.value), (1, 0));
}

#[test]
fn the_adaptive_one_costs_cached_requests_nothing() {
    assert!(!Adaptive::default().chooses());
    let allocator = on_host(with(Adaptive::default()));
    for round in 1..200 {
        drop(allocator.allocate(round * 4096).unwrap());
    }
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.failures), (0, 0));
}
