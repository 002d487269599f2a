//! Statistics in Prometheus's text format, version 0.0.4.
//!
//! Names are `weldpool_pool_*`, those that the server's `/metrics` has, with the label `pool`; what
//! belongs to a size class has `class` besides, its size in bytes, and what belongs to a node of memory
//! `node`, its number. Classes that were never used are left out, and the server leaves out all of
//! them; so are nodes where memory is all alike. Pools of pinned memory are `weldpool_pinned_*`
//! ([`pinned`]), copiers `weldpool_copier_*` ([`copies`]).

#![forbid(unsafe_code)]

mod family;
#[macro_use]
mod table;
mod copies;
mod nodes;
mod pinned;

use std::fmt::{self, Write};

use crate::health::{Health, HealthStatus};
use crate::histogram::Histogram;
use crate::out_of_memory::RecoveryStep;
use crate::pressure::Level;
use crate::sampler::Samples;
use crate::stats::{ClassStats, Stats};

pub use self::copies::{copies, write_copies_to};
pub use self::family::{Family, Kind, Value};
pub use self::pinned::{pinned, write_pinned_to};
use self::table::Metric;

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
    /// Whether its size classes are written: nine lines for each that was ever used, of which the fine
    /// preset has hundreds.
    pub classes: bool,
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
    for metric in POOLS {
        let mut family = Family::begin(out, metric.name, metric.kind, metric.help)?;
        for pool in pools {
            family.sample(&[("pool", pool.name)], (metric.read)(pool.stats))?;
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

/// One figure of an allocator, for programs that publish metrics by a library of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Figure {
    /// The metric's name.
    pub name: &'static str,
    /// What its values are: counters and gauges alone.
    pub kind: Kind,
    /// What it says, in one line.
    pub help: &'static str,
    /// Its value.
    pub value: Value,
}

/// The figures of an allocator as [`text`] writes them, without those of classes and nodes, of which there
/// are more or fewer, and without histograms. Always the same ones, in the same order; where no limit is
/// set it is 0.
pub fn figures(stats: &Stats) -> impl Iterator<Item = Figure> {
    let limit = Figure {
        name: LIMIT.0,
        kind: Kind::Gauge,
        help: LIMIT.1,
        value: Value::Count(stats.limit.unwrap_or_default()),
    };
    let pools = POOLS.iter().map(|metric| Figure {
        name: metric.name,
        kind: metric.kind,
        help: metric.help,
        value: (metric.read)(stats),
    });
    pools.chain([limit])
}

/// Name and help of the limit, which a pool may lack.
const LIMIT: (&str, &str) = (
    "weldpool_pool_limit_bytes",
    "Limit on reserved bytes, where one is set",
);

const POOLS: &[Metric<Stats>] = metrics! { "weldpool_pool_":
    "live_bytes", Gauge, "Bytes requested and not yet freed", |all| all.live.value;
    "live_peak_bytes", Gauge, "Highest live bytes", |all| all.live.peak;
    "allocated_bytes_total", Counter, "Bytes of all blocks ever handed out", |all| all.live.total;
    "block_bytes", Gauge, "Bytes of the blocks behind live buffers", |all| all.block_bytes;
    "reserved_bytes", Gauge, "Bytes held from the driver", |all| all.reserved.value;
    "reserved_peak_bytes", Gauge, "Highest reserved bytes", |all| all.reserved.peak;
    "staging_bytes", Gauge, "Bytes held besides for copies to go through", |all| all.staging.value;
    "staging_peak_bytes", Gauge, "Highest staging bytes", |all| all.staging.peak;
    "registered_bytes", Gauge, "Bytes of others' memory that the device knows", |all| all.registered.value;
    "adopted_wrapped_bytes_total", Counter, "Bytes of adopted memory that is used where it is",
        |all| all.adopted.wrapped_bytes;
    "adopted_copied_bytes_total", Counter, "Bytes of adopted memory that was copied", |all| all.adopted.copied_bytes;
    "parked_bytes", Gauge, "Bytes of empty segments that the system may take", |all| all.parked.value;
    "cached_bytes", Gauge, "Bytes held from the driver and idle", |all| all.cached_bytes;
    "deferred_bytes", Gauge, "Bytes of freed blocks that wait for a fence",
        |all| all.deferred_bytes;
    "free_bytes", Gauge, "Bytes free in arenas", |all| all.free_bytes;
    "largest_free_bytes", Gauge, "Largest free range", |all| all.largest_free as u64;
    "segments", Gauge, "Segments held from the driver", |all| all.segments as u64;
    "utilisation_ratio", Gauge, "Live / reserved", |all| all.utilisation();
    "hit_ratio", Gauge, "Hits / (hits + misses)", |all| all.hit_rate();
    "internal_waste_bytes", Gauge, "Bytes of blocks in use beyond what was requested",
        |all| all.internal_waste();
    "external_waste_bytes", Gauge, "Bytes held from the driver that are in no user's block",
        |all| all.external_waste();
    "external_fragmentation_ratio", Gauge, "1 - largest free range / all free bytes",
        |all| all.external_fragmentation();
    "allocations_total", Counter, "Successful allocations", |all| all.allocations;
    "frees_total", Counter, "Buffers given back", |all| all.frees;
    "hits_total", Counter, "Allocations from memory already held", |all| all.hits;
    "misses_total", Counter, "Allocations that needed the driver", |all| all.misses;
    "growths_total", Counter, "Segments obtained", |all| all.growths;
    "remaps_total", Counter, "Times that holes were mapped together", |all| all.remaps;
    "failures_total", Counter, "Allocations that failed", |all| all.failures;
    "driver_calls_total", Counter, "Driver calls for memory", |all| all.driver_calls;
    "driver_failures_total", Counter, "Driver calls that failed", |all| all.driver_failures;
    "driver_seconds_total", Counter, "Seconds in driver calls", |all| all.driver_ns as f64 / 1e9;
    "memory_failures_total", Counter, "Allocations that failed for lack of memory or because of a limit",
        |all| all.memory_failures;
    "out_of_memory_total", Counter, "Allocations for which neither device nor limit allowed more memory",
        |all| all.out_of_memory.events;
    "pressure_ratio", Gauge, "Memory pressure from 0 to 1", |all| all.pressure;
    "pressure_events_total", Counter, "Changes of the level of pressure", |all| all.pressure_events;
    "pressure_returned_bytes_total", Counter, "Bytes that went back to the device in answer to pressure",
        |all| all.pressure_returned_bytes;
    "collections_total", Counter, "Times that the collecting thread had something to do",
        |all| all.gc.collections;
    "collected_bytes_total", Counter, "Bytes that the collecting thread gave back",
        |all| all.gc.given_back_bytes;
};

const CLASSES: &[Metric<ClassStats>] = metrics! { "weldpool_pool_":
    "class_allocations_total", Counter, "Allocations of the size class", |class| class.allocations;
    "class_misses_total", Counter, "Allocations of the size class that needed the driver",
        |class| class.misses;
    "class_live_bytes", Gauge, "Bytes requested of the size class and not yet freed",
        |class| class.live_bytes;
    "class_held_bytes", Gauge, "Bytes of the blocks cut for the size class",
        |class| class.held_bytes;
    "class_held_peak_bytes", Gauge, "Highest bytes held for the size class",
        |class| class.held_bytes_peak;
    "class_internal_waste_bytes", Gauge, "Bytes of blocks in use beyond what was requested",
        |class| class.internal_waste();
    "class_external_waste_bytes", Gauge, "Bytes of the blocks of the size class that are in no use",
        |class| class.external_waste();
    "class_hit_ratio", Gauge, "Hits / (hits + misses) of the size class", |class| class.hit_rate();
    "class_efficiency_ratio", Gauge, "Hit rate x peak requested bytes / peak held bytes of the size class",
        |class| class.efficiency() / 100.0;
};

fn limits(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let (name, help) = LIMIT;
    let mut family = Family::begin(out, name, Kind::Gauge, help)?;
    for pool in pools {
        if let Some(limit) = pool.stats.limit {
            family.sample(&[("pool", pool.name)], limit)?;
        }
    }
    Ok(())
}

/// What is in one of several states: 1 for the present one, else 0.
fn states<T: Copy + PartialEq>(
    out: &mut impl Write,
    pools: &[Pool<'_>],
    (name, label, help): (&str, &str, &str),
    states: impl IntoIterator<Item = (T, &'static str)> + Clone,
    present: impl Fn(&Stats) -> T,
) -> fmt::Result {
    let mut family = Family::begin(out, name, Kind::Gauge, help)?;
    for pool in pools {
        let present = present(pool.stats);
        for (state, text) in states.clone() {
            let labels = [("pool", pool.name), (label, text)];
            family.sample(&labels, u64::from(state == present))?;
        }
    }
    Ok(())
}

fn health(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let help = "1 for the present health status, else 0";
    let all = [
        HealthStatus::Healthy,
        HealthStatus::Attention,
        HealthStatus::Critical,
    ];
    let all = all.map(|status| (status, status.name()));
    let metric = ("weldpool_pool_health", "status", help);
    states(out, pools, metric, all, |stats| Health::of(stats).status)
}

fn levels(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let help = "1 for the present level of pressure, else 0";
    let all = Level::ALL.map(|level| (level, level.name()));
    let metric = ("weldpool_pool_pressure_level", "level", help);
    states(out, pools, metric, all, |stats| stats.pressure_level)
}

fn classes(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    for metric in CLASSES {
        let mut family = Family::begin(out, metric.name, metric.kind, metric.help)?;
        for pool in pools.iter().filter(|pool| pool.classes) {
            let used = pool.stats.classes.iter();
            for class in used.filter(|class| class.allocations > 0) {
                let bytes = class.bytes.to_string();
                let labels = [("pool", pool.name), ("class", bytes.as_str())];
                family.sample(&labels, (metric.read)(class))?;
            }
        }
    }
    Ok(())
}

fn recovery(out: &mut impl Write, pools: &[Pool<'_>]) -> fmt::Result {
    let name = "weldpool_pool_recoveries_total";
    let help = "Allocations that a step let succeed after memory was out";
    let mut family = Family::begin(out, name, Kind::Counter, help)?;
    for pool in pools {
        let resolved = pool.stats.out_of_memory.resolved;
        for (step, count) in RecoveryStep::ALL.into_iter().zip(resolved) {
            family.sample(&[("pool", pool.name), ("step", step.name())], count)?;
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
    let mut family = Family::begin(out, name, Kind::Gauge, help)?;
    for (pool, samples) in &sampled {
        family.sample(&[("pool", pool)], samples.interval_bytes)?;
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
        let mut family = Family::begin(out, name, Kind::Histogram, help)?;
        for (pool, samples) in &sampled {
            histogram(&mut family, pool, read(samples), powers.clone(), unit)?;
        }
    }
    Ok(())
}

/// The buckets, each of which holds those before it, the sum and the count.
fn histogram<W: Write>(
    family: &mut Family<'_, W>,
    pool: &str,
    histogram: &Histogram,
    powers: std::ops::RangeInclusive<u32>,
    unit: f64,
) -> fmt::Result {
    let whole = |weight: f64| weight.round() as u64;
    for power in powers.step_by(2) {
        let bound = 1_u64 << power;
        let le = Value::Float(bound as f64 * unit).to_string();
        let labels = [("pool", pool), ("le", le.as_str())];
        family.suffixed("_bucket", &labels, whole(histogram.count_up_to(bound)))?;
    }
    let labels = [("pool", pool), ("le", "+Inf")];
    family.suffixed("_bucket", &labels, whole(histogram.count()))?;
    family.suffixed("_sum", &[("pool", pool)], histogram.sum() * unit)?;
    family.suffixed("_count", &[("pool", pool)], whole(histogram.count()))
}

#[cfg(test)]
mod tests;
