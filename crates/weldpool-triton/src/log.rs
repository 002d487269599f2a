//! Log lines of this library and of those below it, into Triton's log.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use weldpool_triton_sys::LogLevel;

use crate::handles;

/// Whether lines for debugging are information.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Sends log lines to Triton from now on. With `verbose` those for debugging count as information.
pub(crate) fn start(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    let subscriber = tracing_subscriber::registry().with(TritonLog);
    // Fails where a host program has a subscriber already, which then gets the lines.
    drop(tracing::subscriber::set_global_default(subscriber));
}

struct TritonLog;

impl<S: Subscriber> Layer<S> for TritonLog {
    fn register_callsite(&self, metadata: &'static tracing::Metadata<'static>) -> Interest {
        match *metadata.level() {
            Level::TRACE => Interest::never(),
            // Triton's levels can be changed while it runs, so nothing is decided once for all.
            _ => Interest::sometimes(),
        }
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        level(*metadata.level()).is_some_and(handles::log_is_enabled)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let Some(level) = level(*metadata.level()) else {
            return;
        };
        let mut line = Line::default();
        event.record(&mut line);
        handles::log(
            level,
            metadata.file().unwrap_or(metadata.target()),
            metadata.line().unwrap_or_default(),
            &format!("metal_mps: {}", line.0),
        );
    }
}

/// Triton's level for one of ours; the finest lines are not for its log.
fn level(level: Level) -> Option<LogLevel> {
    match level {
        Level::ERROR => Some(LogLevel::Error),
        Level::WARN => Some(LogLevel::Warning),
        Level::INFO => Some(LogLevel::Info),
        Level::DEBUG if VERBOSE.load(Ordering::Relaxed) => Some(LogLevel::Info),
        Level::DEBUG => Some(LogLevel::Verbose),
        Level::TRACE => None,
    }
}

/// The message of an event, then its fields.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            let rest = std::mem::take(&mut self.0);
            write!(self.0, "{value:?}{rest}")
        } else {
            write!(self.0, ", {} {value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
