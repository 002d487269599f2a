//! What a strategy may change while an allocator runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::strategy::{Asked, Choice, Demand, Driven, Shape, Strategy, Surroundings, Tuning};
use weldpool::{Allocator, Config, Device, Request, StorageMode};

use super::{MIB, on_host};

/// Says the same whatever it is told.
#[derive(Debug)]
struct Says {
    shape: fn(&Demand) -> Shape,
    tuning: Tuning,
}

impl Default for Says {
    fn default() -> Self {
        Self {
            shape: |demand| Shape::of(&demand.class),
            tuning: Tuning::default(),
        }
    }
}

impl Strategy for Says {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice::of(asked)
    }

    fn chooses(&self) -> bool {
        false
    }

    fn shape(&self, demand: &Demand) -> Shape {
        (self.shape)(demand)
    }

    fn tune(&self, _: &Driven) -> Option<Tuning> {
        Some(self.tuning)
    }
}

fn with(says: Says) -> Config {
    Config {
        strategy: Some(Arc::new(says)),
        sample_interval_bytes: 0,
        ..Config::default()
    }
}

/// No class has this size.
const ODD: usize = MIB + 256;

#[test]
fn an_exact_request_wastes_nothing_and_goes_back_at_once() {
    let exact = |demand: &Demand| Shape {
        exact: true,
        ..Shape::of(&demand.class)
    };
    let allocator = on_host(with(Says {
        shape: exact,
        ..Says::default()
    }));
    let buffer = allocator.allocate(ODD).unwrap();
    assert_eq!(allocator.stats().block_bytes, ODD as u64);
    let free = allocator.stats().free_bytes;
    drop(buffer);
    assert_eq!(allocator.stats().free_bytes, free + ODD as u64);
    let as_configured = on_host(with(Says::default()));
    let buffer = as_configured.allocate(ODD).unwrap();
    assert!(as_configured.stats().block_bytes > ODD as u64);
    drop(buffer);
    assert_eq!(as_configured.stats().free_bytes, 0, "a cache keeps it");
}

#[test]
fn a_thread_keeps_as_many_blocks_as_is_said() {
    let one = |demand: &Demand| Shape {
        thread_max: 1,
        ..Shape::of(&demand.class)
    };
    let allocator = on_host(with(Says {
        shape: one,
        ..Says::default()
    }));
    let pair = [MIB; 2].map(|bytes| allocator.allocate(bytes).unwrap());
    let before = allocator.stats().free_bytes;
    drop(pair);
    assert_eq!(allocator.stats().free_bytes, before + MIB as u64);
}

#[cfg(target_os = "linux")]
#[test]
fn a_strategy_is_told_what_came_past_the_caches() {
    let second = |demand: &Demand| {
        assert!(demand.divisible);
        assert_eq!(demand.requests, demand.returned + 1);
        Shape {
            exact: true,
            ..Shape::of(&demand.class)
        }
    };
    let allocator = on_host(with(Says {
        shape: second,
        ..Says::default()
    }));
    for _ in 0..5 {
        drop(allocator.allocate(ODD).unwrap());
    }
}

#[test]
fn idle_memory_is_kept_beyond_a_limit_that_nobody_chose() {
    let idle = |says: Says, limit: Option<u64>| {
        let device = FakeDiscrete::builder().memory(256 << 20).build().unwrap();
        let config = Config {
            cached_bytes_max: limit,
            ..with(says)
        };
        let allocator = Allocator::builder(Arc::new(device))
            .config(config)
            .build()
            .unwrap();
        let request = Request::new(40 * MIB).storage(StorageMode::Private);
        let buffers = [(); 4].map(|()| allocator.allocate_with(&request).unwrap());
        drop(buffers);
        allocator.stats().reserved.value
    };
    let keeps = || Says {
        tuning: Tuning {
            cached_bytes: 200 << 20,
            ..Tuning::default()
        },
        ..Says::default()
    };
    assert!(idle(Says::default(), None) < 160 << 20);
    assert!(idle(keeps(), None) >= 160 << 20);
    assert!(idle(keeps(), Some(64 << 20)) < 160 << 20, "a limit holds");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_grows_by_what_is_said_within_the_slack() {
    let reserved = |growth_bytes| {
        let allocator = on_host(with(Says {
            tuning: Tuning {
                slack_per_1024: Some(512),
                growth_bytes,
                ..Tuning::default()
            },
            ..Says::default()
        }));
        let _first = allocator.allocate(64 * MIB).unwrap();
        let _second = allocator.allocate(MIB).unwrap();
        allocator.stats().reserved.value
    };
    assert_eq!(reserved(1), 65 << 20);
    assert_eq!(reserved(8 * MIB), 72 << 20);
    assert!(reserved(usize::MAX) <= 98 << 20, "half as much again");
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_left_by_remapping_are_unmapped_together() {
    let calls = |moved_ranges_max| {
        let allocator = on_host(with(Says {
            tuning: Tuning {
                slack_per_1024: Some(0),
                moved_ranges_max,
                ..Tuning::default()
            },
            ..Says::default()
        }));
        let (mut holes, mut live) = (Vec::new(), Vec::new());
        for number in 0..64 {
            let list = if number % 2 == 0 {
                &mut holes
            } else {
                &mut live
            };
            list.push(allocator.allocate(300 * MIB / 64).unwrap());
        }
        drop(holes);
        let large = allocator.allocate(140 * MIB).unwrap();
        assert!(allocator.stats().remaps > 0);
        let calls = allocator.stats().driver_calls;
        drop((large, live));
        assert!(allocator.clear() >= 300 * MIB);
        assert_eq!(allocator.stats().reserved.value, 0);
        calls
    };
    assert!(calls(1000) + 20 < calls(0));
}

/// Panics whenever it is asked about what is called so, and when anything else is asked of it.
#[derive(Debug)]
struct Panics(bool);

impl Strategy for Panics {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        assert!(asked.name != "unlucky", "on purpose");
        Choice::of(asked)
    }

    fn chooses(&self) -> bool {
        self.0
    }

    fn shape(&self, _: &Demand) -> Shape {
        panic!("on purpose")
    }

    fn tune(&self, _: &Driven) -> Option<Tuning> {
        panic!("on purpose")
    }
}

/// Requests are served as without the strategy, on this thread and on others, and nothing is lost.
#[test]
fn a_strategy_that_panics_loses_no_request_and_no_block() {
    for chooses in [false, true] {
        let allocator = on_host(Config {
            strategy: Some(Arc::new(Panics(chooses))),
            ..Config::default()
        });
        let request = |bytes| {
            let request = Request::new(bytes).alignment(4096).name("unlucky");
            allocator.allocate_with(&request).unwrap()
        };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for bytes in [1, 100, 5000, 100_000, MIB, 4 * MIB] {
                        let (buffer, other) = (request(bytes), allocator.allocate(bytes).unwrap());
                        assert_eq!((buffer.len(), other.len()), (bytes, bytes));
                        assert_eq!(buffer.storage_mode(), StorageMode::Shared);
                        assert_eq!(buffer.alignment(), 4096);
                    }
                });
            }
        });
        drop([MIB; 4].map(request));
        let stats = allocator.stats();
        assert_eq!((stats.live.value, stats.failures), (0, 0));
        assert_eq!((stats.allocations, stats.frees), (28, 28));
        // A scope ends before its threads have given back what they cached.
        let start = Instant::now();
        while allocator.stats().reserved.value > 0 {
            let _bytes = allocator.clear();
            assert!(start.elapsed() < Duration::from_secs(30));
        }
    }
}

/// Panics when an allocator is built.
#[derive(Debug)]
struct NeverStarts;

impl Strategy for NeverStarts {
    fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
        Choice::of(asked)
    }

    fn for_allocator(&self) -> Option<Arc<dyn Strategy>> {
        panic!("on purpose")
    }
}

#[test]
fn a_strategy_that_panics_when_an_allocator_is_built_leaves_nothing_behind() {
    let device: Arc<dyn Device> = Arc::new(HostDevice::new().unwrap());
    let config = Config {
        strategy: Some(Arc::new(NeverStarts)),
        ..Config::default()
    };
    let builder = Allocator::builder(Arc::clone(&device)).config(config);
    let built = catch_unwind(AssertUnwindSafe(|| builder.build()));
    assert!(built.is_err());
    assert_eq!(Arc::strong_count(&device), 1, "nothing holds the device");
    let allocator = Allocator::builder(device).build().unwrap();
    drop(allocator.allocate(MIB).unwrap());
}
