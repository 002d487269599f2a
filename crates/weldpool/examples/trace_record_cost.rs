//! Prints what recording one event costs the thread that records, in nanoseconds: by itself, and as
//! part of an allocation or a free of an allocator that records.
//!
//! `cargo run --release -p weldpool --example trace_record_cost [FILE]`; without a file the events
//! are encoded and thrown away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool::Allocator;
use weldpool::trace::{Op, Recorder, RecorderOptions};

const EVENTS: u64 = 4_000_000;
/// An allocator makes other calls between two events; so many go in a burst, and then a pause.
const BURST: u64 = 10_000;

type Failure = Box<dyn std::error::Error>;

fn recorder() -> Result<Recorder, Failure> {
    Ok(match std::env::args_os().nth(1) {
        Some(path) => Recorder::create(path)?,
        None => Recorder::new(std::io::sink(), RecorderOptions::default())?,
    })
}

/// Runs `pair`, which makes two events, in bursts; prints the times per event.
fn measure(what: &str, mut pair: impl FnMut(u64) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut bursts_ns: Vec<u128> = Vec::new();
    for burst in 0..EVENTS / BURST {
        let start = Instant::now();
        for index in 0..BURST / 2 {
            pair(burst * BURST + index)?;
        }
        bursts_ns.push(start.elapsed().as_nanos());
        std::thread::sleep(Duration::from_micros(200));
    }
    bursts_ns.sort_unstable();
    let per_event = |ns: u128| ns as f64 / BURST as f64;
    let sum: u128 = bursts_ns.iter().sum();
    println!(
        "{what:<32} ns per event: mean {:.1}, median burst {:.1}, slowest burst {:.1}",
        sum as f64 / EVENTS as f64,
        per_event(bursts_ns[bursts_ns.len() / 2]),
        per_event(bursts_ns[bursts_ns.len() - 1]),
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let alone = recorder()?;
    // The first event of a thread makes its buffer.
    alone.record(Op::Allocate, 0, 1, 0);
    measure("the recorder alone", |id| {
        alone.record(Op::Allocate, id, 4096, id % 3);
        alone.record(Op::Free, id, 4096, id % 3);
        Ok(())
    })?;
    println!("{:?}", alone.finish()?);

    let allocator = Allocator::host()?;
    let pair = |_| {
        drop(allocator.allocate(4096)?);
        Ok(())
    };
    measure("an allocator that caches", pair)?;
    allocator.record(Some(Arc::new(recorder()?)));
    measure("an allocator that records", pair)?;
    let recorder = allocator.record(None).ok_or("nothing was recorded")?;
    println!("{:?}", recorder.finish()?);
    Ok(())
}
