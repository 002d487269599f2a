//! The endurance test: thousands of valid and malformed requests, after which the server must be as it was.
//!
//! Every request is answered as it should be; the pool's live bytes are back at the level of the loaded server;
//! and the resident memory of the process no longer grows. So that a pool which grows with the most that is ever
//! in flight at once has seen it, the clients first send every valid kind and size together, in step.

mod cases;
mod client;
mod malformed;
mod valid;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub use cases::MODELS;
use tempfile::TempDir;

use crate::cpu;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::ours;
use crate::process::Listening;
use crate::statistics::slope;
use cases::{Case, Cases};
use client::Client;

/// Times the clients send every valid kind together before the requests that count.
const WARM_UPS: usize = 5;
/// Requests between two looks at the resident memory.
const SAMPLE_EVERY: usize = 50;
/// Wrong answers quoted in a report.
const QUOTED_MAX: usize = 20;
/// Longest the server may take to give back what the last requests held.
const SETTLE: Duration = Duration::from_secs(5);
/// The metric with the bytes requested from the pool and not given back.
const LIVE_METRIC: &str = "weldpool_pool_live_bytes";

/// Growth of resident memory, in bytes per request, that still counts as none.
///
/// A page kept per hundred requests is 41 bytes per request; allocators and thread stacks settle later than any
/// warm-up, so up to this much is taken as their noise. It is 0.3 MiB over 5,000 requests.
pub const SLOPE_BYTES_MAX: f64 = 64.0;

/// Times a run is repeated on the same server because memory grew. A thread that uses its heap for the first time
/// is a step that looks like a slope; a leak goes on.
const REPEATS_MAX: usize = 2;

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests in all.
    pub requests: usize,
    /// Connections at once.
    pub concurrency: usize,
    /// Start of the random choices.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            requests: 10_000,
            concurrency: 4,
            seed: 1,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Valid requests sent.
    pub valid: usize,
    /// Malformed requests sent.
    pub malformed: usize,
    /// The first wrong answers: the case and what was wrong.
    pub wrong: Vec<String>,
    /// How many answers were wrong.
    pub wrong_count: usize,
    /// Live bytes of the pool before the first request.
    pub live_before: f64,
    /// Live bytes after the last answer.
    pub live_after: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: f64,
    /// Growth of resident memory over the second half, in bytes per request.
    pub slope_bytes: f64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Outcome {
    /// The ways in which the server failed; empty when it passed.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.wrong.clone();
        if self.wrong_count > self.wrong.len() {
            failures.push(format!("{} wrong answers in all", self.wrong_count));
        }
        if self.live_after != self.live_before {
            failures.push(format!(
                "the pool's live bytes were {} with the models loaded and are {} after the last answer",
                self.live_before, self.live_after
            ));
        }
        if self.slope_bytes > SLOPE_BYTES_MAX {
            failures.push(format!(
                "resident memory grows by {:.1} bytes per request (limit {SLOPE_BYTES_MAX})",
                self.slope_bytes
            ));
        }
        failures
    }

    /// The figures in two lines.
    pub fn summary(&self) -> String {
        format!(
            "{} valid and {} malformed requests in {:.1} s, {} answered wrongly\n\
             live bytes {} before, {} after; resident {:.1} MiB, growing {:.1} bytes per request (limit {})",
            self.valid,
            self.malformed,
            self.elapsed.as_secs_f64(),
            self.wrong_count,
            self.live_before,
            self.live_after,
            self.resident_bytes / f64::from(1 << 20),
            self.slope_bytes,
            SLOPE_BYTES_MAX
        )
    }
}

/// What the clients share.
#[derive(Debug, Default)]
struct Shared {
    taken: AtomicUsize,
    malformed: AtomicUsize,
    wrong_count: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    resident: Mutex<Vec<(f64, f64)>>,
}

impl Shared {
    /// Sends one case and takes down what was wrong with its answer.
    fn send(&self, client: &mut Client, case: &Case) {
        if let Err(what) = client.run(case) {
            self.wrong_count.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut wrong) = self.wrong.lock()
                && wrong.len() < QUOTED_MAX
            {
                wrong.push(format!("{}: {what}", case.name));
            }
        }
    }
}

/// Starts `program serve` with [`MODELS`], runs against it and stops it.
///
/// # Errors
/// Those of [`run`], and `Process` when the server does not start or, afterwards, does not end by itself.
pub fn serve_and_run(program: &Path, options: &Options) -> Result<Outcome> {
    let scratch = TempDir::new().map_err(|error| Error::io("creating a folder", error))?;
    let repository = scratch.path().join("models");
    ours::write_repository(&repository, &MODELS)?;
    let log = scratch.path().join("server.log");
    let mut command = ours::serve_command(program, &repository);
    let (mut process, listening) = ours::start(&mut command, &log)?;
    let mut outcome = run(listening, process.pid(), options);
    for _ in 0..REPEATS_MAX {
        match &outcome {
            Ok(done) if done.slope_bytes > SLOPE_BYTES_MAX => {
                outcome = run(listening, process.pid(), options);
            }
            _ => break,
        }
    }
    if !process.is_running()? {
        return Err(process.failed("stopped during the test"));
    }
    process.stop()?;
    outcome
}

/// Runs against the server of process `pid` at `listening`, which serves [`MODELS`].
///
/// # Errors
/// `Io` when the server cannot be reached or its process is gone, `Protocol` when it publishes no live bytes.
/// Wrong answers are no errors but part of the outcome.
pub fn run(listening: Listening, pid: u32, options: &Options) -> Result<Outcome> {
    let live_before = live(listening.metrics)?;
    let shared = Shared::default();
    let in_step = Barrier::new(options.concurrency);
    let start = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..options.concurrency)
            .map(|index| {
                let seed = options.seed + index as u64;
                let (in_step, shared) = (&in_step, &shared);
                scope.spawn(move || {
                    converse(listening.http, pid, seed, options.requests, in_step, shared)
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .unwrap_or_else(|_| Err(Error::protocol("a client thread panicked")))
        })
    })?;
    let elapsed = start.elapsed();
    let live_after = settled(listening.metrics, live_before)?;
    let half = (options.requests / 2) as f64;
    let samples = shared.resident.into_inner().unwrap_or_default();
    let late: Vec<_> = samples
        .into_iter()
        .filter(|(request, _)| *request >= half)
        .collect();
    let malformed = shared.malformed.into_inner();
    Ok(Outcome {
        valid: options.requests - malformed,
        malformed,
        wrong: shared.wrong.into_inner().unwrap_or_default(),
        wrong_count: shared.wrong_count.into_inner(),
        live_before,
        live_after,
        resident_bytes: cpu::resident_bytes(pid)? as f64,
        slope_bytes: slope(&late).unwrap_or_default(),
        elapsed,
    })
}

/// Warms up in step with the other clients, then sends requests one after the other until all clients together have sent enough.
fn converse(
    address: SocketAddr,
    pid: u32,
    seed: u64,
    requests: usize,
    in_step: &Barrier,
    shared: &Shared,
) -> Result<()> {
    let mut cases = Cases::new(seed);
    let mut client = Client::new(address);
    for _ in 0..WARM_UPS {
        for case in cases.warm_up() {
            in_step.wait();
            shared.send(&mut client, &case);
        }
    }
    in_step.wait();
    loop {
        let number = shared.taken.fetch_add(1, Ordering::Relaxed);
        if number >= requests {
            return Ok(());
        }
        let case = cases.pick();
        shared
            .malformed
            .fetch_add(usize::from(case.is_malformed()), Ordering::Relaxed);
        shared.send(&mut client, &case);
        if number.is_multiple_of(SAMPLE_EVERY) {
            let resident = cpu::resident_bytes(pid)? as f64;
            if let Ok(mut samples) = shared.resident.lock() {
                samples.push((number as f64, resident));
            }
        }
    }
}

fn live(metrics: SocketAddr) -> Result<f64> {
    let missing = || Error::protocol(format!("the server publishes no {LIVE_METRIC}"));
    Metrics::read(metrics)?.sum(LIVE_METRIC).ok_or_else(missing)
}

/// The live bytes once they are back at `expected`, or what they are when they do not come back.
fn settled(metrics: SocketAddr, expected: f64) -> Result<f64> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let now = live(metrics)?;
        if now == expected || Instant::now() > deadline {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
