//! The passes over a plan.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::clock::TraceClock;
use super::plan::{Plan, Step};
use super::report::Sample;
use super::slots::{Found, SharedSlots};
use crate::allocator::Allocator;
use crate::buffer::Buffer;
use crate::device::StorageMode;
use crate::error::{Error, Result};
use crate::queue::Queue;
use crate::request::Request;
use crate::stats::Stats;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::Op;

/// Steps between two reports of progress.
const REPORT_EVERY: usize = 1 << 14;

/// The time a device has charged to its own clock.
pub(super) type Charged = dyn Fn() -> u64 + Send + Sync;

/// One run through a plan, on one allocator.
pub(super) struct Pass<'a> {
    plan: &'a Plan,
    allocator: &'a Allocator,
    clock: Arc<TraceClock>,
    queues: Vec<Queue>,
    charged_ns: &'a Charged,
    storage: StorageMode,
}

/// What a timed pass found.
pub(super) struct Timed {
    /// Each call, as measured between two readings of the clock, plus what the device charged.
    pub(super) latencies_ns: Vec<u32>,
    pub(super) failures: u64,
    /// Of the first of them, when and why.
    pub(super) first_failure: Option<String>,
    pub(super) peak_live_bytes: u64,
    pub(super) stalls: u64,
    /// At the end of the trace, with what is live there.
    pub(super) stats: Stats,
    /// At the steps asked for.
    pub(super) samples: Vec<Sample>,
}

/// What one thread of a timed pass gathers.
struct Lane {
    latencies_ns: Vec<u32>,
    failures: u64,
    first_failure: Option<Failure>,
}

/// An allocation that failed.
struct Failure {
    time_us: u64,
    error: Error,
}

impl Lane {
    fn fail(&mut self, time_us: u64, error: &Error) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| Failure {
            time_us,
            error: error.clone(),
        });
    }
}

impl Failure {
    fn text(&self) -> String {
        format!("at {} us of the trace: {}", self.time_us, self.error)
    }
}

/// Bytes that are live, over all threads.
#[derive(Default)]
struct LiveBytes {
    value: AtomicU64,
    peak: AtomicU64,
}

impl LiveBytes {
    fn add(&self, bytes: u64) {
        let value = self.value.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(value, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: u64) {
        self.value.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        allocator: &'a Allocator,
        clock: Arc<TraceClock>,
        charged_ns: &'a Charged,
        storage: StorageMode,
    ) -> Self {
        let queues = (0..plan.queues)
            .map(|_| allocator.adopt_queue(clock.create_queue()))
            .collect();
        Self {
            plan,
            allocator,
            clock,
            queues,
            charged_ns,
            storage,
        }
    }

    /// Times each call. `sample_at` are the steps after which to look at the allocator.
    pub(super) fn timed(
        &self,
        sample_at: &[usize],
        progress: &(dyn Fn(u64) + Sync),
    ) -> TraceResult<Timed> {
        let slots = SharedSlots::new(self.plan.slots);
        let live = LiveBytes::default();
        let samples = Mutex::new(Vec::with_capacity(sample_at.len()));
        let done = AtomicU64::new(0);
        let run = |number: usize| {
            let mut lane = Lane {
                latencies_ns: Vec::with_capacity(self.plan.steps.len() / self.plan.lanes + 1),
                failures: 0,
                first_failure: None,
            };
            let mut sample_at = sample_at.iter().copied().peekable();
            let steps = self.plan.steps.iter().enumerate();
            for (index, step) in steps {
                while sample_at.next_if(|at| *at < index).is_some() {}
                if step.lane as usize != number {
                    continue;
                }
                self.clock.advance(step.time_us);
                self.step(step, &mut lane, &slots, &live);
                if sample_at.next_if_eq(&index).is_some() {
                    let stats = self.allocator.stats();
                    let live_bytes = live.value.load(Ordering::Relaxed);
                    samples
                        .lock()
                        .push(Sample::new(step.time_us, live_bytes, &stats));
                }
                if lane.latencies_ns.len().is_multiple_of(REPORT_EVERY) {
                    let before = done.fetch_add(REPORT_EVERY as u64, Ordering::Relaxed);
                    progress(before + REPORT_EVERY as u64);
                }
            }
            lane
        };
        let lanes: Vec<Lane> = if self.plan.lanes == 1 {
            vec![run(0)]
        } else {
            let run = &run;
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..self.plan.lanes)
                    .map(|number| {
                        scope.spawn(move || {
                            TraceClock::begin_lane();
                            run(number)
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().map_err(|_| panicked()))
                    .collect::<TraceResult<_>>()
            })?
        };
        let stats = self.allocator.stats();
        let mut samples = std::mem::take(&mut *samples.lock());
        samples.sort_by_key(|sample| sample.time_us);
        let failures = lanes.iter().filter_map(|lane| lane.first_failure.as_ref());
        let first = failures.min_by_key(|failure| failure.time_us);
        Ok(Timed {
            first_failure: first.map(Failure::text),
            failures: lanes.iter().map(|lane| lane.failures).sum(),
            latencies_ns: lanes
                .into_iter()
                .flat_map(|lane| lane.latencies_ns)
                .collect(),
            peak_live_bytes: live.peak.load(Ordering::Relaxed),
            stalls: self.clock.stalls(),
            stats,
            samples,
        })
    }

    fn step(&self, step: &Step, lane: &mut Lane, slots: &SharedSlots, live: &LiveBytes) {
        match step.op {
            Op::Allocate => {
                let allocated = self.time(lane, || self.allocate(step));
                match &allocated {
                    Ok(_) => live.add(step.bytes),
                    Err(error) => lane.fail(step.time_us, error),
                }
                slots.put(step.slot, allocated.ok());
            }
            Op::Free => {
                let Found::Buffer(buffer) = slots.take(step.slot) else {
                    return;
                };
                live.subtract(step.bytes);
                self.time(lane, || self.free(step, buffer));
            }
        }
    }

    fn time<T>(&self, lane: &mut Lane, call: impl FnOnce() -> T) -> T {
        let charged_before = (self.charged_ns)();
        let start = Instant::now();
        let result = call();
        let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let charged_ns = (self.charged_ns)().saturating_sub(charged_before);
        let all_ns = took_ns.saturating_add(charged_ns);
        lane.latencies_ns
            .push(u32::try_from(all_ns).unwrap_or(u32::MAX));
        result
    }

    /// Times all calls together, on this thread, and returns the mean in nanoseconds. It contains
    /// what the loop itself does: reading a step, moving the clock, keeping the buffer. Of a device that
    /// only pretends, what it charges counts and not what its own bookkeeping took.
    pub(super) fn together(&self, progress: &(dyn Fn(u64) + Sync)) -> f64 {
        let mut slots: Vec<Option<Buffer>> = Vec::new();
        slots.resize_with(self.plan.slots, || None);
        let charged_before = (self.charged_ns)();
        let real_before = self.pretended_ns();
        let mut calls = 0_u64;
        let mut took_ns = 0_u128;
        for (part, steps) in self.plan.steps.chunks(REPORT_EVERY).enumerate() {
            let start = Instant::now();
            for step in steps {
                self.clock.advance(step.time_us);
                let slot = &mut slots[step.slot as usize];
                match step.op {
                    Op::Allocate => {
                        *slot = self.allocate(step).ok();
                        calls += 1;
                    }
                    Op::Free => {
                        if let Some(buffer) = slot.take() {
                            self.free(step, buffer);
                            calls += 1;
                        }
                    }
                }
            }
            took_ns += start.elapsed().as_nanos();
            progress((part * REPORT_EVERY + steps.len()) as u64);
        }
        let charged_ns = (self.charged_ns)().saturating_sub(charged_before);
        if calls == 0 {
            return 0.0;
        }
        let pretended_ns = self.pretended_ns() - real_before;
        let stalled_ns = 1000.0 * self.clock.stalled_us() as f64;
        (took_ns as f64 - pretended_ns as f64 + charged_ns as f64 + stalled_ns) / calls as f64
    }

    /// Real time spent so far in calls of a device that only pretends.
    fn pretended_ns(&self) -> u64 {
        if !self.allocator.device().properties().kind.is_fake() {
            return 0;
        }
        let stats = self.allocator.stats();
        stats.driver_ns - stats.driver_charged_ns
    }

    fn allocate(&self, step: &Step) -> Result<Buffer> {
        let bytes = usize::try_from(step.bytes).unwrap_or(usize::MAX);
        let request = Request::new(bytes)
            .storage(self.storage)
            .queue(&self.queues[step.queue as usize]);
        self.allocator.allocate_with(&request)
    }

    fn free(&self, step: &Step, buffer: Buffer) {
        buffer.free_on(&self.queues[step.queue as usize]);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // What still waits for a fence can then go back to the device.
        self.clock.end();
    }
}

fn panicked() -> TraceError {
    TraceError::new(
        TraceErrorKind::Allocator,
        "a thread of the replay panicked; the allocator is broken",
    )
}
