//! The pool's figures among Triton's metrics.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use weldpool::prometheus::{Kind, figures};
use weldpool::{Allocator, Stats};
use weldpool_triton_sys::MetricKind;

use crate::error::{Error, Result};
use crate::handles::Metric;

/// Time between updates.
const INTERVAL: Duration = Duration::from_secs(1);

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
        let mut metrics = figures(&allocator.stats())
            .map(|figure| {
                let kind = match figure.kind {
                    Kind::Counter => MetricKind::Counter,
                    _ => MetricKind::Gauge,
                };
                Metric::new(kind, figure.name, figure.help, ("pool", allocator.name()))
            })
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
    for (metric, figure) in metrics.iter_mut().zip(figures(stats)) {
        if let Err(error) = metric.update(figure.value.as_f64()) {
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
