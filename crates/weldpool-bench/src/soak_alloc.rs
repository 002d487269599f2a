//! The endurance test of the allocator: several threads with all features on, after which it must be as fast and as
//! tight as at the start.
//!
//! Threads allocate, write, hand on and free buffers of changing sizes, half of them on queues that fill and copy
//! them; meanwhile one more thread trims, changes the limits and signals pressure, and everything is recorded as a
//! trace. The time is cut into windows; the first, in which everything is new, does not count.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weldpool::device::host::HostDevice;
use weldpool::gc::GcConfig;
use weldpool::pressure::Level;
use weldpool::trace::{Op, Recorder, RecorderOptions};
use weldpool::{Allocator, Buffer, Config, Request, Stats};

use crate::alloc::in_words;
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::machine::{self, Machine};
use crate::random::Random;
use crate::report::{Better, Report, Row, Verdict};
use crate::statistics::{median, percentile};

/// Windows that the time is cut into.
const WINDOWS: usize = 20;
/// Live bytes that one thread aims at.
const LIVE_BYTES: usize = 48 << 20;
/// Buffers up to this size take part in work of queues and are written by the host.
const TOUCHED_BYTES_MAX: usize = 256 << 10;
/// One of so many operations is timed.
const TIMED: usize = 64;
/// Times that are kept of one window, so that keeping them does not look like a leak.
const TIMES_MAX: usize = 1 << 20;
/// By how much the end may be worse than the start: what a quiet machine scatters.
const STEADY: f64 = 1.25;
/// Latency scatters more, when other programs run too.
const STEADY_LATENCY: f64 = 2.0;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long.
    pub duration: Duration,
    /// Threads that allocate.
    pub threads: usize,
    /// Start of the random choices.
    pub seed: u64,
    /// The command, for the report.
    pub command: String,
}

/// What one window showed.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    operations: u64,
    p50_ns: f64,
    p99_ns: f64,
    /// Mean of live / reserved over the window.
    utilisation: f64,
    reserved: f64,
    /// Resident memory besides the pool's: records, caches, traces.
    own: f64,
    /// Resident memory of the pool: what of `reserved` was ever touched.
    resident: f64,
}

#[derive(Debug, Default)]
struct Shared {
    window: AtomicUsize,
    stop: AtomicBool,
    operations: AtomicU64,
    failures: AtomicU64,
    latencies: Mutex<Vec<u64>>,
    /// Buffers on their way to another thread.
    handed_on: Mutex<VecDeque<Buffer>>,
}

/// A sink that forgets, so that recording costs what it costs and no disk fills up.
#[derive(Debug)]
struct Nowhere;

impl io::Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &'static str) -> impl FnOnce(weldpool::Error) -> Error {
    move |error| Error::caused(ErrorKind::Io, what, error)
}

/// Runs, and compares the end with the start.
///
/// # Errors
/// `Io` when the allocator cannot be made, `Protocol` when a thread panicked. What is not steady is a bar not met.
pub fn run(options: &Options) -> Result<Report> {
    let config = Config {
        gc: GcConfig {
            enabled: true,
            ..GcConfig::default()
        },
        ..Config::default()
    };
    let shown = in_words(&config);
    let device = HostDevice::new().map_err(failed("opening the host"))?;
    let builder = Allocator::builder(Arc::new(device)).config(config);
    let allocator = builder.build().map_err(failed("making an allocator"))?;
    let recorder = Recorder::new(Nowhere, RecorderOptions::default())
        .map_err(|error| Error::caused(ErrorKind::Io, "making a recorder", error))?;
    let shared = Shared {
        latencies: Mutex::new(touched()),
        ..Shared::default()
    };
    let windows = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|index| {
                let (allocator, recorder, shared) = (&allocator, &recorder, &shared);
                let seed = options.seed + index as u64;
                scope.spawn(move || work(allocator, recorder, shared, seed))
            })
            .collect();
        let disturber = scope.spawn(|| disturb(&allocator, &shared, options.seed + 1000));
        let windows = watch(&allocator, &shared, options.duration);
        shared.stop.store(true, Ordering::Relaxed);
        let mut ended = disturber.join().is_ok();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => ended = false,
            }
        }
        if ended {
            windows
        } else {
            Err(Error::protocol("a thread of the soak panicked"))
        }
    })?;
    let handed_on = std::mem::take(&mut *lock(&shared.handed_on));
    drop(handed_on);
    let recorded = recorder
        .finish()
        .map_err(|error| Error::caused(ErrorKind::Io, "recording", error))?;
    let busy = allocator.stats();
    // Work of queues that are gone may just be ending.
    let mut left = u64::MAX;
    for _ in 0..1000 {
        let _bytes = allocator.clear();
        left = allocator.stats().reserved.value;
        if left == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(report(
        options,
        &windows,
        &busy,
        left,
        &shared,
        recorded.events,
        shown,
    ))
}

/// Looks on, window by window.
fn watch(allocator: &Allocator, shared: &Shared, duration: Duration) -> Result<Vec<Window>> {
    let start = Instant::now();
    let pid = std::process::id();
    let mut windows = Vec::new();
    let mut latencies = touched();
    for number in 1..=WINDOWS {
        let end = duration.mul_f64(number as f64 / WINDOWS as f64);
        let before = shared.operations.load(Ordering::Relaxed);
        let (mut utilisation, mut reserved) = (Vec::new(), Vec::new());
        while start.elapsed() < end {
            thread::sleep(Duration::from_millis(20).min(duration / 200));
            let stats = allocator.stats();
            reserved.push(stats.reserved.value as f64);
            utilisation.push(stats.live.value as f64 / stats.reserved.value.max(1) as f64);
        }
        std::mem::swap(&mut latencies, &mut *lock(&shared.latencies));
        latencies.sort_unstable();
        let at = |percent| percentile(&latencies, percent).map_or(0.0, |ns| ns as f64);
        let (own, resident) = cpu::resident_parts(pid)?;
        windows.push(Window {
            operations: shared.operations.load(Ordering::Relaxed) - before,
            p50_ns: at(50.0),
            p99_ns: at(99.0),
            utilisation: median(&utilisation).unwrap_or_default(),
            reserved: median(&reserved).unwrap_or_default(),
            own: own as f64,
            resident: resident as f64,
        });
        latencies.clear();
        shared.window.store(number, Ordering::Relaxed);
    }
    Ok(windows)
}

/// Room for the times of one window, resident from the start.
fn touched() -> Vec<u64> {
    let mut times = vec![1; TIMES_MAX];
    times.clear();
    times
}

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
fn work(allocator: &Allocator, recorder: &Recorder, shared: &Shared, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut live: Vec<(u64, Buffer)> = Vec::new();
    let (mut live_bytes, mut next) = (0, seed << 40);
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
                recorder.record(Op::Allocate, next, bytes as u64, 0);
                live_bytes += bytes;
                live.push((next, buffer));
                next += 1;
            }
            // The limit is lowered at times.
            Err(_) => {
                shared.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        while live_bytes > LIVE_BYTES || live.len() > 4096 {
            let (id, buffer) = live.swap_remove(random.below(live.len()));
            live_bytes -= buffer.len();
            recorder.record(Op::Free, id, buffer.len() as u64, 0);
            match random.below(4) {
                0 => buffer.free_on(&queue),
                1 => {
                    let mut handed_on = lock(&shared.handed_on);
                    handed_on.push_back(buffer);
                    let taken = (handed_on.len() > 64).then(|| handed_on.pop_front());
                    drop(handed_on);
                    drop(taken);
                }
                _ => drop(buffer),
            }
        }
        if operation.is_multiple_of(20_000) {
            queue = allocator.create_queue().map_err(failed("a queue"))?;
        }
    }
    Ok(())
}

/// Asks memory back, changes limits and signals pressure until told to stop.
fn disturb(allocator: &Allocator, shared: &Shared, seed: u64) {
    let mut random = Random::new(seed);
    while !shared.stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
        match random.below(6) {
            0 => drop(allocator.clear()),
            1 => {
                let before = allocator.set_cached_bytes_max(16 << 20);
                thread::sleep(Duration::from_millis(20));
                allocator.set_cached_bytes_max(before);
            }
            2 => {
                let held = allocator.stats().reserved.value;
                // Where nothing is held, that is no limit to set.
                if let Ok(before) = allocator.set_reserved_bytes_max(Some(held)) {
                    thread::sleep(Duration::from_millis(20));
                    let _held = allocator.set_reserved_bytes_max(before);
                }
            }
            3 => {
                if let Ok(monitor) = allocator.pressure() {
                    monitor.signal(random.of(&[Level::Moderate, Level::Warning, Level::Critical]));
                    thread::sleep(Duration::from_millis(20));
                    monitor.clear();
                }
            }
            4 => drop(allocator.collect_soon()),
            _ => {}
        }
    }
}

fn report(
    options: &Options,
    windows: &[Window],
    busy: &Stats,
    left: u64,
    shared: &Shared,
    recorded: u64,
    config: String,
) -> Report {
    let part = windows.len() / 4;
    // The first window is warm-up.
    let start = &windows[1.min(part)..=part.max(1)];
    let end = &windows[windows.len() - part.max(1)..];
    let figure = |of: fn(&Window) -> f64, windows: &[Window]| {
        median(&windows.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
    };
    type Of = fn(&Window) -> f64;
    let figures: [(&str, &str, Better, f64, Of); 5] = [
        ("latency p50", "ns", Better::Lower, STEADY_LATENCY, |one| {
            one.p50_ns
        }),
        ("latency p99", "ns", Better::Lower, STEADY_LATENCY, |one| {
            one.p99_ns
        }),
        (
            "utilisation",
            "live / reserved",
            Better::Higher,
            STEADY,
            |one| one.utilisation,
        ),
        ("reserved", "bytes", Better::Lower, STEADY, |one| {
            one.reserved
        }),
        (
            "resident besides the pool",
            "bytes",
            Better::Lower,
            STEADY,
            |one| one.own,
        ),
    ];
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for (name, unit, better, steady, of) in figures {
        let (first, last) = (figure(of, start), figure(of, end));
        let peers = [("start".to_owned(), first)].into();
        rows.push(Row::new(name, unit, better, Some(last), peers));
        let limit = match better {
            Better::Lower => first * steady,
            Better::Higher => first / steady,
        };
        bars.push(Verdict::new(
            "soak",
            format!("{name} at the end"),
            unit,
            better,
            last,
            limit,
        ));
    }
    // It rises until each byte held was touched once.
    let (first, last) = (
        figure(|one| one.resident, start),
        figure(|one| one.resident, end),
    );
    let peers = [("start".to_owned(), first)].into();
    let name = "resident memory of the pool";
    rows.push(Row::new(name, "bytes", Better::Lower, Some(last), peers));
    bars.push(Verdict::new(
        "soak",
        format!("{name} at the end, against what it holds"),
        "bytes",
        Better::Lower,
        last,
        figure(|one| one.reserved, end) * STEADY,
    ));
    let value = left as f64;
    bars.push(Verdict::new(
        "soak",
        "bytes held after the end",
        "bytes",
        Better::Lower,
        value,
        0.0,
    ));
    let live = busy.live.value as f64;
    bars.push(Verdict::new(
        "soak",
        "live bytes after the end",
        "bytes",
        Better::Lower,
        live,
        0.0,
    ));
    let sample = |one: &Window| {
        json!({
            "operations": one.operations, "p50_ns": one.p50_ns, "p99_ns": one.p99_ns,
            "utilisation": one.utilisation, "reserved": one.reserved, "own": one.own,
            "resident": one.resident,
        })
    };
    Report {
        suite: "soak-alloc",
        command: options.command.clone(),
        date: machine::now(),
        machine: Machine::this(),
        versions: [("weldpool".to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into(),
        config: json!({
            "seconds": options.duration.as_secs_f64(), "threads": options.threads, "seed": options.seed,
            "weldpool": config,
        }),
        rows,
        bars,
        missing: Vec::new(),
        samples: json!({
            "windows": windows.iter().map(sample).collect::<Vec<_>>(),
            "operations": shared.operations.load(Ordering::Relaxed),
            "refused_at_a_lowered_limit": shared.failures.load(Ordering::Relaxed),
            "recorded_events": recorded,
            "driver_calls": busy.driver_calls,
            "remaps": busy.remaps,
            "hit_rate": busy.hits as f64 / busy.allocations.max(1) as f64,
        }),
    }
}
