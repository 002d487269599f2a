//! P1: warm allocation and free, beside the system's allocator and the device's driver.

use std::hint::black_box;
use std::sync::Arc;

use weldpool::device::ReleaseError;
use weldpool::{Buffer, Result};

use super::{Bar, Bench, Better, KIB, MIB, NEVER_BEHIND, NS, allocate, faster, size};

const SIZES: [usize; 7] = [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB];
const BATCH_SIZES: [usize; 5] = [256, 4 * KIB, 64 * KIB, MIB, 4 * MIB];
const WRITTEN_SIZES: [usize; 4] = [256, 64 * KIB, MIB, 16 * MIB];
/// From this size on pairs have to be equally fast; smaller blocks lie in caches of their threads' own, which are faster.
const FLAT_FROM: usize = 64 * KIB;
/// Blocks live at once.
const BATCH: usize = 64;
/// From this size on a batch has to be so many times as fast as the system's allocator.
const LARGE: usize = MIB;
const LARGE_LEAD: f64 = 20.0;
/// A device's allocator has to be so many times as fast as its driver (P2).
const DRIVER_LEAD: f64 = 15.0;
/// The slowest size's time of the fastest's that still counts as flat.
const FLAT: f64 = 2.0;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    pairs(bench)?;
    batches(bench)?;
    written(bench)
}

/// What the system's allocator does.
fn malloc(bytes: usize) -> Vec<u8> {
    black_box(Vec::with_capacity(black_box(bytes)))
}

fn pairs(bench: &mut Bench<'_>) -> Result<()> {
    let sizes: Vec<usize> = bench.sizes(&SIZES, 1).collect();
    let mut times = Vec::new();
    for bytes in sizes {
        let (allocator, storage) = (&bench.allocator, bench.storage);
        let mut ours = || allocate(allocator, bytes, storage).map(drop);
        let mut system = || {
            drop(malloc(bytes));
            Ok(())
        };
        let granularity = bench.device.properties().granularity;
        let device = Arc::clone(&bench.device);
        let mut driver = || {
            let segment = device.create_segment(bytes.next_multiple_of(granularity), storage)?;
            let released = device.release_segment(segment);
            released.map_err(|ReleaseError { error, .. }| error)
        };
        let case = format!("pair of {}, alone", size(bytes));
        if bench.is_host() {
            let [ours, malloc] = bench.clock.contest([&mut ours, &mut system])?;
            let bar = faster("malloc", ours, malloc, NEVER_BEHIND);
            bench.measure(case, NS, ours, &[("malloc", malloc)], Some(bar));
            if bytes >= FLAT_FROM {
                times.push(ours);
            }
        } else {
            let contest = bench.clock.contest([&mut ours, &mut system, &mut driver]);
            let [ours, malloc, driver] = contest?;
            let peers = [("malloc", malloc), ("driver", driver)];
            let bar = faster("the driver", ours, driver, DRIVER_LEAD);
            bench.measure(case, NS, ours, &peers, Some(bar));
            if bytes >= FLAT_FROM {
                times.push(ours);
            }
        }
    }
    let slowest = times.iter().copied().reduce(f64::max);
    let fastest = times.iter().copied().reduce(f64::min);
    if let (Some(slowest), Some(fastest)) = (slowest, fastest) {
        let bar = Bar {
            what: "times the fastest size's time".to_owned(),
            better: Better::Lower,
            value: slowest / fastest,
            limit: FLAT,
        };
        let case = "pair, the slowest size from 64 KiB up".to_owned();
        bench.measure(case, NS, slowest, &[], Some(bar));
    }
    Ok(())
}

fn batches(bench: &mut Bench<'_>) -> Result<()> {
    let sizes: Vec<usize> = bench.sizes(&BATCH_SIZES, BATCH).collect();
    for bytes in sizes {
        let (allocator, storage) = (&bench.allocator, bench.storage);
        let mut live: Vec<Buffer> = Vec::with_capacity(BATCH);
        let mut ours = || {
            for _ in 0..BATCH {
                live.push(allocate(allocator, bytes, storage)?);
            }
            live.drain(..).for_each(drop);
            Ok(())
        };
        let mut owned: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
        let mut system = || {
            owned.extend((0..BATCH).map(|_| malloc(bytes)));
            owned.drain(..).for_each(drop);
            Ok(())
        };
        let both = bench.clock.contest([&mut ours, &mut system])?;
        let [ours, malloc] = both.map(|time| time / BATCH as f64);
        let least = if bytes >= LARGE {
            LARGE_LEAD
        } else {
            NEVER_BEHIND
        };
        let bar = bench
            .is_host()
            .then(|| faster("malloc", ours, malloc, least));
        let case = format!("pair of {}, {BATCH} live", size(bytes));
        bench.measure(case, NS, ours, &[("malloc", malloc)], bar);
    }
    Ok(())
}

/// Where the host writes the memory, since of no other kind `malloc` is a peer.
fn written(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.device.properties().unified {
        return Ok(());
    }
    let sizes: Vec<usize> = bench.sizes(&WRITTEN_SIZES, 1).collect();
    for bytes in sizes {
        let (allocator, storage) = (&bench.allocator, bench.storage);
        let mut ours = || {
            let mut buffer = allocate(allocator, bytes, storage)?;
            buffer.write::<u8>()?.fill(1);
            Ok(())
        };
        let mut system = || {
            let mut owned = malloc(bytes);
            owned.resize(bytes, 1);
            drop(black_box(owned));
            Ok(())
        };
        let [ours, malloc] = bench.clock.contest([&mut ours, &mut system])?;
        let bar = bench
            .is_host()
            .then(|| faster("malloc", ours, malloc, NEVER_BEHIND));
        let case = format!("pair of {}, written", size(bytes));
        bench.measure(case, NS, ours, &[("malloc", malloc)], bar);
    }
    Ok(())
}
