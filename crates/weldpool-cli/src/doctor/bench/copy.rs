//! P6: copies of memory that the device does not know.

use std::hint::black_box;

use weldpool::transfer::{Copier, CopierConfig};
use weldpool::{Result, StorageMode};

use super::{Bench, MIB, NEVER_BEHIND, RATE, faster, size};

const SIZES: [usize; 4] = [MIB, 16 * MIB, 64 * MIB, 256 * MIB];
/// From here on a copy has to be nearly as fast as one of pinned memory.
const LARGE: usize = 64 * MIB;
const PINNED_PART: f64 = 0.9;

pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    let copier = Copier::new()?;
    let by_driver = Copier::with_config(CopierConfig {
        pageable_bytes_max: Some(usize::MAX),
        ..CopierConfig::default()
    })?;
    // Three of a size at once.
    let sizes: Vec<usize> = bench.sizes(&SIZES, 3).collect();
    let modes = &bench.device.properties().storage_modes;
    let private = modes.contains(&StorageMode::Private) && !bench.is_host();
    for bytes in sizes {
        if bench.device.properties().unified {
            to_shared(bench, &copier, bytes)?;
        }
        if private {
            to_private(bench, &copier, &by_driver, bytes)?;
        }
    }
    Ok(())
}

/// To memory that processors reach too; the peer is one of them.
fn to_shared(bench: &mut Bench<'_>, copier: &Copier, bytes: usize) -> Result<()> {
    let source = vec![1_u8; bytes];
    let mut second = vec![2_u8; bytes];
    let mut there = bench.buffer(bytes, StorageMode::Shared)?;
    let mut ours = || copier.copy(&source, &mut there).map(drop);
    let mut memcpy = || {
        second.copy_from_slice(&source);
        black_box(&mut second);
        Ok(())
    };
    let [ours, memcpy] = bench.clock.contest([&mut ours, &mut memcpy])?;
    let bar = faster("memcpy", ours, memcpy, NEVER_BEHIND);
    let rate = |time: f64| bytes as f64 / time;
    let case = format!("host to shared memory, {}", size(bytes));
    bench.measure(
        case,
        RATE,
        rate(ours),
        &[("memcpy", rate(memcpy))],
        Some(bar),
    );
    Ok(())
}

/// To memory of the device alone; peers are the driver's copies of pinned memory and, where there is such, of any.
fn to_private(
    bench: &mut Bench<'_>,
    copier: &Copier,
    by_driver: &Copier,
    bytes: usize,
) -> Result<()> {
    let source = vec![1_u8; bytes];
    let mut there = bench.buffer(bytes, StorageMode::Private)?;
    let mut second = bench.buffer(bytes, StorageMode::Private)?;
    let mut pinned = bench.buffer(bytes, StorageMode::Shared)?;
    pinned.write::<u8>()?.fill(2);
    let queue = bench.allocator.create_queue()?;
    let mut third = bench.buffer(bytes, StorageMode::Private)?;
    let mut ours = || copier.copy(&source, &mut there).map(drop);
    let mut from_pinned = || queue.copy(&pinned, &mut second)?.wait(None);
    let rate = |time: f64| bytes as f64 / time;
    let case = format!("host to private memory, {}", size(bytes));
    if bench.device.staging().pageable_bytes_max.is_some() {
        let mut pageable = || by_driver.copy(&source, &mut third).map(drop);
        let contest = [
            &mut ours as &mut dyn FnMut() -> _,
            &mut from_pinned,
            &mut pageable,
        ];
        let [ours, from_pinned, pageable] = bench.clock.contest(contest)?;
        let peers = [("pinned", rate(from_pinned)), ("driver", rate(pageable))];
        let bar = if bytes >= LARGE {
            faster("pinned", ours, from_pinned, PINNED_PART)
        } else {
            faster("the driver", ours, pageable, NEVER_BEHIND)
        };
        bench.measure(case, RATE, rate(ours), &peers, Some(bar));
    } else {
        let [ours, from_pinned] = bench.clock.contest([&mut ours, &mut from_pinned])?;
        let bar = (bytes >= LARGE).then(|| faster("pinned", ours, from_pinned, PINNED_PART));
        bench.measure(
            case,
            RATE,
            rate(ours),
            &[("pinned", rate(from_pinned))],
            bar,
        );
    }
    Ok(())
}
