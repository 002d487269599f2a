//! The allocator of the soak, with everything on that it has, and what that did.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Subscriber;
use tracing::{Event, Metadata};
use weldpool::device::host::HostDevice;
#[cfg(target_os = "linux")]
use weldpool::device::{NumaNode, Topology, host::NumaPolicy};
use weldpool::gc::GcConfig;
use weldpool::pressure::PressureConfig;
use weldpool::prometheus::{self, Pool};
use weldpool::strategy::Adaptive;
use weldpool::{Allocator, Buffer, Config, LeakHandler, OutOfMemoryHandler, Recourse};

use super::{failed, lock};
use crate::error::Result;

/// Nodes of memory that the threads run on in turn; made up, because a machine with several is rare.
const NODES: u32 = if cfg!(target_os = "linux") { 2 } else { 1 };

/// How long a limit is lowered, or pressure signalled.
pub(super) const LIMITED: Duration = Duration::from_millis(20);
/// How often pressure is assessed when nothing of the system reports it.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    static NODE: Cell<u32> = const { Cell::new(0) };
}

/// Says on which node this thread runs from now on.
pub(super) fn run_on_node(number: usize) {
    NODE.set(
        u32::try_from(number)
            .ok()
            .and_then(|number| number.checked_rem(NODES))
            .unwrap_or_default(),
    );
}

/// What callbacks of the allocator share with the threads.
#[derive(Debug, Default)]
pub(super) struct Called {
    /// Buffers on their way to another thread. When memory is out they are given up.
    pub(super) handed_on: Mutex<VecDeque<Buffer>>,
    /// Times a callback was asked because memory was out.
    pub(super) out_of_memory: AtomicU64,
    /// Times buffers were reported that outlived the allocator.
    pub(super) leaks: AtomicU64,
    /// Changes of the level of pressure that a callback was told of.
    pub(super) levels: AtomicU64,
}

/// All that is off in the default configuration.
pub(super) fn config(called: &Arc<Called>) -> Config {
    let (asked, told) = (Arc::clone(called), Arc::clone(called));
    Config {
        gc: GcConfig::default(),
        // Shorter than by default, so that each window has many spells of pressure.
        pressure: PressureConfig {
            interval: PRESSURE_INTERVAL,
            repeat: PRESSURE_INTERVAL,
            signal_hold: PRESSURE_INTERVAL,
            ..PressureConfig::default()
        },
        strategy: Some(Arc::new(Adaptive::default())),
        on_out_of_memory: Some(OutOfMemoryHandler::new(move |_| {
            asked.out_of_memory.fetch_add(1, Ordering::Relaxed);
            let given_up = std::mem::take(&mut *lock(&asked.handed_on));
            if given_up.is_empty() {
                Recourse::GiveUp
            } else {
                Recourse::Retry
            }
        })),
        on_leak: Some(LeakHandler::new(move |_| {
            told.leaks.fetch_add(1, Ordering::Relaxed);
        })),
        // As long as a limit is lowered for; work is always in flight.
        wait_max: LIMITED,
        backtraces: true,
        debug_checks: true,
        ..Config::default()
    }
}

/// What is on, as the configuration has it.
pub(super) fn on(config: &Config) -> Value {
    json!({
        "collection": config.gc.enabled,
        "pressure_watched": config.pressure.enabled,
        "strategy": config.strategy.as_ref().map(|_| "adaptive"),
        "samples": config.sample_interval_bytes != 0,
        "backtraces": config.backtraces,
        "debug_checks": config.debug_checks,
        "out_of_memory_callback": config.on_out_of_memory.is_some(),
        "leak_handler": config.on_leak.is_some(),
        "numa_nodes_made_up": NODES,
    })
}

/// An allocator of host memory on nodes that threads say they run on.
pub(super) fn allocator(config: Config, called: &Arc<Called>) -> Result<Allocator> {
    let device = Arc::new(device().map_err(failed("opening the host"))?);
    let builder = Allocator::builder(device).config(config);
    let allocator = builder.build().map_err(failed("making an allocator"))?;
    let told = Arc::clone(called);
    let monitor = allocator.pressure().map_err(failed("watching pressure"))?;
    let registered = monitor.on_change(move |_, _| {
        told.levels.fetch_add(1, Ordering::Relaxed);
    });
    registered.map_err(failed("watching pressure"))?;
    Ok(allocator)
}

#[cfg(target_os = "linux")]
fn device() -> weldpool::Result<HostDevice> {
    let node = |number| NumaNode {
        number,
        ..NumaNode::default()
    };
    let topology = Topology::fake((0..NODES).map(node).collect(), || NODE.get());
    HostDevice::with_topology(NumaPolicy::Local, topology)
}

#[cfg(not(target_os = "linux"))]
fn device() -> weldpool::Result<HostDevice> {
    HostDevice::new()
}

/// Reads all that an allocator shows of itself; returns how many live samples had a backtrace.
pub(super) fn look(allocator: &Allocator) -> u64 {
    let report = allocator.report();
    std::hint::black_box(report.to_string());
    std::hint::black_box(allocator.dashboard().to_string());
    let (stats, samples) = (allocator.stats(), allocator.samples());
    let pool = Pool {
        name: allocator.name(),
        stats: &stats,
        samples: Some(&samples),
        classes: true,
    };
    std::hint::black_box(prometheus::text(&[pool]));
    let traced = report.live.samples.iter();
    traced.filter(|one| one.backtrace.is_some()).count() as u64
}

static LOGGED_ERRORS: AtomicU64 = AtomicU64::new(0);

/// Counts the errors that the allocator logs: counters that differ from a walk, a callback that panicked.
struct ErrorLog;

impl Subscriber for ErrorLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        LOGGED_ERRORS.fetch_add(1, Ordering::Relaxed);
        let mut text = String::new();
        event.record(&mut Fields(&mut text));
        eprintln!("error:{text}");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        let _infallible = write!(self.0, " {field}={value:?}");
    }
}

/// Has logged errors counted from now on, in the whole process.
pub(super) fn count_logged_errors() {
    // A second run in one process counts on.
    let _set_before = tracing::subscriber::set_global_default(ErrorLog);
}

/// Errors logged so far.
pub(super) fn logged_errors() -> u64 {
    LOGGED_ERRORS.load(Ordering::Relaxed)
}
