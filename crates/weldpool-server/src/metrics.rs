//! The text of `/metrics`, in Prometheus's format: Triton's names for what Triton counts, and
//! `weldpool_*` for the server. The pools' are [`weldpool::prometheus`]'s; nothing else makes metric names.

use std::fmt::{self, Write};
use std::time::Duration;

use weldpool::prometheus::{self, Family, Kind, Pool};

use crate::http1::ServerStats;
use crate::service::{FailureReason, ModelHandle, StatisticsSnapshot};

/// What [`text`] reports of.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The versions that can run, with the time that loading each took.
    pub models: &'a [(ModelHandle, Duration)],
    /// Pools, which differ in their names.
    pub pools: &'a [Pool<'a>],
    /// The HTTP server's counts, if it runs.
    pub http: Option<ServerStats>,
}

/// All metrics.
#[must_use]
pub fn text(sources: &Sources<'_>) -> String {
    let mut text = String::with_capacity(8 << 10);
    // A string takes everything.
    let _infallible = write_to(&mut text, sources);
    text
}

fn write_to(text: &mut impl Write, sources: &Sources<'_>) -> fmt::Result {
    models(text, sources.models)?;
    prometheus::write_to(text, sources.pools)?;
    if let Some(http) = &sources.http {
        server(text, http)?;
    }
    machine(text)
}

fn models(text: &mut impl Write, models: &[(ModelHandle, Duration)]) -> fmt::Result {
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
        let mut family = Family::begin(text, name, Kind::Counter, help)?;
        for (model, _, all) in &models {
            family.sample(
                &[("model", model.name()), ("version", model.version())],
                read(all),
            )?;
        }
    }
    let help = "Number of failed inference requests, by reason";
    let mut failures = Family::begin(text, "nv_inference_request_failure", Kind::Counter, help)?;
    for (model, _, all) in &models {
        for reason in FailureReason::ALL {
            let labels = [
                ("model", model.name()),
                ("reason", reason.label()),
                ("version", model.version()),
            ];
            failures.sample(&labels, all.failures[reason as usize])?;
        }
    }
    let help = "Number of requests that are under way";
    let mut pending = Family::begin(
        text,
        "nv_inference_pending_request_count",
        Kind::Gauge,
        help,
    )?;
    for (model, _, all) in &models {
        pending.sample(
            &[("model", model.name()), ("version", model.version())],
            all.pending,
        )?;
    }
    let help = "Model load time in seconds";
    let mut load = Family::begin(text, "nv_model_load_duration_secs", Kind::Gauge, help)?;
    for (model, duration, _) in &models {
        let labels = [("model", model.name()), ("version", model.version())];
        load.sample(&labels, duration.as_secs_f64())?;
    }
    const QUANTILES: [(f64, &str); 3] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99")];
    let help = "From the last byte of a request to the first of its answer, less the engine's time";
    let mut overhead = Family::begin(text, "weldpool_http_overhead_us", Kind::Summary, help)?;
    for (model, _, _) in &models {
        let histogram = model.http_overhead();
        let Some(values) = histogram.quantiles(QUANTILES.map(|(part, _)| part)) else {
            continue;
        };
        let labels = [("model", model.name()), ("version", model.version())];
        for ((_, quantile), value) in QUANTILES.iter().zip(values) {
            overhead.sample(&[labels[0], labels[1], ("quantile", quantile)], us(value))?;
        }
        let (count, sum) = histogram.totals();
        overhead.suffixed("_sum", &labels, us(sum))?;
        overhead.suffixed("_count", &labels, count)?;
    }
    Ok(())
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn server(text: &mut impl Write, all: &ServerStats) -> fmt::Result {
    let metrics = [
        (
            "connections_open",
            Kind::Gauge,
            "Connections open",
            all.connections_open,
        ),
        (
            "connections_idle",
            Kind::Gauge,
            "Connections that wait for a request",
            all.connections_idle,
        ),
        (
            "connections_total",
            Kind::Counter,
            "Connections accepted",
            all.connections_accepted,
        ),
        (
            "requests_total",
            Kind::Counter,
            "Requests handled",
            all.requests,
        ),
        (
            "rejected_total",
            Kind::Counter,
            "Requests refused before routing",
            all.requests_rejected,
        ),
    ];
    for (name, kind, help, value) in metrics {
        let name = format!("weldpool_http_{name}");
        Family::begin(text, &name, kind, help)?.sample(&[], value)?;
    }
    Ok(())
}

/// Memory and load of the machine, under Triton's names. Linux only, as in Triton.
fn machine(text: &mut impl Write) -> fmt::Result {
    let Ok(meminfo) = std::fs::read_to_string("/proc/meminfo") else {
        return Ok(());
    };
    let kibibytes = |key: &str| -> Option<u64> {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    if let (Some(total), Some(available)) = (kibibytes("MemTotal"), kibibytes("MemAvailable")) {
        let used = total.saturating_sub(available);
        for (name, help, kibibytes) in [
            (
                "nv_cpu_memory_total_bytes",
                "CPU total memory (RAM), in bytes",
                total,
            ),
            (
                "nv_cpu_memory_used_bytes",
                "CPU used memory (RAM), in bytes",
                used,
            ),
        ] {
            Family::begin(text, name, Kind::Gauge, help)?.sample(&[], kibibytes * 1024)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use weldpool::Stats;

    use super::*;

    #[test]
    fn every_family_stands_once() {
        let stats = Stats::default();
        let pools = ["a", "b"].map(|name| Pool {
            name,
            stats: &stats,
            samples: None,
            classes: false,
        });
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
