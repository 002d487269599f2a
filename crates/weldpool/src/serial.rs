//! `Serialize` of statistics, reports and the configuration, with the cargo feature `serde`.
//!
//! Field names are those of the structures, with units last, and do not change; derived figures
//! stand beside the fields that they come from. Durations are numbers of seconds. Where the fields are
//! all there is, `Serialize` is derived beside the structure; here is what has derived figures or other
//! names. A field that is forgotten here does not compile.

#![forbid(unsafe_code)]

use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::config::Config;
use crate::device::StorageMode;
use crate::gc::GcStats;
use crate::histogram::Histogram;
use crate::json;
use crate::name::Name;
use crate::pinned::PinnedStats;
use crate::report::Report;
use crate::stats::{ClassStats, NodeStats, Stats};

/// Serializes a structure: its fields, some as another value or under another name, then figures that
/// its methods give, without what is left out.
macro_rules! fields {
    ($serializer:expr, $this:expr => $name:ident {
        $($field:ident $(as $key:ident)? $(: $value:expr)?,)*
        $(; with $($figure:ident,)*)?
        $(; without $($skipped:ident,)*)?
    }) => {{
        let $name { $($field,)* $($($skipped: _,)*)? } = $this;
        let names = [$(stringify!($field),)* $($(stringify!($figure),)*)?];
        let mut out = $serializer.serialize_struct(stringify!($name), names.len())?;
        $(
            let (key, value) = (fields!(@or $field $($key)?), fields!(@value $field $($value)?));
            out.serialize_field(key, &value)?;
        )*
        $($(out.serialize_field(stringify!($figure), &$this.$figure())?;)*)?
        out.end()
    }};
    (@or $field:ident) => { stringify!($field) };
    (@or $field:ident $key:ident) => { stringify!($key) };
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
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

impl Serialize for ClassStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, self => ClassStats {
            bytes, allocations, hits, misses, frees, live_bytes, live_bytes_peak, held_bytes,
            held_bytes_peak,
            ; with hit_rate, efficiency, internal_waste, external_waste,
        })
    }
}

impl Serialize for NodeStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, self => NodeStats {
            number, reserved, block_bytes, free_bytes, local_allocations, remote_allocations,
            returned_blocks,
            ; with locality,
        })
    }
}

impl Serialize for GcStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, self => GcStats {
            runs, collections, given_back_bytes, time as seconds: time.as_secs_f64(), panics,
        })
    }
}

impl Serialize for PinnedStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, self => PinnedStats {
            live, live_bytes, pageable, pageable_bytes, refused, waits,
            wait_time as wait_seconds: wait_time.as_secs_f64(),
            wait_longest as wait_longest_seconds: wait_longest.as_secs_f64(), growths, growth_bytes,
            growth_time as growth_seconds: growth_time.as_secs_f64(),
            growth_longest as growth_longest_seconds: growth_longest.as_secs_f64(), growth_failures,
            growing_bytes,
            ; with pinned, pinned_bytes, pinned_share,
        })
    }
}

impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used = |class: &&ClassStats| class.allocations > 0 || class.held_bytes > 0;
        fields!(serializer, self => Stats {
            live, reserved, staging, registered, adopted, parked, limit, block_bytes, cached_bytes, deferred_bytes, allocations, frees,
            hits, misses, growths, remaps, failures, memory_failures,
            memory_failure_age: memory_failure_age.map(|age| age.as_secs_f64()), driver_calls, driver_failures, driver_ns, driver_charged_ns, segments, free_bytes, largest_free,
            classes: classes.iter().filter(used).collect::<Vec<_>>(), nodes, out_of_memory,
            out_of_memory_age: out_of_memory_age.map(|age| age.as_secs_f64()), pressure,
            pressure_level: pressure_level.name(), pressure_events, pressure_returned_bytes, gc,
            ; with hit_rate, utilisation, internal_fragmentation, external_fragmentation, internal_waste,
            external_waste, allocation_reduction,
        })
    }
}

/// `buckets` are pairs of the greatest value that a bucket holds and how many values are in it.
impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Shown {
            samples: u64,
            count: f64,
            sum: f64,
            min: Option<u64>,
            max: Option<u64>,
            p50: Option<u64>,
            p90: Option<u64>,
            p99: Option<u64>,
            buckets: Vec<(u64, f64)>,
        }
        let shown = Shown {
            samples: self.samples(),
            count: self.count(),
            sum: self.sum(),
            min: self.min(),
            max: self.max(),
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            buckets: self.buckets().collect(),
        };
        shown.serialize(serializer)
    }
}

/// Functions are left out.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fields!(serializer, self => Config {
            classes: classes.as_slice(), pooling, alignment, reserved_bytes_max,
            cached_bytes_max, segment_bytes_min, segment_bytes_max, slack_per_1024,
            driver_ns_per_operation, wait_max as wait_max_seconds: wait_max.as_secs_f64(),
            pressure as pressure_enabled: pressure.enabled, gc as gc_enabled: gc.enabled,
            strategy as has_strategy: strategy.is_some(), sample_interval_bytes, backtraces,
            debug_checks, profiling: profiling.name(),
            ; without on_leak, on_out_of_memory, stats_on_exit,
        })
    }
}

impl Stats {
    /// The statistics as JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::to_string(self)
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
