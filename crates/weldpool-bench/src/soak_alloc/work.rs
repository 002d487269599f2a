//! What the threads of the soak do.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use weldpool::pressure::Level;
use weldpool::{Allocator, Buffer, Request};

use super::features::{self, LIMITED};
use super::{Shared, TIMES_MAX, failed, lock};
use crate::error::Result;
use crate::random::Random;

/// Live bytes that one thread aims at.
const LIVE_BYTES: usize = 48 << 20;
/// Buffers up to this size take part in work of queues and are written by the host.
const TOUCHED_BYTES_MAX: usize = 256 << 10;
/// One of so many operations is timed.
const TIMED: usize = 64;
/// After so many operations a thread takes another queue.
const QUEUE_OPERATIONS: usize = 20_000;

/// A size: mostly small, and large ones that come back, as the tensors of a few models do.
fn size(random: &mut Random) -> usize {
    match random.below(10) {
        0..5 => 1 + random.below(16 << 10),
        5..8 => (1 + random.below(64)) * (4 << 10) + random.below(7) * 100,
        8 => (1 + random.below(48)) * 65_537,
        _ => (1 + random.below(6)) * 1_500_001,
    }
}

/// Allocates and frees until told to stop.
pub(super) fn work(allocator: &Allocator, shared: &Shared, seed: usize) -> Result<()> {
    let mut random = Random::new(seed as u64);
    let mut live: Vec<Buffer> = Vec::new();
    let mut live_bytes = 0;
    features::run_on_node(seed);
    let mut queue = allocator.create_queue().map_err(failed("a queue"))?;
    let mut operation = 0_usize;
    while !shared.stop.load(Ordering::Relaxed) {
        operation += 1;
        let bytes = size(&mut random);
        let on_queue = random.below(2) == 0;
        let mut request = Request::new(bytes).name("soak");
        if on_queue {
            request = request.queue(&queue);
        }
        let start = operation.is_multiple_of(TIMED).then(Instant::now);
        let allocated = allocator.allocate_with(&request);
        if let Some(start) = start {
            let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut latencies = lock(&shared.latencies);
            if latencies.len() < TIMES_MAX {
                latencies.push(ns);
            }
        }
        shared.operations.fetch_add(1, Ordering::Relaxed);
        match allocated {
            Ok(mut buffer) => {
                if bytes <= TOUCHED_BYTES_MAX && on_queue {
                    queue.fill(&mut buffer, 1).map_err(failed("a fill"))?;
                } else if bytes <= TOUCHED_BYTES_MAX
                    && let Ok(mut contents) = buffer.write::<u8>()
                {
                    contents.fill(2);
                }
                live_bytes += bytes;
                live.push(buffer);
            }
            // The limit is lowered at times.
            Err(_) => {
                shared.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        while live_bytes > LIVE_BYTES || live.len() > 4096 {
            let buffer = live.swap_remove(random.below(live.len()));
            live_bytes -= buffer.len();
            match random.below(4) {
                0 => buffer.free_on(&queue),
                1 => {
                    let mut handed_on = lock(&shared.called.handed_on);
                    handed_on.push_back(buffer);
                    let taken = (handed_on.len() > 64).then(|| handed_on.pop_front());
                    drop(handed_on);
                    drop(taken);
                }
                _ => drop(buffer),
            }
        }
        if operation.is_multiple_of(QUEUE_OPERATIONS) {
            queue = allocator.create_queue().map_err(failed("a queue"))?;
        }
    }
    Ok(())
}

/// Asks memory back, changes limits, signals pressure and looks at figures until told to stop.
pub(super) fn disturb(allocator: &Allocator, shared: &Shared, seed: u64) {
    let mut random = Random::new(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        match random.below(7) {
            0 => drop(allocator.clear()),
            1 => {
                let before = allocator.set_cached_bytes_max(16 << 20);
                thread::sleep(LIMITED);
                allocator.set_cached_bytes_max(before);
            }
            2 => {
                let held = allocator.stats().reserved.value;
                // Where nothing is held, that is no limit to set.
                if let Ok(before) = allocator.set_reserved_bytes_max(Some(held)) {
                    // More than the limit: only callbacks can be asked.
                    let beyond = usize::try_from(held)
                        .unwrap_or(usize::MAX)
                        .saturating_add(1);
                    if allocator.allocate(beyond).is_err() {
                        shared.failures.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(LIMITED);
                    let _held = allocator.set_reserved_bytes_max(before);
                }
            }
            3 => {
                if let Ok(monitor) = allocator.pressure() {
                    monitor.signal(random.of(&[Level::Moderate, Level::Warning, Level::Critical]));
                    thread::sleep(LIMITED);
                    monitor.clear();
                }
            }
            4 => drop(allocator.collect_soon()),
            5 => drop((allocator.health(), allocator.samples())),
            _ => {}
        }
    }
}
