//! The text of `/metrics`, in Prometheus's format: Triton's names for what Triton counts, and
//! `weldpool_*` for the pool and the server. The only place that makes metric names.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use weldpool::Stats;

use crate::http1::ServerStats;
use crate::service::{FailureReason, ModelHandle, StatisticsSnapshot};

/// What [`text`] reports of.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The versions that can run, with the time that loading each took.
    pub models: &'a [(ModelHandle, Duration)],
    /// Pools by name.
    pub pools: &'a [(&'a str, Stats)],
    /// The HTTP server's counts, if it runs.
    pub http: Option<ServerStats>,
}

/// One metric: its name, kind and help, then a line per sample.
struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Family<'_> {
    /// Adds a sample; `labels` alternate in names and values.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        // Writing to a String cannot fail.
        let _infallible = write!(self.text, "{}{suffix}", self.name);
        for (index, (name, label)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _infallible = write!(self.text, "{before}{name}=\"{}\"", Escaped(label));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _infallible = writeln!(self.text, "{end} {value}");
    }
}

/// A label's value with backslash, quote and newline escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn family<'a>(text: &'a mut String, name: &'a str, kind: &str, help: &str) -> Family<'a> {
    let _infallible = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    Family { text, name }
}

/// All metrics.
#[must_use]
pub fn text(sources: &Sources<'_>) -> String {
    let mut text = String::with_capacity(8 << 10);
    models(&mut text, sources.models);
    pools(&mut text, sources.pools);
    if let Some(http) = &sources.http {
        server(&mut text, http);
    }
    machine(&mut text);
    text
}

fn models(text: &mut String, models: &[(ModelHandle, Duration)]) {
    type Read = fn(&StatisticsSnapshot) -> u64;
    const COUNTERS: [(&str, &str, Read); 9] = [
        (
            "nv_inference_request_success",
            "Number of successful inference requests, all batch sizes",
            |all| all.success.count,
        ),
        (
            "nv_inference_count",
            "Number of inferences performed; a batch of n counts n",
            |all| all.inferences,
        ),
        (
            "nv_inference_exec_count",
            "Number of model executions performed",
            |all| all.executions,
        ),
        (
            "nv_inference_request_duration_us",
            "Cumulative inference request duration in microseconds",
            |all| all.success.us(),
        ),
        (
            "nv_inference_queue_duration_us",
            "Cumulative inference queuing duration in microseconds",
            |all| all.queue.us(),
        ),
        (
            "nv_inference_compute_input_duration_us",
            "Cumulative compute input duration in microseconds",
            |all| all.compute_input.us(),
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "Cumulative compute inference duration in microseconds",
            |all| all.compute_infer.us(),
        ),
        (
            "nv_inference_compute_output_duration_us",
            "Cumulative compute output duration in microseconds",
            |all| all.compute_output.us(),
        ),
        (
            "weldpool_inference_fail_duration_us",
            "Cumulative duration of failed requests",
            |all| all.fail.us(),
        ),
    ];
    let models: Vec<_> = models
        .iter()
        .map(|(model, load)| (model, *load, model.statistics().snapshot()))
        .collect();
    for (name, help, read) in COUNTERS {
        let mut family = family(text, name, "counter", help);
        for (model, _, all) in &models {
            family.sample(
                &[("model", model.name()), ("version", model.version())],
                read(all),
            );
        }
    }
    let help = "Number of failed inference requests, by reason";
    let mut failures = family(text, "nv_inference_request_failure", "counter", help);
    for (model, _, all) in &models {
        for reason in FailureReason::ALL {
            let labels = [
                ("model", model.name()),
                ("reason", reason.label()),
                ("version", model.version()),
            ];
            failures.sample(&labels, all.failures[reason as usize]);
        }
    }
    let help = "Number of requests that are under way";
    let mut pending = family(text, "nv_inference_pending_request_count", "gauge", help);
    for (model, _, all) in &models {
        pending.sample(
            &[("model", model.name()), ("version", model.version())],
            all.pending,
        );
    }
    let mut load = family(
        text,
        "nv_model_load_duration_secs",
        "gauge",
        "Model load time in seconds",
    );
    for (model, duration, _) in &models {
        let labels = [("model", model.name()), ("version", model.version())];
        load.sample(&labels, duration.as_secs_f64());
    }
    const QUANTILES: [(f64, &str); 3] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99")];
    let help = "From the last byte of a request to the first of its answer, less the engine's time";
    let mut overhead = family(text, "weldpool_http_overhead_us", "summary", help);
    for (model, _, _) in &models {
        let histogram = model.http_overhead();
        let Some(values) = histogram.quantiles(QUANTILES.map(|(part, _)| part)) else {
            continue;
        };
        let labels = [("model", model.name()), ("version", model.version())];
        for ((_, quantile), value) in QUANTILES.iter().zip(values) {
            overhead.sample(&[labels[0], labels[1], ("quantile", quantile)], us(value));
        }
        let (count, sum) = histogram.totals();
        overhead.suffixed("_sum", &labels, us(sum));
        overhead.suffixed("_count", &labels, count);
    }
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn pools(text: &mut String, pools: &[(&str, Stats)]) {
    type Read = fn(&Stats) -> f64;
    const METRICS: [(&str, &str, &str, Read); 21] = [
        (
            "live_bytes",
            "gauge",
            "Bytes requested and not yet freed",
            |all| all.live.value as f64,
        ),
        ("live_peak_bytes", "gauge", "Highest live bytes", |all| {
            all.live.peak as f64
        }),
        (
            "requested_bytes_total",
            "counter",
            "All bytes ever requested",
            |all| all.live.total as f64,
        ),
        (
            "block_bytes",
            "gauge",
            "Bytes of the blocks behind live buffers",
            |all| all.block_bytes as f64,
        ),
        (
            "reserved_bytes",
            "gauge",
            "Bytes held from the driver",
            |all| all.reserved.value as f64,
        ),
        (
            "reserved_peak_bytes",
            "gauge",
            "Highest reserved bytes",
            |all| all.reserved.peak as f64,
        ),
        (
            "cached_bytes",
            "gauge",
            "Bytes held from the driver and idle",
            |all| all.cached_bytes as f64,
        ),
        (
            "deferred_bytes",
            "gauge",
            "Bytes of freed blocks that wait for a fence",
            |all| all.deferred_bytes as f64,
        ),
        ("largest_free_bytes", "gauge", "Largest free range", |all| {
            all.largest_free as f64
        }),
        (
            "segments",
            "gauge",
            "Segments held from the driver",
            |all| all.segments as f64,
        ),
        (
            "utilisation_ratio",
            "gauge",
            "Live / reserved",
            Stats::utilisation,
        ),
        (
            "hit_ratio",
            "gauge",
            "Hits / (hits + misses)",
            Stats::hit_rate,
        ),
        (
            "allocations_total",
            "counter",
            "Successful allocations",
            |all| all.allocations as f64,
        ),
        ("frees_total", "counter", "Buffers given back", |all| {
            all.frees as f64
        }),
        (
            "hits_total",
            "counter",
            "Allocations from memory already held",
            |all| all.hits as f64,
        ),
        (
            "misses_total",
            "counter",
            "Allocations that needed the driver",
            |all| all.misses as f64,
        ),
        ("growths_total", "counter", "Segments obtained", |all| {
            all.growths as f64
        }),
        (
            "failures_total",
            "counter",
            "Allocations that failed",
            |all| all.failures as f64,
        ),
        (
            "driver_calls_total",
            "counter",
            "Driver calls for memory",
            |all| all.driver_calls as f64,
        ),
        (
            "driver_failures_total",
            "counter",
            "Driver calls that failed",
            |all| all.driver_failures as f64,
        ),
        (
            "driver_seconds_total",
            "counter",
            "Seconds in driver calls",
            |all| all.driver_ns as f64 / 1e9,
        ),
    ];
    for (name, kind, help, read) in METRICS {
        let name = format!("weldpool_pool_{name}");
        let mut family = family(text, &name, kind, help);
        for (pool, stats) in pools {
            family.sample(&[("pool", pool)], read(stats));
        }
    }
}

fn server(text: &mut String, all: &ServerStats) {
    let metrics = [
        (
            "connections_open",
            "gauge",
            "Connections open",
            all.connections_open,
        ),
        (
            "connections_idle",
            "gauge",
            "Connections that wait for a request",
            all.connections_idle,
        ),
        (
            "connections_total",
            "counter",
            "Connections accepted",
            all.connections_accepted,
        ),
        (
            "requests_total",
            "counter",
            "Requests handled",
            all.requests,
        ),
        (
            "rejected_total",
            "counter",
            "Requests refused before routing",
            all.requests_rejected,
        ),
    ];
    for (name, kind, help, value) in metrics {
        family(text, &format!("weldpool_http_{name}"), kind, help).sample(&[], value);
    }
}

/// Memory and load of the machine, under Triton's names. Linux only, as in Triton.
fn machine(text: &mut String) {
    let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo") else {
        return;
    };
    let kibibytes = |key: &str| -> Option<u64> {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if let (Some(total), Some(available)) = (kibibytes("MemTotal"), kibibytes("MemAvailable")) {
        let help = "CPU total memory (RAM), in bytes";
        family(text, "nv_cpu_memory_total_bytes", "gauge", help).sample(&[], total * 1024);
        let used = total.saturating_sub(available) * 1024;
        let help = "CPU used memory (RAM), in bytes";
        family(text, "nv_cpu_memory_used_bytes", "gauge", help).sample(&[], used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = String::new();
        family(&mut text, "m", "gauge", "Help").sample(&[("a", "x\"y\\z\n"), ("b", "")], 1);
        assert_eq!(
            text,
            "# HELP m Help\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\",b=\"\"} 1\n"
        );
    }

    #[test]
    fn every_family_stands_once() {
        let pools = [("a", Stats::default()), ("b", Stats::default())];
        let sources = Sources {
            models: &[],
            pools: &pools,
            http: Some(ServerStats::default()),
        };
        let text = text(&sources);
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(
            text.contains("weldpool_pool_live_bytes{pool=\"b\"} 0\n"),
            "{text}"
        );
    }
}
