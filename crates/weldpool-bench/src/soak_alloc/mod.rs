//! The endurance test of the allocator: several threads with all features on, after which it must be as fast and as
//! tight as at the start.
//!
//! Threads allocate, write, hand on and free buffers of changing sizes, half of them on queues that fill and copy
//! them; meanwhile one more thread trims, changes the limits and signals pressure. Every other window the allocator
//! records itself to files. The time is cut into windows; the first, in which everything is new, does not count.

mod features;
mod recording;
mod verdict;
mod work;

use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use weldpool::pressure::PressureStats;
use weldpool::{Allocator, Stats};

use self::features::Called;
use self::recording::{Recording, Totals};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::report::Report;
use crate::statistics::{median, percentile};

/// Windows that the time is cut into.
const WINDOWS: usize = 20;
/// Times that are kept of one window, so that keeping them does not look like a leak.
const TIMES_MAX: usize = 1 << 20;

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
    /// Whether the allocator recorded itself meanwhile.
    recorded: bool,
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
    stop: AtomicBool,
    operations: AtomicU64,
    failures: AtomicU64,
    latencies: Mutex<Vec<u64>>,
    called: Arc<Called>,
}

/// How it ended.
#[derive(Debug)]
struct Outcome {
    windows: Vec<Window>,
    /// Statistics after the threads ended.
    ended: Stats,
    /// What pressure did.
    pressure: PressureStats,
    /// Bytes still held once everything idle was given back.
    left: u64,
    recorded: Totals,
    /// Live samples with a backtrace that reports showed.
    backtraces: u64,
    /// Errors logged, those of closing the allocator included.
    errors: u64,
    /// The configuration in words, and what of it is on.
    config: (String, Value),
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
/// `Io` when the allocator cannot be made or a trace not written, `Protocol` when a thread panicked. What is not
/// steady is a bar not met.
pub fn run(options: &Options) -> Result<Report> {
    features::count_logged_errors();
    let shared = Shared {
        latencies: Mutex::new(touched()),
        ..Shared::default()
    };
    let config = features::config(&shared.called);
    let shown = (format!("{config:?}"), features::on(&config));
    let logged = features::logged_errors();
    let allocator = features::allocator(config, &shared.called)?;
    // Looking up the first backtrace loads debug information, which stays.
    std::hint::black_box(Backtrace::force_capture().to_string());
    let mut watched = Watched::new()?;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..options.threads)
            .map(|index| {
                let (allocator, shared) = (&allocator, &shared);
                let seed = options.seed as usize + index;
                scope.spawn(move || work::work(allocator, shared, seed))
            })
            .collect();
        let disturber = scope.spawn(|| work::disturb(&allocator, &shared, options.seed + 1000));
        let seen = watched.watch(&allocator, &shared, options.duration);
        shared.stop.store(true, Ordering::Relaxed);
        let mut ended = disturber.join().is_ok();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => ended = false,
            }
        }
        if ended {
            seen
        } else {
            Err(Error::protocol("a thread of the soak panicked"))
        }
    })?;
    watched.recording.switch(&allocator, false)?;
    let handed_on = std::mem::take(&mut *lock(&shared.called.handed_on));
    drop(handed_on);
    let ended = allocator.stats();
    let monitor = allocator.pressure().map_err(failed("watching pressure"))?;
    let pressure = monitor.stats();
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
    // The last handle: leaks are reported, and the counters compared with a walk.
    drop(allocator);
    let outcome = Outcome {
        windows: watched.windows,
        ended,
        pressure,
        left,
        recorded: watched.recording.totals(),
        backtraces: watched.backtraces,
        errors: features::logged_errors() - logged,
        config: shown,
    };
    Ok(verdict::report(options, &outcome, &shared))
}

/// What the thread that looks on has seen.
#[derive(Debug)]
struct Watched {
    windows: Vec<Window>,
    recording: Recording,
    backtraces: u64,
}

impl Watched {
    fn new() -> Result<Self> {
        Ok(Self {
            windows: Vec::new(),
            recording: Recording::new()?,
            backtraces: 0,
        })
    }

    /// Looks on, window by window.
    fn watch(&mut self, allocator: &Allocator, shared: &Shared, duration: Duration) -> Result<()> {
        let start = Instant::now();
        let pid = std::process::id();
        let mut latencies = touched();
        for number in 0..WINDOWS {
            let recorded = number % 2 == 1;
            self.recording.switch(allocator, recorded)?;
            let end = duration.mul_f64((number + 1) as f64 / WINDOWS as f64);
            let before = shared.operations.load(Ordering::Relaxed);
            let (mut utilisation, mut reserved) = (Vec::new(), Vec::new());
            while start.elapsed() < end {
                thread::sleep(Duration::from_millis(20).min(duration / 200));
                let stats = allocator.stats();
                reserved.push(stats.reserved.value as f64);
                utilisation.push(stats.live.value as f64 / stats.reserved.value.max(1) as f64);
                self.recording.rotate(allocator)?;
            }
            std::mem::swap(&mut latencies, &mut *lock(&shared.latencies));
            latencies.sort_unstable();
            let at = |percent| percentile(&latencies, percent).map_or(0.0, |ns| ns as f64);
            let operations = shared.operations.load(Ordering::Relaxed) - before;
            self.backtraces += features::look(allocator);
            let (own, resident) = cpu::resident_parts(pid)?;
            self.windows.push(Window {
                recorded,
                operations,
                p50_ns: at(50.0),
                p99_ns: at(99.0),
                utilisation: median(&utilisation).unwrap_or_default(),
                reserved: median(&reserved).unwrap_or_default(),
                own: own as f64,
                resident: resident as f64,
            });
            latencies.clear();
        }
        Ok(())
    }
}

/// Room for the times of one window, resident from the start.
fn touched() -> Vec<u64> {
    let mut times = vec![1; TIMES_MAX];
    times.clear();
    times
}
