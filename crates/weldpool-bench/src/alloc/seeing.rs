//! What it costs to see our allocator at work.

use std::fs::File;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use weldpool::trace::{Recorder, RecorderOptions, TraceError};
use weldpool::{Allocator, Buffer};

use super::meter::{self, Effort, Sample};
use crate::error::{Error, ErrorKind, Result};

/// Classes of which each thread used blocks: every 256 B up to 8 KiB.
const CLASSES: usize = 32;
const CLASS_BYTES: usize = 256;
/// Size of what is recorded.
const BYTES: usize = 4 << 10;
/// Pairs that are recorded in a row. A program does other things too between its allocations; the writer, which
/// has a processor of its own at best, could not go on like that.
const BURST: u64 = 5_000;
const PAUSE: Duration = Duration::from_micros(500);
/// Room for what the writer has yet to write, so that nothing is dropped where it is late.
const EVENTS: usize = 1 << 18;

fn host() -> Result<Allocator> {
    Allocator::host().map_err(failed)
}

fn failed(error: weldpool::Error) -> Error {
    Error::caused(ErrorKind::Environment, "allocating", error)
}

fn not_recorded(error: TraceError) -> Error {
    Error::caused(ErrorKind::Environment, "recording", error)
}

/// Allocates and frees in so many classes.
fn use_classes(allocator: &Allocator) -> weldpool::Result<()> {
    let sizes = (1..=CLASSES).map(|class| class * CLASS_BYTES);
    let live: weldpool::Result<Vec<Buffer>> =
        sizes.map(|bytes| allocator.allocate(bytes)).collect();
    live.map(drop)
}

/// Reads statistics while `threads` threads, this one among them, have caches.
pub(super) fn statistics(threads: usize, effort: Effort) -> Result<Sample> {
    let allocator = host()?;
    let (used, read) = (Barrier::new(threads), Barrier::new(threads));
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|_| {
                scope.spawn(|| {
                    let done = use_classes(&allocator);
                    used.wait();
                    read.wait();
                    done
                })
            })
            .collect();
        let done = use_classes(&allocator);
        used.wait();
        let sample = meter::measure(effort, 1, |iterations| {
            let start = Instant::now();
            for _ in 0..iterations {
                black_box(allocator.stats());
            }
            Some(start.elapsed())
        });
        read.wait();
        done.map_err(failed)?;
        for other in others {
            let done = other.join();
            done.map_err(|_| Error::new(ErrorKind::Environment, "a thread panicked"))?
                .map_err(failed)?;
        }
        sample
    })
}

/// What recording to a file adds to an allocation or a free.
pub(super) fn recorded(effort: Effort) -> Result<Sample> {
    let allocator = host()?;
    let folder = tempfile::tempdir().map_err(|error| Error::io("making a folder", error))?;
    let file = File::create(folder.path().join("recorded.wpt"))
        .map_err(|error| Error::io("making a trace", error))?;
    let plain = pairs(&allocator, effort)?;
    let options = RecorderOptions {
        events_per_thread: EVENTS,
        ..RecorderOptions::default()
    };
    let recorder = Arc::new(Recorder::new(file, options).map_err(not_recorded)?);
    allocator.record(Some(Arc::clone(&recorder)));
    let recorded = pairs(&allocator, effort);
    allocator.record(None);
    let (recorded, written) = (recorded?, recorder.finish().map_err(not_recorded)?);
    if written.dropped > 0 {
        let message = format!("{} events were dropped", written.dropped);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    Ok(Sample {
        nanoseconds: recorded.nanoseconds - plain.nanoseconds,
        low: recorded.low - plain.high,
        high: recorded.high - plain.low,
        ..recorded
    })
}

/// Pairs, of two events each, with pauses that do not count.
fn pairs(allocator: &Allocator, effort: Effort) -> Result<Sample> {
    meter::measure(effort, 2, |iterations| {
        let mut time = Duration::ZERO;
        let mut left = iterations;
        while left > 0 {
            let now = left.min(BURST);
            let start = Instant::now();
            for _ in 0..now {
                drop(black_box(allocator.allocate(black_box(BYTES)).ok()?));
            }
            time += start.elapsed();
            left -= now;
            thread::sleep(PAUSE);
        }
        Some(time)
    })
}
