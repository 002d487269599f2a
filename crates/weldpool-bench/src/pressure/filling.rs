//! The process that fills its memory up to the limit.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use weldpool::device::host::HostDevice;
use weldpool::pressure::{Level, PressureConfig, PressureEvent};
use weldpool::{Allocator, Buffer, Config, Request};

use crate::error::{Error, ErrorKind, Result};

use super::limit::{Found, enter};
use super::line::{AtLevel, Line, Outcome};
use super::{Child, Pace};

/// Buffers that are allocated together: bytes of each, and how many of them. Large ones get segments to
/// themselves, small ones stay in threads' caches when they are freed.
const BATCH: [(usize, usize); 5] = [
    (4 << 20, 1),
    (1 << 20, 2),
    (64 << 10, 16),
    (4 << 10, 64),
    (256, 64),
];
/// What the program goes on allocating and freeing while memory gets scarce, likewise.
const WORK: [(usize, usize); 3] = [(512 << 10, 2), (64 << 10, 8), (4 << 10, 64)];
/// One of so many batches is kept when the others are freed.
const KEPT: usize = 3;
/// Bytes taken at once outside of the pool.
const PIECE: usize = 1 << 20;
/// Parts of the limit that the pool fills, and that is needed in all once memory outside of it has filled.
const POOL_PART: f64 = 0.60;
const NEEDED_PART: f64 = 0.94;
/// Part of the limit by which memory outside grows in one step, and how long the slow step lasts.
const STEP_PART: f64 = 0.02;
const STEP: Duration = Duration::from_millis(400);
/// How long the program works on at the end of a phase, and between two pieces of work.
const REST: Duration = Duration::from_secs(4);
const BETWEEN_WORK: Duration = Duration::from_millis(100);

/// The configuration of the monitor: the default, unless it has to be quick.
pub(super) fn config(quick: bool) -> PressureConfig {
    let default = PressureConfig::default();
    if !quick {
        return default;
    }
    PressureConfig {
        interval: default.interval / 10,
        repeat: default.repeat / 10,
        signal_hold: default.signal_hold / 10,
        ..default
    }
}

/// Prints lines with the time since the start.
#[derive(Clone)]
struct Printer(Instant);

impl Printer {
    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    fn print(&self, line: &Line) {
        // Whoever does not listen any more does not want to know.
        if let Ok(text) = serde_json::to_string(line) {
            let mut output = std::io::stdout().lock();
            let _ = writeln!(output, "{text}");
            let _ = output.flush();
        }
    }
}

/// Fills the pool, frees most of it, and fills memory outside of the pool.
///
/// # Errors
/// `Io` or `Environment` when the group cannot be entered or read, `Process` when the allocator fails
/// otherwise than for want of memory.
pub fn child(options: &Child) -> Result<()> {
    let printer = Printer(Instant::now());
    enter(&options.group)?;
    let pressure = config(options.quick);
    let host = HostDevice::new().map_err(failed)?;
    let allocator = Allocator::builder(Arc::new(host))
        .config(Config {
            pressure: PressureConfig {
                enabled: options.monitor,
                ..pressure
            },
            ..Config::default()
        })
        .build()
        .map_err(failed)?;
    let calls = Arc::new(AtomicU64::new(0));
    if options.monitor {
        watch(&allocator, &printer, &calls)?;
    }
    let found = Found::read(&options.group)?;
    let mut filling = Filling {
        limit: found.limit.saturating_sub(found.charged),
        pace: options.pace,
        divisor: if options.quick { 10 } else { 1 },
        monitor: options.monitor,
        allocator,
        printer,
        outside: Vec::new(),
        refused: 0,
        calls,
    };
    filling.run();
    filling.end()
}

fn failed(error: weldpool::Error) -> Error {
    Error::caused(ErrorKind::Process, "the allocator", error)
}

/// Has changes of level printed and counted, once the monitor has looked for the first time.
fn watch(allocator: &Allocator, printer: &Printer, calls: &Arc<AtomicU64>) -> Result<()> {
    let monitor = allocator.pressure().map_err(failed)?;
    while monitor.stats().assessments == 0 {
        sleep(Duration::from_millis(1));
    }
    for source in monitor.sources() {
        printer.print(&Line::Source {
            name: source.name,
            mode: source.mode.name().to_owned(),
            note: source.note,
        });
    }
    let (printer, calls) = (printer.clone(), Arc::clone(calls));
    monitor
        .on_change(move |_, event| {
            calls.fetch_add(1, Ordering::Relaxed);
            printer.print(&change(&printer, event));
        })
        .map_err(failed)
}

fn change(printer: &Printer, event: &PressureEvent) -> Line {
    let assessment = &event.assessment;
    let cause = match (&assessment.signalled_by, &assessment.source) {
        (Some(name), _) => format!("signal of {name}"),
        (None, Some(name)) => name.clone(),
        (None, None) => String::new(),
    };
    Line::Change {
        s: printer.seconds(),
        from: event.from.name().to_owned(),
        to: assessment.level.name().to_owned(),
        pressure: assessment.pressure,
        cause,
        given_back_bytes: event.given_back_bytes,
    }
}

struct Filling {
    /// What may be used besides what the process has at its start.
    limit: u64,
    pace: Pace,
    divisor: u32,
    monitor: bool,
    allocator: Allocator,
    printer: Printer,
    outside: Vec<Vec<u8>>,
    refused: u64,
    calls: Arc<AtomicU64>,
}

impl Filling {
    fn run(&mut self) {
        self.phase("the pool fills");
        let mut batches = self.fill();
        self.rest();
        self.phase("two of three batches are freed, and the pool keeps memory for the next");
        let mut position = 0;
        batches.retain(|_| {
            position += 1;
            position % KEPT == 0
        });
        self.rest();
        self.phase("memory outside of the pool fills, while the pool is used");
        self.fill_outside();
        self.rest();
        self.phase("memory outside of the pool is freed");
        self.outside = Vec::new();
        self.rest();
        self.phase("the pool fills again");
        batches.clear();
        batches = self.fill();
        self.rest();
        drop(batches);
    }

    /// Allocates and writes batches up to the pool's part.
    fn fill(&mut self) -> Vec<Vec<Buffer>> {
        let goal = (self.limit as f64 * POOL_PART) as u64;
        let mut batches = Vec::new();
        while self.allocator.stats().live.value < goal && self.refused == 0 {
            batches.push(self.allocate(&BATCH));
        }
        batches
    }

    /// Allocates and writes buffers, as far as they are to be had.
    fn allocate(&mut self, sizes: &[(usize, usize)]) -> Vec<Buffer> {
        let mut buffers = Vec::new();
        for &(bytes, count) in sizes {
            for _ in 0..count {
                let request = Request::new(bytes).name("filling");
                let written = self
                    .allocator
                    .allocate_with(&request)
                    .and_then(|mut buffer| {
                        buffer.write::<u8>()?.fill(1);
                        Ok(buffer)
                    });
                match written {
                    Ok(buffer) => buffers.push(buffer),
                    Err(error) => {
                        self.refuse(error.to_string());
                        return buffers;
                    }
                }
            }
        }
        buffers
    }

    fn refuse(&mut self, error: String) {
        self.refused += 1;
        self.printer.print(&Line::Refused {
            s: self.printer.seconds(),
            error,
        });
    }

    /// One request of the program's: allocates, writes and frees.
    fn work(&mut self) {
        drop(self.allocate(&WORK));
    }

    /// Takes pieces in steps up to what is needed in all, or until one is refused.
    fn fill_outside(&mut self) {
        let room = self.limit as f64 * NEEDED_PART - self.allocator.stats().live.value as f64;
        let step = self.limit as f64 * STEP_PART;
        let steps = (room / step).max(1.0) as usize;
        for number in 1..=steps {
            let goal = (step * number as f64) as usize / PIECE;
            while self.outside.len() < goal {
                let mut piece = Vec::new();
                if let Err(error) = piece.try_reserve_exact(PIECE) {
                    self.refuse(error.to_string());
                    return;
                }
                piece.resize(PIECE, 1);
                self.outside.push(piece);
            }
            self.work();
            self.sample();
            if self.pace == Pace::Slow {
                sleep(STEP / self.divisor);
            }
        }
    }

    /// Works on for a while.
    fn rest(&mut self) {
        self.sample();
        let started = Instant::now();
        while started.elapsed() < REST / self.divisor {
            self.work();
            sleep(BETWEEN_WORK / self.divisor);
        }
        self.sample();
    }

    fn phase(&self, name: &str) {
        self.printer.print(&Line::Phase {
            s: self.printer.seconds(),
            name: name.to_owned(),
        });
    }

    fn sample(&self) {
        let pool = self.allocator.stats();
        self.printer.print(&Line::Sample {
            s: self.printer.seconds(),
            level: pool.pressure_level.name().to_owned(),
            pressure: pool.pressure,
            live_bytes: pool.live.value,
            reserved_bytes: pool.reserved.value,
            outside_bytes: (self.outside.len() * PIECE) as u64,
            given_back_bytes: pool.pressure_returned_bytes,
        });
    }

    fn end(&self) -> Result<()> {
        let stats = if self.monitor {
            self.allocator.pressure().map_err(failed)?.stats()
        } else {
            Default::default()
        };
        let levels = Level::ALL.map(|level| {
            let stats = stats.levels[level.index()];
            AtLevel {
                level: level.name().to_owned(),
                entered: stats.entered,
                s: stats.time.as_secs_f64(),
                responses: stats.responses,
                given_back_bytes: stats.given_back_bytes,
            }
        });
        self.printer.print(&Line::End(Outcome {
            s: self.printer.seconds(),
            refused: self.refused,
            given_back_bytes: stats.given_back_bytes,
            changes: stats.events,
            callbacks: self.calls.load(Ordering::Relaxed),
            resolutions: stats.resolutions.count,
            resolution_mean_s: stats.resolutions.mean().as_secs_f64(),
            resolution_max_s: stats.resolutions.max.as_secs_f64(),
            levels: levels.into(),
        }));
        Ok(())
    }
}
