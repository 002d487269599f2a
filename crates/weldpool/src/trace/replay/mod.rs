//! Replaying a trace on an allocator.
//!
//! The events are first turned into a plan: steps with dense numbers for buffers and queues. Each
//! stream of the trace becomes a queue whose work is driven by the trace's own clock ([`clock`]),
//! so memory freed on a stream is reusable on another only when the trace has gone on for long
//! enough. One pass over the plan times every call; a second, on a fresh allocator, times them all
//! together.

mod clock;
mod latency;
mod plan;
mod report;
mod run;
mod slots;

use std::fmt;

use self::clock::TraceClock;
use self::latency::Latencies;
use self::plan::Plan;
use self::run::Pass;
use super::error::{TraceError, TraceErrorKind, TraceResult};
use super::event::Event;
use crate::allocator::Allocator;
use crate::device::StorageMode;
use crate::sync::Arc;

pub use self::report::{ReplayReport, Sample};

/// Most threads a replay runs on.
const THREADS_MAX: usize = 1024;

/// How to replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayOptions {
    /// Threads to replay on, from 1 to 1,024. Events are split by their thread and stream, so a
    /// trace with fewer of these uses fewer threads. Default: 1.
    pub threads: usize,
    /// Trace time after which work submitted to a stream is done, in microseconds. Default: 1,000.
    pub stream_latency_us: u64,
    /// Whether a second pass measures the mean. Off, it comes from the timings of the single calls,
    /// which are less exact. Default: on.
    pub mean_pass: bool,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            stream_latency_us: 1000,
            mean_pass: true,
        }
    }
}

/// What a trace is replayed on: an allocator nobody else uses, and the names for the report.
pub struct Target {
    allocator: Allocator,
    charged_ns: Box<dyn Fn() -> u64 + Send + Sync>,
    storage: StorageMode,
    device: String,
    preset: String,
    limit: Option<u64>,
}

impl Target {
    /// A fresh allocator. The report names its device and says `default` for the preset; what the
    /// device charges to its clock is added to what a call took. Buffers are `Shared` where host and
    /// device have one memory, else `Private`.
    #[must_use]
    pub fn new(allocator: Allocator) -> Self {
        let device = Arc::clone(allocator.device());
        Self {
            device: device.properties().kind.name().to_owned(),
            allocator,
            storage: if device.properties().unified {
                StorageMode::Shared
            } else {
                StorageMode::Private
            },
            charged_ns: Box::new(move || device.charged_ns()),
            preset: "default".to_owned(),
            limit: None,
        }
    }

    /// Takes the time that is charged so far, in nanoseconds, from elsewhere than the device.
    #[must_use]
    pub fn charged_ns(mut self, charged: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.charged_ns = Box::new(charged);
        self
    }

    /// Names for the report: the device, and the preset that the configuration is.
    #[must_use]
    pub fn named(mut self, device: &str, preset: &str) -> Self {
        self.device = device.to_owned();
        self.preset = preset.to_owned();
        self
    }

    /// The limit on reserved bytes that the allocator was given, for the report.
    #[must_use]
    pub fn limit(mut self, bytes: Option<u64>) -> Self {
        self.limit = bytes;
        self
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("device", &self.device)
            .field("preset", &self.preset)
            .finish_non_exhaustive()
    }
}

/// Is told how far a replay is: steps done, and steps in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Replays traces.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use weldpool::Allocator;
/// use weldpool::trace::{Event, Op, Replay, ReplayOptions, Target};
///
/// let event = |op, id, time_us| Event { op, id, bytes: 1 << 20, stream: 0, time_us, thread: 0 };
/// let events = [event(Op::Allocate, 0, 0), event(Op::Free, 0, 10), event(Op::Allocate, 1, 20)];
/// let report = Replay::new(ReplayOptions::default())
///     .run(&events, || Ok(Target::new(Allocator::host()?)))?;
/// assert_eq!((report.allocs, report.failures), (2, 0));
/// assert_eq!(report.peak_live_bytes, 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Replay {
    options: ReplayOptions,
}

impl Replay {
    /// A replay with these options.
    #[must_use]
    pub fn new(options: ReplayOptions) -> Self {
        Self { options }
    }

    /// Replays `events`; `target` makes a fresh allocator for each pass.
    ///
    /// # Errors
    ///
    /// [`Limit`](TraceErrorKind::Limit) for options out of range or more streams or allocations than
    /// can be numbered, [`Allocator`](TraceErrorKind::Allocator) with the text of the error when
    /// `target` fails. An allocation that fails is counted, not an error: see
    /// [`failures`](ReplayReport::failures).
    pub fn run(
        &self,
        events: &[Event],
        target: impl FnMut() -> crate::Result<Target>,
    ) -> TraceResult<ReplayReport> {
        self.run_with_progress(events, target, &|_, _| {})
    }

    /// As [`run`](Self::run), telling how far it is, from any thread and between the timed calls.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_with_progress(
        &self,
        events: &[Event],
        mut target: impl FnMut() -> crate::Result<Target>,
        progress: Progress<'_>,
    ) -> TraceResult<ReplayReport> {
        let plan = self.plan(events)?;
        let steps = plan.steps.len() as u64;
        let mean_pass = self.options.mean_pass && plan.lanes == 1;
        let passes = if mean_pass { 2 * steps } else { steps };

        let first = make(&mut target)?;
        let pass = Pass::new(
            &plan,
            &first.allocator,
            self.clock(),
            &first.charged_ns,
            first.storage,
        );
        let at_peak: Vec<usize> = plan.peak_step.into_iter().collect();
        let timed = pass.timed(&at_peak, &|done| progress(done, passes))?;
        let latencies = Latencies::new(timed.latencies_ns);
        let mean_ns = if mean_pass {
            let second = make(&mut target)?;
            let pass = Pass::new(
                &plan,
                &second.allocator,
                self.clock(),
                &second.charged_ns,
                second.storage,
            );
            pass.together(&|done| progress(steps + done, passes))
        } else {
            latencies.mean_ns()
        };
        Ok(ReplayReport::new(
            report::Measured {
                stats: timed.stats,
                samples: &timed.samples,
                peak_live_bytes: timed.peak_live_bytes,
                failures: timed.failures,
                first_failure: timed.first_failure,
                stalls: timed.stalls,
                mean_ns,
            },
            &latencies,
            &plan,
            &first,
            &self.options,
        ))
    }

    /// Replays `events` on one thread and looks at the allocator at `points` moments, evenly spread
    /// over the events, and where most is live.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn samples(
        &self,
        events: &[Event],
        mut target: impl FnMut() -> crate::Result<Target>,
        points: usize,
        progress: Progress<'_>,
    ) -> TraceResult<Vec<Sample>> {
        let one = Self::new(ReplayOptions {
            threads: 1,
            ..self.options.clone()
        });
        let plan = one.plan(events)?;
        let steps = plan.steps.len();
        let every = steps.div_ceil(points.max(2)).max(1);
        let mut moments: Vec<_> = (0..steps).step_by(every).collect();
        moments.extend(plan.peak_step);
        moments.extend(steps.checked_sub(1));
        moments.sort_unstable();
        moments.dedup();
        let first = make(&mut target)?;
        let pass = Pass::new(
            &plan,
            &first.allocator,
            one.clock(),
            &first.charged_ns,
            first.storage,
        );
        let timed = pass.timed(&moments, &|done| progress(done, steps as u64))?;
        Ok(timed.samples)
    }

    fn plan(&self, events: &[Event]) -> TraceResult<Plan> {
        if !(1..=THREADS_MAX).contains(&self.options.threads) {
            return Err(TraceError::new(
                TraceErrorKind::Limit,
                format!(
                    "a replay on {} threads; from 1 to {THREADS_MAX} are possible",
                    self.options.threads
                ),
            ));
        }
        Plan::new(events, self.options.threads)
    }

    fn clock(&self) -> Arc<TraceClock> {
        Arc::new(TraceClock::new(self.options.stream_latency_us))
    }
}

fn make(target: &mut impl FnMut() -> crate::Result<Target>) -> TraceResult<Target> {
    target().map_err(of_allocator)
}

fn of_allocator(error: crate::Error) -> TraceError {
    TraceError::new(
        TraceErrorKind::Allocator,
        format!("the allocator to replay on cannot be built: {error}"),
    )
}

#[cfg(test)]
mod tests;
