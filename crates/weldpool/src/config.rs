//! Configuration of an allocator, validated once.

use std::fmt;
use std::time::Duration;

use crate::env::StatsOnExit;
use crate::error::{Error, ErrorKind, Result};
use crate::gc::GcConfig;
use crate::out_of_memory::OutOfMemoryHandler;
use crate::pressure::PressureConfig;
use crate::profiling::Profiling;
use crate::report::LeakReport;
use crate::request::{ALIGNMENT_MAX, DEFAULT_ALIGNMENT};
use crate::size_class::SizeClasses;
use crate::strategy::Strategy;
use crate::sync::Arc;

/// Range of the sampling interval in bytes.
const SAMPLE_INTERVAL_MIN: usize = 4 << 10;
const SAMPLE_INTERVAL_MAX: usize = 1 << 40;

/// Called with the buffers that are still alive when the last handle of an allocator is dropped.
#[derive(Clone)]
pub struct LeakHandler(Arc<dyn Fn(&LeakReport) + Send + Sync>);

impl LeakHandler {
    /// Wraps a function. It must not panic; a panic is caught and logged.
    pub fn new(handler: impl Fn(&LeakReport) + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }

    pub(crate) fn call(&self, report: &LeakReport) {
        (self.0)(report);
    }
}

impl fmt::Debug for LeakHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeakHandler(..)")
    }
}

/// Configuration of an [`Allocator`](crate::Allocator). Values out of range are errors when the
/// allocator is built, never silently changed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Size classes of small requests. Default: [`SizeClasses::fine`].
    pub classes: SizeClasses,
    /// Whether freed blocks are kept for reuse. Off, each buffer is a segment of its own. Default:
    /// on. Can be changed later by [`Allocator::set_pooling`](crate::Allocator::set_pooling).
    pub pooling: bool,
    /// Alignment of every buffer in bytes, a power of two from 256 to 1 GiB. Default: 256.
    pub alignment: usize,
    /// Hard limit on the bytes held from the driver. Default: none but the device's own. What
    /// [copies](crate::transfer::Copier) go through ([`Stats::staging`](crate::Stats::staging)) and memory that was
    /// [registered](crate::Allocator::register) is held besides and not limited by it.
    pub reserved_bytes_max: Option<u64>,
    /// Idle bytes kept; beyond them empty segments go back to the system when a buffer is freed past
    /// the threads' caches, which together may hold as much besides.
    /// Default: a quarter of the device's memory or of its outside limit, or what the strategy says if that
    /// is more. Beyond the default classes of up to 64 KiB keep their blocks nevertheless.
    pub cached_bytes_max: Option<u64>,
    /// Smallest segment asked of the driver, in bytes. Default: 2 MiB.
    pub segment_bytes_min: usize,
    /// Where segments of their own size would cost too much driver time, an arena grows by a 64th of
    /// what it holds, up to this many bytes at once unless a single request needs more. Default: 64 MiB.
    pub segment_bytes_max: usize,
    /// Part of the greatest sum of requested bytes, in 1024ths, by which memory held may exceed it
    /// before holes are mapped together, or empty segments returned, rather than more obtained.
    /// Less is tighter and costs driver calls. Default: 10.
    pub slack_per_1024: u32,
    /// Driver time in nanoseconds that each request and free may cost on average for tightness. More is
    /// tighter. Where memory can be divided (the host), it pays for mapping holes together and for waits, of
    /// two milliseconds at most, for memory that work on other queues is about to give back; beyond it memory
    /// grows instead, for a while and then for longer. Where memory comes in handles that cannot be divided
    /// (CUDA): while less was spent, handles are small and mapped together out of free parts, beyond it they
    /// are large and memory grows instead. That includes waits, of five milliseconds at most, for work that
    /// makes an exchange of handles possible; waits for other queues' memory may cost as much once more. Where
    /// there is no virtual memory (Metal), sixteen times as much may go into exchanging segments, waits for
    /// work included, of five milliseconds at most. Default: 1000.
    pub driver_ns_per_operation: u32,
    /// How long an allocation that found no memory waits for work in flight to give some back.
    /// Default: one second.
    pub wait_max: Duration,
    /// Receives the leak report, besides the log. Default: none.
    pub on_leak: Option<LeakHandler>,
    /// Whether memory pressure is watched, and what is done about it. Default: not watched, because a
    /// library starts no thread unasked; `PressureConfig::default()` watches. Without a thread
    /// [`Allocator::pressure`](crate::Allocator::pressure) assesses when it is told to.
    pub pressure: PressureConfig,
    /// Whether idle memory goes back unasked, and when. Default: not, for the same reason;
    /// `GcConfig::default()` collects every 30 seconds.
    pub gc: GcConfig,
    /// Asked for help when memory is out, before an allocation fails. Default: nobody. Others can be
    /// added by [`Allocator::on_out_of_memory`](crate::Allocator::on_out_of_memory).
    pub on_out_of_memory: Option<OutOfMemoryHandler>,
    /// Decides, for each request, whether it is pooled, in which storage mode and at which alignment.
    /// Default: none, which is what the request and this configuration say.
    pub strategy: Option<Arc<dyn Strategy>>,
    /// Bytes that a thread allocates, on average, for each allocation of which size, lifetime and
    /// latency are sampled; see [`Samples`](crate::Samples). 0 samples nothing. Default: 512 KiB.
    pub sample_interval_bytes: usize,
    /// Whether samples keep a backtrace of their allocation, for reports of live buffers and leaks.
    /// Default: off.
    pub backtraces: bool,
    /// Whether the counters are compared with a walk over all live buffers when the last handle is
    /// dropped; a difference is logged as an error. Default: off.
    pub debug_checks: bool,
    /// Where spans around slow paths go, for profilers. Default: nowhere. Can be changed later by
    /// [`Allocator::set_profiling`](crate::Allocator::set_profiling).
    pub profiling: Profiling,
    /// What is printed to standard error when the last handle is dropped. Default: nothing.
    pub stats_on_exit: Option<StatsOnExit>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            classes: SizeClasses::fine(),
            pooling: true,
            alignment: DEFAULT_ALIGNMENT,
            reserved_bytes_max: None,
            cached_bytes_max: None,
            segment_bytes_min: 2 << 20,
            segment_bytes_max: 64 << 20,
            slack_per_1024: 10,
            driver_ns_per_operation: 1000,
            wait_max: Duration::from_secs(1),
            on_leak: None,
            pressure: PressureConfig {
                enabled: false,
                ..PressureConfig::default()
            },
            gc: GcConfig {
                enabled: false,
                ..GcConfig::default()
            },
            on_out_of_memory: None,
            strategy: None,
            sample_interval_bytes: 512 << 10,
            backtraces: false,
            debug_checks: false,
            profiling: Profiling::Off,
            stats_on_exit: None,
        }
    }
}

impl Config {
    pub(crate) fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::with_message(ErrorKind::InvalidConfig, message));
        if !self.alignment.is_power_of_two()
            || !(DEFAULT_ALIGNMENT..=ALIGNMENT_MAX).contains(&self.alignment)
        {
            return fail(format!(
                "Config::alignment is {}; it must be a power of two from 256 to 1 GiB",
                self.alignment
            ));
        }
        if self.segment_bytes_min == 0 || self.segment_bytes_min > self.segment_bytes_max {
            return fail(format!(
                "Config::segment_bytes_min is {} and segment_bytes_max {}; they must ascend from 1",
                self.segment_bytes_min, self.segment_bytes_max
            ));
        }
        if self.segment_bytes_max > 1 << 40 {
            return fail(format!(
                "Config::segment_bytes_max is {}; it must be at most 1 TiB",
                self.segment_bytes_max
            ));
        }
        if self.sample_interval_bytes != 0
            && !(SAMPLE_INTERVAL_MIN..=SAMPLE_INTERVAL_MAX).contains(&self.sample_interval_bytes)
        {
            return fail(format!(
                "Config::sample_interval_bytes is {}; it must be from 4 KiB to 1 TiB, or 0 for none",
                self.sample_interval_bytes
            ));
        }
        #[cfg(not(feature = "serde"))]
        if self.stats_on_exit == Some(StatsOnExit::Json) {
            return fail("Config::stats_on_exit: JSON needs the crate's feature \"serde\"".into());
        }
        validate_reserved_bytes_max(self.reserved_bytes_max)?;
        self.pressure.validate()?;
        self.gc.validate()
    }
}

/// Refuses a limit with which nothing could be served.
pub(crate) fn validate_reserved_bytes_max(bytes: Option<u64>) -> Result<()> {
    if bytes == Some(0) {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "reserved_bytes_max is 0; leave it out for no limit",
        ));
    }
    Ok(())
}
