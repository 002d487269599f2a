//! What a model has done: counts and durations, as the statistics extension reports them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Batch sizes counted apart; larger variety than this is summed under size 0.
const BATCH_SIZES_MAX: usize = 1024;

/// A count of events and the time in them.
#[derive(Debug, Default)]
struct Tally {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Tally {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(nanoseconds(duration), Ordering::Relaxed);
    }

    fn read(&self) -> Total {
        Total {
            count: self.count.load(Ordering::Relaxed),
            ns: self.ns.load(Ordering::Relaxed),
        }
    }
}

/// A number of events and the nanoseconds in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

impl Total {
    fn add(&mut self, duration: Duration) {
        self.count += 1;
        self.ns += nanoseconds(duration);
    }

    /// Microseconds in all.
    #[must_use]
    pub fn us(self) -> u64 {
        self.ns / 1000
    }

    fn json(self) -> Value {
        json!({ "count": self.count, "ns": self.ns })
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The phases of one request that succeeded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phases {
    /// From the first byte to the answer being ready.
    pub total: Duration,
    /// Waiting for an instance.
    pub queue: Duration,
    /// Making the inputs ready for the engine.
    pub compute_input: Duration,
    /// In the engine.
    pub compute_infer: Duration,
    /// Making the outputs ready for the answer.
    pub compute_output: Duration,
}

/// Why a request failed, in the terms of Triton's metric `nv_inference_request_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// It was turned away: a full queue, or its time was over.
    Rejected,
    /// Its client went away.
    Cancelled,
    /// The engine failed.
    Backend,
    /// Anything else, such as a wrong request.
    Other,
}

impl FailureReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Rejected, Self::Cancelled, Self::Backend, Self::Other];

    /// The metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Cancelled => "CANCELED",
            Self::Backend => "BACKEND",
            Self::Other => "OTHER",
        }
    }
}

/// Executions of one batch size.
#[derive(Debug, Clone, Copy, Default)]
struct BatchTotals {
    compute_input: Total,
    compute_infer: Total,
    compute_output: Total,
}

/// The statistics of one version of a model.
#[derive(Debug, Default)]
pub struct ModelStatistics {
    success: Tally,
    fail: Tally,
    queue: Tally,
    compute_input: Tally,
    compute_infer: Tally,
    compute_output: Tally,
    inferences: AtomicU64,
    executions: AtomicU64,
    last_inference_ms: AtomicU64,
    pending: AtomicU64,
    failures: [AtomicU64; FailureReason::ALL.len()],
    batches: Mutex<BTreeMap<u64, BatchTotals>>,
}

/// A copy of [`ModelStatistics`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatisticsSnapshot {
    /// Requests that succeeded.
    pub success: Total,
    /// Requests that failed.
    pub fail: Total,
    /// Waiting for an instance.
    pub queue: Total,
    /// Making inputs ready.
    pub compute_input: Total,
    /// In the engine.
    pub compute_infer: Total,
    /// Making outputs ready.
    pub compute_output: Total,
    /// Inferences: a batch of n counts n.
    pub inferences: u64,
    /// Runs of the engine.
    pub executions: u64,
    /// Requests under way.
    pub pending: u64,
    /// Failures by [`FailureReason`].
    pub failures: [u64; FailureReason::ALL.len()],
}

impl ModelStatistics {
    /// Counts a request as under way until the value is dropped.
    pub fn begin(&self) -> Pending<'_> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Pending(self)
    }

    /// Counts a request of `batch` inferences that succeeded.
    pub fn succeeded(&self, batch: u64, phases: &Phases) {
        self.success.add(phases.total);
        self.queue.add(phases.queue);
        self.compute_input.add(phases.compute_input);
        self.compute_infer.add(phases.compute_infer);
        self.compute_output.add(phases.compute_output);
        self.inferences.fetch_add(batch, Ordering::Relaxed);
        self.executions.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.last_inference_ms.fetch_max(now_ms, Ordering::Relaxed);
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let known = batches.len() < BATCH_SIZES_MAX || batches.contains_key(&batch);
        let totals = batches.entry(if known { batch } else { 0 }).or_default();
        totals.compute_input.add(phases.compute_input);
        totals.compute_infer.add(phases.compute_infer);
        totals.compute_output.add(phases.compute_output);
    }

    /// Counts a request that failed after `total`.
    pub fn failed(&self, reason: FailureReason, total: Duration) {
        self.fail.add(total);
        self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All counts now.
    pub fn snapshot(&self) -> StatisticsSnapshot {
        StatisticsSnapshot {
            success: self.success.read(),
            fail: self.fail.read(),
            queue: self.queue.read(),
            compute_input: self.compute_input.read(),
            compute_infer: self.compute_infer.read(),
            compute_output: self.compute_output.read(),
            inferences: self.inferences.load(Ordering::Relaxed),
            executions: self.executions.load(Ordering::Relaxed),
            pending: self.pending.load(Ordering::Relaxed),
            failures: FailureReason::ALL
                .map(|reason| self.failures[reason as usize].load(Ordering::Relaxed)),
        }
    }

    /// The entry of the statistics extension's `model_stats` for a model and version.
    pub fn json(&self, name: &str, version: &str) -> Value {
        let all = self.snapshot();
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let batches: Vec<Value> = batches
            .iter()
            .map(|(size, totals)| {
                json!({
                    "batch_size": size,
                    "compute_input": totals.compute_input.json(),
                    "compute_infer": totals.compute_infer.json(),
                    "compute_output": totals.compute_output.json(),
                })
            })
            .collect();
        let none = Total::default().json();
        json!({
            "name": name,
            "version": version,
            "last_inference": self.last_inference_ms.load(Ordering::Relaxed),
            "inference_count": all.inferences,
            "execution_count": all.executions,
            "inference_stats": {
                "success": all.success.json(),
                "fail": all.fail.json(),
                "queue": all.queue.json(),
                "compute_input": all.compute_input.json(),
                "compute_infer": all.compute_infer.json(),
                "compute_output": all.compute_output.json(),
                "cache_hit": none,
                "cache_miss": none,
            },
            "response_stats": {},
            "batch_stats": batches,
            "memory_usage": [],
        })
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Pending<'a>(&'a ModelStatistics);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_add_up_and_batches_are_kept_apart() {
        let statistics = ModelStatistics::default();
        let pending = statistics.begin();
        assert_eq!(statistics.snapshot().pending, 1);
        let phases = Phases {
            total: Duration::from_micros(10),
            queue: Duration::from_micros(1),
            compute_input: Duration::from_micros(2),
            compute_infer: Duration::from_micros(3),
            compute_output: Duration::from_micros(4),
        };
        statistics.succeeded(4, &phases);
        statistics.succeeded(1, &phases);
        statistics.failed(FailureReason::Rejected, Duration::from_micros(5));
        drop(pending);
        let all = statistics.snapshot();
        assert_eq!((all.inferences, all.executions, all.pending), (5, 2, 0));
        assert_eq!(
            all.success,
            Total {
                count: 2,
                ns: 20_000
            }
        );
        assert_eq!(
            all.fail,
            Total {
                count: 1,
                ns: 5_000
            }
        );
        assert_eq!(all.failures, [1, 0, 0, 0]);
        let json = statistics.json("m", "1");
        assert_eq!(json["batch_stats"][0]["batch_size"], 1);
        assert_eq!(json["batch_stats"][1]["compute_infer"]["ns"], 3_000);
        assert_eq!(json["inference_stats"]["queue"]["count"], 2);
    }

    #[test]
    fn batch_sizes_are_bounded() {
        let statistics = ModelStatistics::default();
        for batch in 1..=3000 {
            statistics.succeeded(batch, &Phases::default());
        }
        let json = statistics.json("m", "1");
        assert_eq!(
            json["batch_stats"].as_array().map(Vec::len),
            Some(BATCH_SIZES_MAX + 1)
        );
    }
}
