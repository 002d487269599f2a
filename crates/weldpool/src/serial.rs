//! `Serialize` of statistics, reports and the configuration, with the cargo feature `serde`.
//!
//! Field names are those of the structures, with units last, and do not change; derived figures
//! stand beside the fields that they come from. Durations are numbers of seconds. Written by hand
//! where the structure alone would leave the derived figures out; a field that is forgotten here does
//! not compile.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::config::Config;
use crate::device::StorageMode;
use crate::gc::GcStats;
use crate::histogram::Histogram;
use crate::json;
use crate::name::Name;
use crate::out_of_memory::OutOfMemoryStats;
use crate::report::Report;
use crate::sampler::Samples;
use crate::size_class::SizeClass;
use crate::stats::{ClassStats, Counter, NodeStats, Stats};

/// Serializes a structure field by field.
macro_rules! fields {
    ($serializer:expr, $name:literal, { $($field:literal: $value:expr,)* }) => {{
        let count = [$($field),*].len();
        let mut out = $serializer.serialize_struct($name, count)?;
        $(out.serialize_field($field, &$value)?;)*
        out.end()
    }};
}

/// A duration in seconds.
pub(crate) fn seconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Serialize for StorageMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { value, peak, total } = self;
        fields!(serializer, "Counter", {
            "value": value,
            "peak": peak,
            "total": total,
        })
    }
}

impl Serialize for ClassStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            bytes,
            allocations,
            hits,
            misses,
            frees,
            live_bytes,
            live_bytes_peak,
            held_bytes,
            held_bytes_peak,
        } = self;
        fields!(serializer, "ClassStats", {
            "bytes": bytes,
            "allocations": allocations,
            "hits": hits,
            "misses": misses,
            "frees": frees,
            "live_bytes": live_bytes,
            "live_bytes_peak": live_bytes_peak,
            "held_bytes": held_bytes,
            "held_bytes_peak": held_bytes_peak,
            "hit_rate": self.hit_rate(),
            "efficiency": self.efficiency(),
            "internal_waste": self.internal_waste(),
            "external_waste": self.external_waste(),
        })
    }
}

impl Serialize for NodeStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            number,
            reserved,
            block_bytes,
            free_bytes,
            local_allocations,
            remote_allocations,
            returned_blocks,
        } = self;
        fields!(serializer, "NodeStats", {
            "number": number,
            "reserved": reserved,
            "block_bytes": block_bytes,
            "free_bytes": free_bytes,
            "local_allocations": local_allocations,
            "remote_allocations": remote_allocations,
            "returned_blocks": returned_blocks,
            "locality": self.locality(),
        })
    }
}

impl Serialize for OutOfMemoryStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            events,
            taken,
            resolved,
            failed,
            callback_panics,
        } = self;
        fields!(serializer, "OutOfMemoryStats", {
            "events": events,
            "taken": taken,
            "resolved": resolved,
            "failed": failed,
            "callback_panics": callback_panics,
        })
    }
}

impl Serialize for GcStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            runs,
            collections,
            given_back_bytes,
            time,
            panics,
        } = self;
        fields!(serializer, "GcStats", {
            "runs": runs,
            "collections": collections,
            "given_back_bytes": given_back_bytes,
            "seconds": time.as_secs_f64(),
            "panics": panics,
        })
    }
}

impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            live,
            reserved,
            limit,
            block_bytes,
            cached_bytes,
            deferred_bytes,
            allocations,
            frees,
            hits,
            misses,
            growths,
            remaps,
            failures,
            memory_failures,
            driver_calls,
            driver_failures,
            driver_ns,
            driver_charged_ns,
            segments,
            free_bytes,
            largest_free,
            classes,
            nodes,
            out_of_memory,
            pressure,
            pressure_level,
            pressure_events,
            pressure_returned_bytes,
            gc,
        } = self;
        let used = |class: &&ClassStats| class.allocations > 0 || class.held_bytes > 0;
        let classes: Vec<_> = classes.iter().filter(used).collect();
        fields!(serializer, "Stats", {
            "live": live,
            "reserved": reserved,
            "limit": limit,
            "block_bytes": block_bytes,
            "cached_bytes": cached_bytes,
            "deferred_bytes": deferred_bytes,
            "allocations": allocations,
            "frees": frees,
            "hits": hits,
            "misses": misses,
            "growths": growths,
            "remaps": remaps,
            "failures": failures,
            "memory_failures": memory_failures,
            "driver_calls": driver_calls,
            "driver_failures": driver_failures,
            "driver_ns": driver_ns,
            "driver_charged_ns": driver_charged_ns,
            "segments": segments,
            "free_bytes": free_bytes,
            "largest_free": largest_free,
            "hit_rate": self.hit_rate(),
            "utilisation": self.utilisation(),
            "internal_fragmentation": self.internal_fragmentation(),
            "external_fragmentation": self.external_fragmentation(),
            "internal_waste": self.internal_waste(),
            "external_waste": self.external_waste(),
            "allocation_reduction": self.allocation_reduction(),
            "classes": classes,
            "nodes": nodes,
            "out_of_memory": out_of_memory,
            "pressure": pressure,
            "pressure_level": pressure_level.name(),
            "pressure_events": pressure_events,
            "pressure_returned_bytes": pressure_returned_bytes,
            "gc": gc,
        })
    }
}

/// `buckets` are pairs of the greatest value that a bucket holds and how many values are in it.
impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets: Vec<(u64, f64)> = self.buckets().collect();
        fields!(serializer, "Histogram", {
            "samples": self.samples(),
            "count": self.count(),
            "sum": self.sum(),
            "min": self.min(),
            "max": self.max(),
            "p50": self.quantile(0.5),
            "p90": self.quantile(0.9),
            "p99": self.quantile(0.99),
            "buckets": buckets,
        })
    }
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            interval_bytes,
            counted_bytes_max,
            taken,
            live,
            untracked,
            size,
            lifetime_ns,
            latency_ns,
        } = self;
        fields!(serializer, "Samples", {
            "interval_bytes": interval_bytes,
            "counted_bytes_max": counted_bytes_max,
            "taken": taken,
            "live": live,
            "untracked": untracked,
            "size": size,
            "lifetime_ns": lifetime_ns,
            "latency_ns": latency_ns,
        })
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            allocator,
            stats,
            health,
            live,
            arenas,
            samples,
        } = self;
        fields!(serializer, "Report", {
            "allocator": allocator,
            "stats": stats,
            "health": health,
            "live": live,
            "arenas": arenas,
            "samples": samples,
        })
    }
}

impl Serialize for SizeClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            bytes,
            initial,
            cached_max,
            thread_max,
        } = self;
        fields!(serializer, "SizeClass", {
            "bytes": bytes,
            "initial": initial,
            "cached_max": cached_max,
            "thread_max": thread_max,
        })
    }
}

/// Functions are left out.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            classes,
            pooling,
            alignment,
            reserved_bytes_max,
            cached_bytes_max,
            segment_bytes_min,
            segment_bytes_max,
            slack_per_1024,
            driver_ns_per_operation,
            wait_max,
            on_leak: _,
            pressure,
            gc,
            on_out_of_memory: _,
            strategy,
            sample_interval_bytes,
            backtraces,
            debug_checks,
            stats_on_exit: _,
        } = self;
        fields!(serializer, "Config", {
            "classes": classes.as_slice(),
            "pooling": pooling,
            "alignment": alignment,
            "reserved_bytes_max": reserved_bytes_max,
            "cached_bytes_max": cached_bytes_max,
            "segment_bytes_min": segment_bytes_min,
            "segment_bytes_max": segment_bytes_max,
            "slack_per_1024": slack_per_1024,
            "driver_ns_per_operation": driver_ns_per_operation,
            "wait_max_seconds": wait_max.as_secs_f64(),
            "pressure_enabled": pressure.enabled,
            "gc_enabled": gc.enabled,
            "has_strategy": strategy.is_some(),
            "sample_interval_bytes": sample_interval_bytes,
            "backtraces": backtraces,
            "debug_checks": debug_checks,
        })
    }
}

impl Report {
    /// The report as JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_carry_their_fields_and_what_comes_from_them() {
        let stats = Stats {
            hits: 905,
            misses: 95,
            classes: vec![
                ClassStats::default(),
                ClassStats {
                    bytes: 512,
                    allocations: 2,
                    frees: 1,
                    live_bytes: 500,
                    held_bytes: 1024,
                    ..ClassStats::default()
                },
            ],
            ..Stats::default()
        };
        let value = serde_json::to_value(&stats).unwrap();
        assert_eq!(value["hit_rate"], 0.905);
        assert_eq!(value["reserved"]["peak"], 0);
        assert_eq!(value["limit"], serde_json::Value::Null);
        let classes = value["classes"].as_array().unwrap();
        assert_eq!(classes.len(), 1, "unused classes are left out");
        assert_eq!(classes[0]["internal_waste"], 12);
        assert_eq!(classes[0]["external_waste"], 512);
    }

    #[test]
    fn a_report_and_a_configuration_are_json() {
        let mut report = Report::default();
        report.samples.size.record(300, 2.0);
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(value["health"]["status"], "healthy");
        assert_eq!(value["samples"]["size"]["buckets"][0][0], 320);
        assert_eq!(value["samples"]["size"]["count"], 2.0);
        let value = serde_json::to_value(Config::default()).unwrap();
        assert_eq!(value["wait_max_seconds"], 1.0);
        assert_eq!(value["classes"][0]["bytes"], 256);
    }
}
