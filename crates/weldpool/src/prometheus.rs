//! Statistics in Prometheus's text format, version 0.0.4.
//!
//! Names are `weldpool_pool_*`, those that the server's `/metrics` has, with the label `pool`; what
//! belongs to a size class has `class` besides, its size in bytes, and what belongs to a node of memory
//! `node`, its number. Classes that were never used are left out, and nodes where memory is all alike.

#![forbid(unsafe_code)]

mod nodes;

use std::fmt::{self, Display, Write};

use crate::health::{Health, HealthStatus};
use crate::histogram::Histogram;
use crate::out_of_memory::RecoveryStep;
use crate::pressure::Level;
use crate::sampler::Samples;
use crate::stats::{ClassStats, Stats};

/// The media type to serve the text with.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is written of one allocator.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// Value of the label `pool`.
    pub name: &'a str,
    /// Its counters.
    pub stats: &'a Stats,
    /// Its histograms, if they are wanted.
    pub samples: Option<&'a Samples>,
}

/// The metrics of all `pools`, which differ in their names.
#[must_use]
pub fn text(pools: &[Pool<'_>]) -> String {
    let mut text = String::with_capacity(8 << 10);
    // A string takes everything.
    let _infallible = write_to(&mut text, pools);
    text
}

/// Writes the metrics of all `pools`.
///
/// # Errors
///
/// What `out` says.
pub fn write_to(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    for (name, kind, help, read) in POOLS {
        family(out, name, kind, help)?;
        for pool in pools {
            sample(out, name, "", &[("pool", pool.name)], read(pool.stats))?;
        }
    }
    limits(out, pools)?;
    health(out, pools)?;
    classes(out, pools)?;
    nodes::nodes(out, pools)?;
    levels(out, pools)?;
    recovery(out, pools)?;
    histograms(out, pools)
}

type Metric<T> = (&'static str, &'static str, &'static str, fn(&T) -> Value);

/// A number as it is written: counts exactly, ratios as floats.
enum Value {
    Count(u64),
    Float(f64),
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Float(float) if float.is_nan() => f.write_str("NaN"),
            Self::Float(float) if float.is_infinite() => {
                f.write_str(if *float > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Float(float) => write!(f, "{float}"),
        }
    }
}

const POOLS: [Metric<Stats>; 33] = {
    use Value::{Count, Float};
    [
        (
            "weldpool_pool_live_bytes",
            "gauge",
            "Bytes requested and not yet freed",
            |all| Count(all.live.value),
        ),
        (
            "weldpool_pool_live_peak_bytes",
            "gauge",
            "Highest live bytes",
            |all| Count(all.live.peak),
        ),
        (
            "weldpool_pool_requested_bytes_total",
            "counter",
            "All bytes ever requested",
            |all| Count(all.live.total),
        ),
        (
            "weldpool_pool_block_bytes",
            "gauge",
            "Bytes of the blocks behind live buffers",
            |all| Count(all.block_bytes),
        ),
        (
            "weldpool_pool_reserved_bytes",
            "gauge",
            "Bytes held from the driver",
            |all| Count(all.reserved.value),
        ),
        (
            "weldpool_pool_reserved_peak_bytes",
            "gauge",
            "Highest reserved bytes",
            |all| Count(all.reserved.peak),
        ),
        (
            "weldpool_pool_cached_bytes",
            "gauge",
            "Bytes held from the driver and idle",
            |all| Count(all.cached_bytes),
        ),
        (
            "weldpool_pool_deferred_bytes",
            "gauge",
            "Bytes of freed blocks that wait for a fence",
            |all| Count(all.deferred_bytes),
        ),
        (
            "weldpool_pool_free_bytes",
            "gauge",
            "Bytes free in arenas",
            |all| Count(all.free_bytes),
        ),
        (
            "weldpool_pool_largest_free_bytes",
            "gauge",
            "Largest free range",
            |all| Count(all.largest_free as u64),
        ),
        (
            "weldpool_pool_segments",
            "gauge",
            "Segments held from the driver",
            |all| Count(all.segments as u64),
        ),
        (
            "weldpool_pool_utilisation_ratio",
            "gauge",
            "Live / reserved",
            |all| Float(all.utilisation()),
        ),
        (
            "weldpool_pool_hit_ratio",
            "gauge",
            "Hits / (hits + misses)",
            |all| Float(all.hit_rate()),
        ),
        (
            "weldpool_pool_internal_waste_bytes",
            "gauge",
            "Bytes of blocks in use beyond what was requested",
            |all| Count(all.internal_waste()),
        ),
        (
            "weldpool_pool_external_waste_bytes",
            "gauge",
            "Bytes held from the driver that are in no user's block",
            |all| Count(all.external_waste()),
        ),
        (
            "weldpool_pool_external_fragmentation_ratio",
            "gauge",
            "1 - largest free range / all free bytes",
            |all| Float(all.external_fragmentation()),
        ),
        (
            "weldpool_pool_allocations_total",
            "counter",
            "Successful allocations",
            |all| Count(all.allocations),
        ),
        (
            "weldpool_pool_frees_total",
            "counter",
            "Buffers given back",
            |all| Count(all.frees),
        ),
        (
            "weldpool_pool_hits_total",
            "counter",
            "Allocations from memory already held",
            |all| Count(all.hits),
        ),
        (
            "weldpool_pool_misses_total",
            "counter",
            "Allocations that needed the driver",
            |all| Count(all.misses),
        ),
        (
            "weldpool_pool_growths_total",
            "counter",
            "Segments obtained",
            |all| Count(all.growths),
        ),
        (
            "weldpool_pool_remaps_total",
            "counter",
            "Times that holes were mapped together",
            |all| Count(all.remaps),
        ),
        (
            "weldpool_pool_failures_total",
            "counter",
            "Allocations that failed",
            |all| Count(all.failures),
        ),
        (
            "weldpool_pool_driver_calls_total",
            "counter",
            "Driver calls for memory",
            |all| Count(all.driver_calls),
        ),
        (
            "weldpool_pool_driver_failures_total",
            "counter",
            "Driver calls that failed",
            |all| Count(all.driver_failures),
        ),
        (
            "weldpool_pool_driver_seconds_total",
            "counter",
            "Seconds in driver calls",
            |all| Float(all.driver_ns as f64 / 1e9),
        ),
        (
            "weldpool_pool_memory_failures_total",
            "counter",
            "Allocations that failed for lack of memory or because of a limit",
            |all| Count(all.memory_failures),
        ),
        (
            "weldpool_pool_out_of_memory_total",
            "counter",
            "Allocations for which neither device nor limit allowed more memory",
            |all| Count(all.out_of_memory.events),
        ),
        (
            "weldpool_pool_pressure_ratio",
            "gauge",
            "Memory pressure from 0 to 1",
            |all| Float(all.pressure),
        ),
        (
            "weldpool_pool_pressure_events_total",
            "counter",
            "Changes of the level of pressure",
            |all| Count(all.pressure_events),
        ),
        (
            "weldpool_pool_pressure_returned_bytes_total",
            "counter",
            "Bytes that went back to the device in answer to pressure",
            |all| Count(all.pressure_returned_bytes),
        ),
        (
            "weldpool_pool_collections_total",
            "counter",
            "Times that the collecting thread had something to do",
            |all| Count(all.gc.collections),
        ),
        (
            "weldpool_pool_collected_bytes_total",
            "counter",
            "Bytes that the collecting thread gave back",
            |all| Count(all.gc.given_back_bytes),
        ),
    ]
};

const CLASSES: [Metric<ClassStats>; 8] = {
    use Value::{Count, Float};
    [
        (
            "weldpool_pool_class_allocations_total",
            "counter",
            "Allocations of the size class",
            |class| Count(class.allocations),
        ),
        (
            "weldpool_pool_class_misses_total",
            "counter",
            "Allocations of the size class that needed a new block",
            |class| Count(class.misses),
        ),
        (
            "weldpool_pool_class_live_bytes",
            "gauge",
            "Bytes requested of the size class and not yet freed",
            |class| Count(class.live_bytes),
        ),
        (
            "weldpool_pool_class_held_bytes",
            "gauge",
            "Bytes of the blocks cut for the size class",
            |class| Count(class.held_bytes),
        ),
        (
            "weldpool_pool_class_held_peak_bytes",
            "gauge",
            "Highest bytes held for the size class",
            |class| Count(class.held_bytes_peak),
        ),
        (
            "weldpool_pool_class_internal_waste_bytes",
            "gauge",
            "Bytes of blocks in use beyond what was requested",
            |class| Count(class.internal_waste()),
        ),
        (
            "weldpool_pool_class_hit_ratio",
            "gauge",
            "Hits / (hits + misses) of the size class",
            |class| Float(class.hit_rate()),
        ),
        (
            "weldpool_pool_class_efficiency_ratio",
            "gauge",
            "Hit rate x peak requested bytes / peak held bytes of the size class",
            |class| Float(class.efficiency() / 100.0),
        ),
    ]
};

fn family(out: &mut impl Write, name: &str, kind: &str, help: &str) -> fmt::Result {
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn sample(
    out: &mut impl Write,
    name: &str,
    suffix: &str,
    labels: &[(&str, &str)],
    value: Value,
) -> fmt::Result {
    write!(out, "{name}{suffix}{{")?;
    for (number, (label, value)) in labels.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        write!(out, "{comma}{label}=\"")?;
        for letter in value.chars() {
            match letter {
                '\\' => out.write_str("\\\\")?,
                '"' => out.write_str("\\\"")?,
                '\n' => out.write_str("\\n")?,
                other => out.write_char(other)?,
            }
        }
        out.write_char('"')?;
    }
    writeln!(out, "}} {value}")
}

fn limits(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let name = "weldpool_pool_limit_bytes";
    family(
        out,
        name,
        "gauge",
        "Limit on reserved bytes, where one is set",
    )?;
    for pool in pools {
        if let Some(limit) = pool.stats.limit {
            sample(out, name, "", &[("pool", pool.name)], Value::Count(limit))?;
        }
    }
    Ok(())
}

fn health(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let name = "weldpool_pool_health";
    family(
        out,
        name,
        "gauge",
        "1 for the present health status, else 0",
    )?;
    for pool in pools {
        let health = Health::of(pool.stats);
        for status in [
            HealthStatus::Healthy,
            HealthStatus::Attention,
            HealthStatus::Critical,
        ] {
            let labels = [("pool", pool.name), ("status", status.name())];
            let present = Value::Count(u64::from(status == health.status));
            sample(out, name, "", &labels, present)?;
        }
    }
    Ok(())
}

fn classes(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    for (name, kind, help, read) in CLASSES {
        family(out, name, kind, help)?;
        for pool in pools {
            let used = pool.stats.classes.iter();
            for class in used.filter(|class| class.allocations > 0) {
                let bytes = class.bytes.to_string();
                let labels = [("pool", pool.name), ("class", bytes.as_str())];
                sample(out, name, "", &labels, read(class))?;
            }
        }
    }
    Ok(())
}

fn levels(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let name = "weldpool_pool_pressure_level";
    family(
        out,
        name,
        "gauge",
        "1 for the present level of pressure, else 0",
    )?;
    for pool in pools {
        for level in Level::ALL {
            let labels = [("pool", pool.name), ("level", level.name())];
            let present = Value::Count(u64::from(level == pool.stats.pressure_level));
            sample(out, name, "", &labels, present)?;
        }
    }
    Ok(())
}

fn recovery(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let name = "weldpool_pool_recoveries_total";
    let help = "Allocations that a step let succeed after memory was out";
    family(out, name, "counter", help)?;
    for pool in pools {
        let resolved = pool.stats.out_of_memory.resolved;
        for (step, count) in RecoveryStep::ALL.into_iter().zip(resolved) {
            let labels = [("pool", pool.name), ("step", step.name())];
            sample(out, name, "", &labels, Value::Count(count))?;
        }
    }
    Ok(())
}

/// A histogram, the powers of two among which its bounds are, and what to multiply them with.
type Sampled = (
    &'static str,
    &'static str,
    fn(&Samples) -> &Histogram,
    std::ops::RangeInclusive<u32>,
    f64,
);

fn histograms(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let sampled: Vec<_> = pools
        .iter()
        .filter_map(|pool| {
            Some((
                pool.name,
                pool.samples.filter(|all| all.interval_bytes > 0)?,
            ))
        })
        .collect();
    if sampled.is_empty() {
        return Ok(());
    }
    let name = "weldpool_pool_sample_interval_bytes";
    let help = "Bytes allocated per sample of the histograms, on average";
    family(out, name, "gauge", help)?;
    for (pool, samples) in &sampled {
        let interval = Value::Count(samples.interval_bytes);
        sample(out, name, "", &[("pool", pool)], interval)?;
    }
    // Sizes by factors of 4, times by factors of 4 from 16 ns to some 18 minutes.
    let all: [Sampled; 3] = [
        (
            "weldpool_pool_allocation_size_bytes",
            "Requested bytes, estimated from samples",
            |samples| &samples.size,
            8..=36,
            1.0,
        ),
        (
            "weldpool_pool_lifetime_seconds",
            "Time from allocation to free, estimated from samples",
            |samples| &samples.lifetime_ns,
            4..=40,
            1e-9,
        ),
        (
            "weldpool_pool_allocation_latency_seconds",
            "Time that an allocation takes, estimated from samples",
            |samples| &samples.latency_ns,
            4..=30,
            1e-9,
        ),
    ];
    for (name, help, read, powers, unit) in all {
        family(out, name, "histogram", help)?;
        for (pool, samples) in &sampled {
            histogram(out, name, pool, read(samples), powers.clone(), unit)?;
        }
    }
    Ok(())
}

/// The buckets, each of which holds those before it, the sum and the count.
fn histogram(
    out: &mut impl Write,
    name: &str,
    pool: &str,
    histogram: &Histogram,
    powers: std::ops::RangeInclusive<u32>,
    unit: f64,
) -> fmt::Result {
    let whole = |weight: f64| Value::Count(weight.round() as u64);
    for power in powers.step_by(2) {
        let bound = 1_u64 << power;
        let le = Value::Float(bound as f64 * unit).to_string();
        let labels = [("pool", pool), ("le", le.as_str())];
        sample(
            out,
            name,
            "_bucket",
            &labels,
            whole(histogram.count_up_to(bound)),
        )?;
    }
    let labels = [("pool", pool), ("le", "+Inf")];
    sample(out, name, "_bucket", &labels, whole(histogram.count()))?;
    let sum = Value::Float(histogram.sum() * unit);
    sample(out, name, "_sum", &[("pool", pool)], sum)?;
    sample(
        out,
        name,
        "_count",
        &[("pool", pool)],
        whole(histogram.count()),
    )
}

#[cfg(test)]
mod tests;
