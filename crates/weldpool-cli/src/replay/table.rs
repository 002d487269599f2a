//! Results as a table.

use weldpool::trace::ReplayReport;

use super::Options;
use super::target::Target;

/// What was replayed on, and the columns' names.
pub(crate) fn heading(target: &Target, options: &Options) -> String {
    let limit = match target.config.reserved_bytes_max {
        Some(bytes) => size(bytes),
        None => "none".to_owned(),
    };
    format!(
        "device {}, preset {}, threads {}, stream latency {} us, limit {limit}\n\n\
         {:<18} {:>9} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9} {:>6} {:>6}",
        target.device,
        target.summary(),
        options.threads,
        options.stream_latency_us,
        "TRACE",
        "EVENTS",
        "ALLOCS",
        "LIVE",
        "RESERVED",
        "RATIO",
        "INTERNAL",
        "EXTERNAL",
        "CALLS",
        "HITS",
        "MEAN",
        "P50",
        "P99",
        "FAIL",
        "STALLS",
    )
}

/// One trace's results. Failures, and a ratio that covers only a part of the trace, have a mark.
pub(crate) fn row(name: &str, report: &ReplayReport) -> String {
    let mark = if report.failures > 0 { "!" } else { "" };
    let ratio = format!("{:.4}{mark}", report.reserved_over_live);
    let failures = format!("{}{mark}", report.failures);
    format!(
        "{:<18} {:>9} {:>9} {:>10} {:>10} {:>8} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8} {:>9} {:>6} {:>6}",
        name,
        report.events,
        report.allocs,
        size(report.peak_live_bytes),
        size(report.peak_reserved_bytes),
        ratio,
        percent(report.internal_waste),
        percent(report.external_waste),
        report.driver_calls,
        percent(report.hit_rate),
        time(report.mean_ns),
        time(report.p50_ns),
        time(report.p99_ns),
        failures,
        report.stalls,
    )
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn time(ns: f64) -> String {
    if ns < 10_000.0 {
        format!("{ns:.0} ns")
    } else if ns < 10_000_000.0 {
        format!("{:.0} us", ns / 1e3)
    } else {
        format!("{:.0} ms", ns / 1e6)
    }
}

/// Bytes in the largest unit that keeps three digits.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.2} {unit}", bytes as f64 / (1_u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}
