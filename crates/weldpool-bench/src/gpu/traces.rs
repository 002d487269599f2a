//! Recorded traces on a real GPU.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use weldpool::device::cuda::CudaDevice;
use weldpool::trace::{self, Event, Op, Reader, Replay, ReplayOptions, Target};
use weldpool::{Allocator, Config};

use super::cases::{DRIVER, DRIVER_CALLS, DRIVER_SHARE, OPERATION, RESERVED};
use super::contender::Contender;
use super::peer::{Peer, STREAMS};
use crate::error::{Error, ErrorKind, Result};

/// Where the traces are: beside this program as `traces`, else in the checkout that it was built in.
fn folder() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join("traces")));
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weldpool/tests/data/traces");
    beside.filter(|path| path.is_dir()).unwrap_or(checkout)
}

/// Names of the traces, sorted.
pub(super) fn names() -> Vec<String> {
    let listing = std::fs::read_dir(folder()).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".csv.gz").map(str::to_owned)
    };
    let mut names: Vec<_> = listing.filter_map(name).collect();
    names.sort();
    names
}

fn read(name: &str) -> Result<Vec<Event>> {
    let file = folder().join(format!("{name}.csv.gz"));
    let failed = |error| Error::caused(ErrorKind::Environment, format!("reading {name}"), error);
    let (events, _) = trace::read_all(Reader::open(&file).map_err(failed)?).map_err(failed)?;
    Ok(events)
}

/// Figures by their names.
pub(super) type Figures = Vec<(String, f64)>;

/// Driver time that the frugal setting may spend on each operation.
const FRUGAL_NS: u32 = 100;
/// Operations to which calls of the driver are related.
const PER_OPERATIONS: f64 = 1000.0;

/// Our figures on a trace, with the default configuration.
pub(super) fn ours(name: &str, case: &str) -> Result<Figures> {
    replay(name, case, &Config::default())
}

/// The same with little driver time.
pub(super) fn frugal(name: &str, case: &str) -> Result<Figures> {
    let config = Config {
        driver_ns_per_operation: FRUGAL_NS,
        ..Config::default()
    };
    replay(name, case, &config)
}

fn replay(name: &str, case: &str, config: &Config) -> Result<Figures> {
    let events = read(name)?;
    let target = || {
        let device = Arc::new(CudaDevice::open(0)?);
        let allocator = Allocator::builder(device).config(config.clone()).build()?;
        Ok(Target::new(allocator))
    };
    let report = Replay::new(ReplayOptions::default()).run(&events, target);
    let report = report.map_err(|error| {
        Error::caused(ErrorKind::Environment, format!("replaying {name}"), error)
    })?;
    if report.failures > 0 {
        let message = format!("{} allocations failed", report.failures);
        return Err(Error::new(ErrorKind::Environment, message));
    }
    let events = report.events as f64;
    let driver = report.driver_ns as f64 / events;
    Ok(vec![
        (RESERVED.key(case), report.reserved_over_live),
        (OPERATION.key(case), report.mean_ns),
        (DRIVER.key(case), driver),
        (DRIVER_SHARE.key(case), driver / report.mean_ns),
        (
            DRIVER_CALLS.key(case),
            PER_OPERATIONS * report.driver_calls as f64 / events,
        ),
    ])
}

/// A peer's figures on a trace: its streams are idle, so it never has to wait for one. What the driver takes of its
/// time is not known, and how often it calls it only where every operation is such a call.
pub(super) fn peer(peer: &Peer, contender: Contender, name: &str, case: &str) -> Result<Figures> {
    let events = read(name)?;
    let mut streams = HashMap::new();
    let mut live = HashMap::new();
    let (mut bytes, mut most) = (0_u64, 0_u64);
    for event in &events {
        let next = i32::try_from(streams.len()).unwrap_or(STREAMS) % STREAMS;
        streams.entry(event.stream).or_insert(next);
    }
    let start = Instant::now();
    for event in &events {
        let stream = streams[&event.stream];
        match event.op {
            Op::Allocate => {
                let size = usize::try_from(event.bytes).unwrap_or(usize::MAX);
                let block = peer.allocate_on(stream, size).ok_or_else(|| {
                    Error::new(
                        ErrorKind::Environment,
                        format!("{name}: an allocation failed"),
                    )
                })?;
                bytes += event.bytes;
                most = most.max(bytes);
                live.insert(event.id, (stream, event.bytes, block));
            }
            Op::Free => {
                if let Some((stream, size, block)) = live.remove(&event.id) {
                    bytes -= size;
                    peer.free_on(stream, block);
                }
            }
        }
    }
    let elapsed = start.elapsed();
    for (stream, _, block) in live.into_values() {
        peer.free_on(stream, block);
    }
    let mut figures = vec![(
        OPERATION.key(case),
        elapsed.as_nanos() as f64 / events.len() as f64,
    )];
    if contender.calls_each_time() {
        figures.push((DRIVER_CALLS.key(case), PER_OPERATIONS));
    }
    if let Some(reserved) = peer.peak_reserved() {
        figures.push((RESERVED.key(case), reserved as f64 / most as f64));
    }
    Ok(figures)
}
