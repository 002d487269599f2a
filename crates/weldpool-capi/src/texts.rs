//! What an allocator says of itself, as texts.

#![allow(unsafe_code)]

use std::ffi::c_char;
use std::fmt::Write;

use memory::prometheus::{self, Pool};
use memory::{Allocator, DashboardOptions, ReportOptions};

use crate::abi::flags;
use crate::abi::guard::fallible;
use crate::abi::pointer::Place;
use crate::abi::text;
use crate::allocator::{self, AllocatorHandle};
use crate::failure::{ErrorObject, Result};

/// Block characters of Unicode are drawn; else everything is ASCII.
pub const WELDPOOL_DASHBOARD_UNICODE: u32 = 1;

fn say(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
    what: impl FnOnce(&Allocator) -> Result<String>,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(text, "text")?;
        text::give(&place, what(allocator::of(allocator)?)?);
        Ok(())
    })
}

/// Statistics as JSON, on one line: those of weldpool_stats_t, and those of size classes and nodes.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_stats_json(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| Ok(allocator.stats().to_json()))
}

/// The detailed report as text: statistics, health, classes, live buffers by name, arenas. It walks all live buffers.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_report(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| {
        Ok(allocator.report().text(&ReportOptions::default()))
    })
}

/// The detailed report as JSON, on one line.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_report_json(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| {
        Ok(allocator.report().to_json())
    })
}

/// The state of the allocator, drawn for a terminal of `width` characters, from 40 to 240, 0 for 80. `flags` are any of
/// WELDPOOL_DASHBOARD_*.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_dashboard(
    allocator: Option<&AllocatorHandle>,
    width: u32,
    flags: u32,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| {
        flags::check(flags, WELDPOOL_DASHBOARD_UNICODE, "a dashboard")?;
        let mut options = DashboardOptions {
            unicode: flags & WELDPOOL_DASHBOARD_UNICODE != 0,
            ..DashboardOptions::default()
        };
        if width != 0 {
            // The drawing has the bounds.
            options.width = usize::try_from(width).unwrap_or(usize::MAX);
        }
        Ok(allocator.dashboard().text(&options))
    })
}

/// Metrics in Prometheus's text format, version 0.0.4, with histograms of samples.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_prometheus(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| {
        let (stats, samples) = (allocator.stats(), allocator.samples());
        let pool = Pool {
            name: allocator.name(),
            stats: &stats,
            samples: Some(&samples),
            classes: false,
        };
        Ok(prometheus::text(&[pool]))
    })
}

/// How the allocator is doing: "healthy", "attention" or "critical" on the first line, then a line for each finding,
/// with what was seen and what to change.
///
/// Errors: INVALID_ARGUMENT. Free the text with weldpool_string_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_health(
    allocator: Option<&AllocatorHandle>,
    text: *mut *mut c_char,
) -> Option<Box<ErrorObject>> {
    say(allocator, text, |allocator| {
        let health = allocator.health();
        let mut lines = format!("{}\n", health.status);
        for finding in &health.findings {
            // A string takes everything.
            let _infallible = writeln!(
                lines,
                "{} ({}): {}; {}",
                finding.rule, finding.status, finding.seen, finding.advice
            );
        }
        Ok(lines)
    })
}
