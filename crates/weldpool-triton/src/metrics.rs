//! The pool's figures among Triton's metrics.

use std::ffi::{CStr, CString};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weldpool::{Allocator, Stats};
use weldpool_triton_sys::MetricKind;

use crate::error::{Error, Result};
use crate::handles::Metric;

/// Time between updates.
const INTERVAL: Duration = Duration::from_secs(1);

struct Figure {
    name: &'static CStr,
    help: &'static CStr,
    kind: MetricKind,
    read: fn(&Stats) -> u64,
}

const fn gauge(name: &'static CStr, help: &'static CStr, read: fn(&Stats) -> u64) -> Figure {
    Figure {
        name,
        help,
        kind: MetricKind::Gauge,
        read,
    }
}

const fn counter(name: &'static CStr, help: &'static CStr, read: fn(&Stats) -> u64) -> Figure {
    Figure {
        name,
        help,
        kind: MetricKind::Counter,
        read,
    }
}

const FIGURES: [Figure; 9] = [
    gauge(
        c"weldpool_live_bytes",
        c"Bytes of the pool's live buffers, as requested",
        |stats| stats.live.value,
    ),
    gauge(
        c"weldpool_live_bytes_peak",
        c"The most bytes of live buffers at once",
        |stats| stats.live.peak,
    ),
    gauge(
        c"weldpool_reserved_bytes",
        c"Bytes that the pool holds from the system",
        |stats| stats.reserved.value,
    ),
    gauge(
        c"weldpool_reserved_bytes_peak",
        c"The most bytes that the pool held at once",
        |stats| stats.reserved.peak,
    ),
    gauge(
        c"weldpool_limit_bytes",
        c"Bytes that the pool may hold; 0 without a limit",
        |stats| stats.limit.unwrap_or_default(),
    ),
    counter(
        c"weldpool_allocations_total",
        c"Buffers that were allocated",
        |stats| stats.allocations,
    ),
    counter(
        c"weldpool_hits_total",
        c"Allocations served by memory that was idle",
        |stats| stats.hits,
    ),
    counter(
        c"weldpool_failures_total",
        c"Allocations that failed",
        |stats| stats.failures,
    ),
    counter(
        c"weldpool_driver_calls_total",
        c"Calls to the system or driver",
        |stats| stats.driver_calls,
    ),
];

/// Keeps the figures up to date. Dropping it takes them off Triton's list.
#[derive(Debug)]
pub(crate) struct PoolMetrics {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
}

impl PoolMetrics {
    /// Makes the figures known to Triton, under the label `pool`, and starts to update them.
    ///
    /// # Errors
    /// What Triton says where metrics are switched off; `Internal` where there is no thread.
    pub(crate) fn start(allocator: &Allocator) -> Result<PoolMetrics> {
        let pool = CString::new(allocator.name()).unwrap_or_default();
        let mut metrics = FIGURES
            .iter()
            .map(|figure| Metric::new(figure.kind, figure.name, figure.help, (c"pool", &pool)))
            .collect::<Result<Vec<_>>>()?;
        let stop = Arc::<Stop>::default();
        let allocator = allocator.clone();
        let thread = thread::Builder::new()
            .name("weldpool-metrics".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || {
                    loop {
                        update(&mut metrics, &allocator.stats());
                        if stop.wait(INTERVAL) {
                            return;
                        }
                    }
                }
            })
            .map_err(|error| Error::internal(format!("no thread for metrics: {error}")))?;
        Ok(PoolMetrics {
            stop,
            thread: Some(thread),
        })
    }
}

fn update(metrics: &mut [Metric], stats: &Stats) {
    for (metric, figure) in metrics.iter_mut().zip(&FIGURES) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "metrics are floating-point numbers"
        )]
        let value = (figure.read)(stats) as f64;
        if let Err(error) = metric.update(value) {
            tracing::debug!("a metric could not be updated: {error}");
        }
    }
}

impl Stop {
    /// Waits, and says whether it is over.
    fn wait(&self, time: Duration) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(told, time, |told| !*told)
            .unwrap_or_else(PoisonError::into_inner);
        *waited.0
    }

    fn tell(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl Drop for PoolMetrics {
    fn drop(&mut self) {
        self.stop.tell();
        if let Some(thread) = self.thread.take() {
            // Its panic was printed when it happened.
            drop(thread.join());
        }
    }
}
