//! Prints what recording one event costs the thread that records, in nanoseconds.
//!
//! `cargo run --release -p weldpool --example trace_record_cost [FILE]`; without a file the events
//! are encoded and thrown away.

use std::time::Instant;

use weldpool::trace::{Op, Recorder, RecorderOptions};

const EVENTS: u64 = 4_000_000;
/// An allocator makes other calls between two events; so many go in a burst, and then a pause.
const BURST: u64 = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recorder = match std::env::args_os().nth(1) {
        Some(path) => Recorder::create(path)?,
        None => Recorder::new(std::io::sink(), RecorderOptions::default())?,
    };
    // The first event of a thread makes its buffer.
    recorder.record(Op::Allocate, 0, 1, 0);
    let mut bursts_ns: Vec<u128> = Vec::new();
    for burst in 0..EVENTS / BURST {
        let start = Instant::now();
        for index in 0..BURST {
            let id = burst * BURST + index;
            let op = if id.is_multiple_of(2) {
                Op::Allocate
            } else {
                Op::Free
            };
            recorder.record(op, id / 2, 4096, id % 3);
        }
        bursts_ns.push(start.elapsed().as_nanos());
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    bursts_ns.sort_unstable();
    let per_event = |ns: u128| ns as f64 / BURST as f64;
    let sum: u128 = bursts_ns.iter().sum();
    let recording = recorder.finish()?;
    println!(
        "ns per event: mean {:.1}, median burst {:.1}, slowest burst {:.1}; {} events, {} dropped",
        sum as f64 / EVENTS as f64,
        per_event(bursts_ns[bursts_ns.len() / 2]),
        per_event(bursts_ns[bursts_ns.len() - 1]),
        recording.events,
        recording.dropped
    );
    Ok(())
}
