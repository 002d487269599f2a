//! Many threads at a pool of pinned memory, and drivers that fail at any point.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::pinned::{PinnedConfig, PinnedPool};
use weldpool::{Allocator, ErrorKind};
use weldpool_testkit::FaultyDevice;

use super::{MIB, OBTAINING, devices, faulty};

fn config() -> PinnedConfig {
    PinnedConfig {
        allocations_max: 12,
        growth_bytes: 2 * MIB,
        wait_max: Duration::from_millis(2),
        ..PinnedConfig::default()
    }
}

/// Allocates, writes, checks and frees at random; returns pinned and pageable buffers, and refusals.
fn work(pool: &PinnedPool, seed: u64, rounds: usize) -> [u64; 3] {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) % below
    };
    let mut counts = [0; 3];
    let mut out = Vec::new();
    for round in 0..rounds {
        let bytes = 8 * (1 + random([512, 16 << 10, 600 << 10][round % 3]) as usize);
        match pool.allocate(bytes) {
            Ok(mut buffer) => {
                counts[usize::from(!buffer.is_pinned())] += 1;
                let stamp = seed << 32 | round as u64;
                let mut contents = buffer.write::<u64>().unwrap();
                let last = contents.len() - 1;
                (contents[0], contents[last]) = (stamp, stamp);
                drop(contents);
                out.push((buffer, stamp));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
                counts[2] += 1;
            }
        }
        while out.len() > 2 || (!out.is_empty() && random(3) == 0) {
            let (buffer, stamp) = out.swap_remove(random(out.len() as u64) as usize);
            let contents = buffer.read::<u64>().unwrap();
            let last = contents.len() - 1;
            assert_eq!((contents[0], contents[last]), (stamp, stamp));
        }
    }
    counts
}

#[test]
fn threads_share_a_pool_and_counts_are_exact() {
    for on_host in [true, false] {
        let (device, allocator) = match on_host {
            true => faulty(HostDevice::new().unwrap()),
            false => faulty(FakeDiscrete::new().unwrap()),
        };
        // Now in time, now late.
        let calls = AtomicU64::new(0);
        for call in OBTAINING {
            let calls = AtomicU64::new(calls.load(Ordering::Relaxed));
            device.before(call, move || {
                let number = calls.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(number % 5));
            });
        }
        let pool = PinnedPool::builder(&allocator)
            .config(config())
            .build()
            .unwrap();
        let threads: Vec<_> = (1..=6)
            .map(|seed| {
                let pool = pool.clone();
                thread::spawn(move || work(&pool, seed, 400))
            })
            .collect();
        let mut sums = [0; 3];
        for thread in threads {
            for (sum, count) in sums.iter_mut().zip(thread.join().unwrap()) {
                *sum += count;
            }
        }
        let [pinned, pageable, refused] = sums;
        let stats = pool.stats();
        assert_eq!((stats.live.value, stats.live_bytes.value), (0, 0));
        assert_eq!((stats.pageable.value, stats.pageable_bytes.value), (0, 0));
        assert_eq!(stats.live.total, pinned + pageable);
        assert_eq!((stats.pageable.total, stats.refused), (pageable, refused));
        assert!(stats.live.peak <= 12, "{stats}");
        assert!(pinned > 0 && stats.growths > 0, "{stats}");
        // Growth stays in proportion to what was out at once.
        let most = 12 * (5 * MIB as u64) + 12 * (4 * MIB as u64);
        assert!(stats.growth_bytes <= 4 * most, "{stats}");
        drop(pool);
        let _bytes = allocator.clear();
        assert_eq!(device.held().bytes(), 0);
    }
}

/// Each driver call fails in turn, alone and with all behind it; nothing is lost and nobody hangs.
#[test]
fn a_driver_that_fails_at_any_point_costs_pinned_memory_alone() {
    for (inner, _) in devices() {
        for point in 1..=24 {
            for many in [1, 1000] {
                let device = Arc::new(FaultyDevice::new(inner.clone()));
                let allocator = Allocator::builder(device.clone()).build().unwrap();
                let first = device.calls();
                let numbers = first + point..first + point + many;
                device.fail_numbered(numbers, ErrorKind::OutOfMemory);
                let pool = PinnedPool::builder(&allocator)
                    .config(config())
                    .build()
                    .unwrap();
                let [pinned, pageable, refused] = work(&pool, point, 24);
                assert_eq!((pinned + pageable, refused), (24, 0));
                let stats = pool.stats();
                assert_eq!((stats.live.value, stats.pageable.value), (0, 0));
                drop(pool);
                device.clear_faults();
                let _bytes = allocator.clear() + allocator.clear();
                assert_eq!(allocator.stats().reserved.value, 0, "{point} {many}");
                assert_eq!(device.held().bytes(), 0, "{point} {many}");
            }
        }
    }
}
