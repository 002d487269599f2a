//! What a replay found.

#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::latency::Latencies;
use super::plan::Plan;
use super::{ReplayOptions, Target};
use crate::stats::Stats;

/// An allocator at a moment of a trace, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    /// The moment, in microseconds of trace time.
    pub time_us: u64,
    /// Requested and not yet freed.
    pub live_bytes: u64,
    /// In the blocks behind it.
    pub block_bytes: u64,
    /// Held from the driver and idle, or waiting for a fence.
    pub cached_bytes: u64,
    /// Held from the driver.
    pub reserved_bytes: u64,
}

impl Sample {
    pub(super) fn new(time_us: u64, live_bytes: u64, stats: &Stats) -> Self {
        Self {
            time_us,
            live_bytes,
            block_bytes: stats.block_bytes,
            cached_bytes: stats.cached_bytes.saturating_add(stats.deferred_bytes),
            reserved_bytes: stats.reserved.value,
        }
    }
}

/// Results of a replay. The field names are those of the JSON.
///
/// Times are in nanoseconds and contain driver calls, and what a device that only pretends charged
/// to its clock. `p50_ns` and `p99_ns` come from a pass that reads the clock around every call; what
/// reading it takes is measured and subtracted. `mean_ns` comes from a second pass on a fresh
/// allocator that reads the clock only every 16,384 calls; it contains the few nanoseconds that the
/// loop itself takes, and of a device that only pretends what it charged but not what its own
/// bookkeeping took. On several threads there is one pass, and the mean is that of its calls.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReplayReport {
    /// Events of the trace.
    pub events: u64,
    /// Allocations of the trace.
    pub allocs: u64,
    /// The most that was requested and not yet freed, in bytes.
    pub peak_live_bytes: u64,
    /// The most that was held from the driver, metered in the device layer, in bytes.
    pub peak_reserved_bytes: u64,
    /// `peak_reserved_bytes` / `peak_live_bytes` = 1 + internal + external waste.
    pub reserved_over_live: f64,
    /// Bytes of blocks beyond what was requested of them, as a share of that, when most is live.
    pub internal_waste: f64,
    /// What was held at most beyond the blocks in use when most is live, as a share of
    /// `peak_live_bytes`: free, but of no use to the requests that came.
    pub external_waste: f64,
    /// Driver calls that obtain or return memory.
    pub driver_calls: u64,
    /// Nanoseconds in driver calls: of a device that only pretends, those that it charged.
    pub driver_ns: u64,
    /// Segments obtained from the driver.
    pub growths: u64,
    /// Allocations served from memory already held, as a share of all.
    pub hit_rate: f64,
    /// Mean of a call.
    pub mean_ns: f64,
    /// Median of a call.
    pub p50_ns: f64,
    /// 99 of 100 calls take no longer.
    pub p99_ns: f64,
    /// Allocations that failed. If there are any, live and reserved bytes and what comes from them are
    /// those of the others alone.
    pub failures: u64,
    /// Where in the trace, and why, the first of them failed.
    pub first_failure: Option<String>,
    /// Times that an allocation had to wait for a stream.
    pub stalls: u64,
    /// Frees of memory whose allocation is not in the trace.
    pub skipped_frees: u64,
    /// Streams of the trace.
    pub streams: u64,
    /// The preset of the configuration.
    pub preset: String,
    /// The device.
    pub device: String,
    /// Threads that were used.
    pub threads: usize,
    /// The limit on reserved bytes, if any.
    pub limit: Option<u64>,
    /// Trace time that work on a stream takes.
    pub stream_latency_us: u64,
}

/// The figures of the passes.
pub(super) struct Measured<'a> {
    pub(super) stats: Stats,
    /// With one where most is live, if anything was.
    pub(super) samples: &'a [Sample],
    pub(super) peak_live_bytes: u64,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
    pub(super) stalls: u64,
    pub(super) mean_ns: f64,
}

impl ReplayReport {
    pub(super) fn new(
        measured: Measured<'_>,
        latencies: &Latencies,
        plan: &Plan,
        target: &Target,
        options: &ReplayOptions,
    ) -> Self {
        let stats = measured.stats;
        let live = measured.peak_live_bytes;
        let reserved_over_live = ratio(stats.reserved.peak, live).unwrap_or(1.0);
        let peak = measured.samples.iter().max_by_key(|one| one.live_bytes);
        let internal_waste = peak.and_then(|sample| {
            let internal = sample.block_bytes.saturating_sub(sample.live_bytes);
            ratio(internal, sample.live_bytes)
        });
        let internal_waste = internal_waste.unwrap_or(0.0);
        Self {
            events: plan.events,
            allocs: plan.allocations,
            peak_live_bytes: live,
            peak_reserved_bytes: stats.reserved.peak,
            reserved_over_live,
            internal_waste,
            external_waste: (reserved_over_live - 1.0 - internal_waste).max(0.0),
            driver_calls: stats.driver_calls,
            driver_ns: match stats.driver_charged_ns {
                0 => stats.driver_ns,
                charged => charged,
            },
            growths: stats.growths,
            hit_rate: stats.hit_rate(),
            mean_ns: measured.mean_ns,
            p50_ns: latencies.percentile_ns(50),
            p99_ns: latencies.percentile_ns(99),
            failures: measured.failures,
            first_failure: measured.first_failure,
            stalls: measured.stalls,
            skipped_frees: plan.skipped_frees,
            streams: plan.queues as u64,
            preset: target.preset.clone(),
            device: target.device.clone(),
            threads: plan.lanes,
            limit: target.limit,
            stream_latency_us: options.stream_latency_us,
        }
    }

    /// One JSON object with every field.
    #[must_use]
    pub fn to_json(&self) -> String {
        let limit = self
            .limit
            .map_or_else(|| "null".to_owned(), |bytes| bytes.to_string());
        let first_failure = self
            .first_failure
            .as_deref()
            .map_or_else(|| "null".to_owned(), quoted);
        let fields = [
            ("events", self.events.to_string()),
            ("allocs", self.allocs.to_string()),
            ("peak_live_bytes", self.peak_live_bytes.to_string()),
            ("peak_reserved_bytes", self.peak_reserved_bytes.to_string()),
            ("reserved_over_live", fraction(self.reserved_over_live)),
            ("internal_waste", fraction(self.internal_waste)),
            ("external_waste", fraction(self.external_waste)),
            ("driver_calls", self.driver_calls.to_string()),
            ("driver_ns", self.driver_ns.to_string()),
            ("growths", self.growths.to_string()),
            ("hit_rate", fraction(self.hit_rate)),
            ("mean_ns", format!("{:.1}", self.mean_ns)),
            ("p50_ns", format!("{:.1}", self.p50_ns)),
            ("p99_ns", format!("{:.1}", self.p99_ns)),
            ("failures", self.failures.to_string()),
            ("first_failure", first_failure),
            ("stalls", self.stalls.to_string()),
            ("skipped_frees", self.skipped_frees.to_string()),
            ("streams", self.streams.to_string()),
            ("preset", quoted(&self.preset)),
            ("device", quoted(&self.device)),
            ("threads", self.threads.to_string()),
            ("limit", limit),
            ("stream_latency_us", self.stream_latency_us.to_string()),
        ];
        let fields = fields.map(|(name, value)| format!("\"{name}\": {value}"));
        format!("{{{}}}", fields.join(", "))
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Six digits behind the point; never `NaN` or infinite, which JSON lacks.
fn fraction(value: f64) -> String {
    format!("{:.6}", if value.is_finite() { value } else { 0.0 })
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter < ' ' => {
                // Writing to a string cannot fail.
                let _written = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
