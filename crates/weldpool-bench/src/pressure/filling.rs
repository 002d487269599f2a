//! The process that fills its memory up to the limit.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use weldpool::pressure::{
    Actions, Gauge, Level, PressureConfig, PressureEvent, PressureMonitor, Responder, Step, Usage,
};
use weldpool::{Allocator, Request};

use crate::error::{Error, ErrorKind, Result};

use super::Child;
use super::limit::{address_space, charged, enter, limit_address_space};
use super::line::{Line, Outcome};

/// Bytes taken at once.
const PIECE: usize = 1 << 20;
/// Parts of the limit that the pool, and then memory outside of it, takes. Address space is taken in whole
/// segments, pages are charged to a group one by one, which lets the pool come closer to the limit.
const POOL_PART_ADDRESS_SPACE: f64 = 0.95;
const POOL_PART_GROUP: f64 = 0.98;
const OUTSIDE_PART: f64 = 0.85;
/// Part of the limit by which memory grows in one step, and how long the step lasts.
const STEP_PART: f64 = 0.02;
const STEP: Duration = Duration::from_millis(400);
/// How long things stay as they are between the phases.
const REST: Duration = Duration::from_secs(4);

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

/// Gives back what is idle, and says so.
struct GiveBack {
    allocator: Allocator,
    printer: Printer,
}

impl Responder for GiveBack {
    fn respond(&self, level: Level, actions: Actions) -> u64 {
        let give_back =
            actions.contains(Step::TrimEmptySegments) || actions.contains(Step::ReturnIdle);
        if !give_back {
            return 0;
        }
        let bytes = self.allocator.clear() as u64;
        if bytes > 0 {
            self.printer.print(&Line::GaveBack {
                s: self.printer.seconds(),
                level: level.name().to_owned(),
                bytes,
            });
        }
        bytes
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

/// Fills, frees, and fills outside of the pool.
///
/// # Errors
/// `Io` or `Environment` when the limit cannot be set, `Process` when the allocator fails otherwise.
pub fn child(options: &Child) -> Result<()> {
    let printer = Printer(Instant::now());
    if let Some(group) = &options.group {
        enter(group)?;
    }
    let allocator = Allocator::host().map_err(failed)?;
    // No limit on address space is known before the threads have theirs.
    let base = Arc::new(AtomicU64::new(u64::MAX));
    let monitor = start_monitor(options, &allocator, &base, &printer)?;
    while monitor.is_running() && monitor.stats().assessments == 0 {
        sleep(Duration::from_millis(1));
    }
    let used = match &options.group {
        Some(group) => charged(group)?,
        None => {
            let used = address_space()?;
            limit_address_space(used.saturating_add(options.limit_bytes))?;
            base.store(used, Ordering::Release);
            0
        }
    };
    for source in monitor.sources() {
        printer.print(&Line::Source {
            name: source.name,
            mode: source.mode.name().to_owned(),
            note: source.note,
        });
    }
    let mut filling = Filling {
        available: options.limit_bytes.saturating_sub(used),
        pool_part: match options.group {
            Some(_) => POOL_PART_GROUP,
            None => POOL_PART_ADDRESS_SPACE,
        },
        pace: if options.quick { 10 } else { 1 },
        allocator,
        monitor,
        printer,
        outside: Vec::new(),
        refused: 0,
    };
    filling.run();
    filling.end();
    Ok(())
}

fn failed(error: weldpool::Error) -> Error {
    Error::caused(ErrorKind::Process, "the allocator", error)
}

fn start_monitor(
    options: &Child,
    allocator: &Allocator,
    base: &Arc<AtomicU64>,
    printer: &Printer,
) -> Result<PressureMonitor> {
    let (base, limit) = (Arc::clone(base), options.limit_bytes);
    let address_space = Gauge::new("address space", move || {
        let base = base.load(Ordering::Acquire);
        (base < u64::MAX).then(|| Usage {
            used: address_space().unwrap_or(0).saturating_sub(base),
            limit,
        })
    });
    let printer = printer.clone();
    let builder = PressureMonitor::builder()
        .config(PressureConfig {
            enabled: options.monitor,
            ..config(options.quick)
        })
        .system_sources()
        .responder(Arc::new(GiveBack {
            allocator: allocator.clone(),
            printer: printer.clone(),
        }))
        .on_change(move |_, event| printer.print(&change(&printer, event)));
    let builder = if options.group.is_none() {
        builder.source(address_space)
    } else {
        builder
    };
    builder.start().map_err(failed)
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
    available: u64,
    pool_part: f64,
    pace: u32,
    allocator: Allocator,
    monitor: PressureMonitor,
    printer: Printer,
    outside: Vec<Vec<u8>>,
    refused: u64,
}

impl Filling {
    fn run(&mut self) {
        self.phase("the pool fills");
        let mut buffers = Vec::new();
        self.ramp(self.pool_part, |filling| {
            let request = Request::new(PIECE).name("filling");
            let mut buffer = filling
                .allocator
                .allocate_with(&request)
                .map_err(|error| error.to_string())?;
            let mut guard = buffer.write::<u8>().map_err(|error| error.to_string())?;
            guard.fill(1);
            drop(guard);
            buffers.push(buffer);
            Ok(())
        });
        self.rest();
        self.phase("the pool's buffers are freed and it keeps their memory");
        drop(buffers);
        self.rest();
        self.phase("memory outside of the pool fills");
        self.ramp(OUTSIDE_PART, |filling| {
            let mut piece = Vec::new();
            piece
                .try_reserve_exact(PIECE)
                .map_err(|error| error.to_string())?;
            piece.resize(PIECE, 1);
            filling.outside.push(piece);
            Ok(())
        });
        self.rest();
        self.phase("all is freed");
        self.outside = Vec::new();
        self.rest();
    }

    /// Takes pieces in steps up to a part of what is available, or until one is refused.
    fn ramp(
        &mut self,
        part: f64,
        mut take: impl FnMut(&mut Self) -> std::result::Result<(), String>,
    ) {
        let steps = (part / STEP_PART).round() as u32;
        let mut taken = 0_u64;
        for step in 1..=steps {
            let share = part * f64::from(step) / f64::from(steps);
            let goal = (self.available as f64 * share) as u64 / PIECE as u64;
            while taken < goal {
                if let Err(error) = take(self) {
                    self.refused += 1;
                    self.printer.print(&Line::Refused {
                        s: self.printer.seconds(),
                        error,
                    });
                    return;
                }
                taken += 1;
            }
            self.sample();
            sleep(STEP / self.pace);
        }
    }

    fn rest(&self) {
        self.sample();
        sleep(REST / self.pace);
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
        let stats = self.monitor.stats();
        self.printer.print(&Line::Sample {
            s: self.printer.seconds(),
            level: stats.level.name().to_owned(),
            pressure: stats.pressure,
            live_bytes: pool.live.value,
            reserved_bytes: pool.reserved.value,
            outside_bytes: (self.outside.len() * PIECE) as u64,
        });
    }

    fn end(&self) {
        let stats = self.monitor.stats();
        self.printer.print(&Line::End(Outcome {
            s: self.printer.seconds(),
            refused: self.refused,
            given_back_bytes: stats.given_back_bytes,
            events: stats.events,
            resolutions: stats.resolutions.count,
            resolution_mean_s: stats.resolutions.mean().as_secs_f64(),
        }));
    }
}
