//! What watches an allocator while it works, and the calls that show what it saw.

#![forbid(unsafe_code)]

use crate::allocator::Allocator;
use crate::config::Config;
use crate::dashboard::Dashboard;
use crate::env::StatsOnExit;
use crate::health::Health;
use crate::moment::LastMoment;
use crate::report::Report;
use crate::sampler::{Sampler, Samples};
use crate::sync::{Arc, AtomicU64, Ordering, RwLock};
use crate::trace::{Op, Recorder};

/// The watchers of one pool.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) sampler: Sampler,
    recorder: RwLock<Option<Arc<Recorder>>>,
    /// The number of the recorder, or none's, by which a thread finds its part of it without the lock.
    recording: AtomicU64,
    /// Allocations that failed for lack of memory.
    pub(crate) memory_failures: AtomicU64,
    pub(crate) memory_failed: LastMoment,
    pub(crate) debug_checks: bool,
    pub(crate) stats_on_exit: Option<StatsOnExit>,
}

impl Observer {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            sampler: Sampler::new(config.sample_interval_bytes, config.backtraces),
            recorder: RwLock::new(None),
            recording: AtomicU64::new(Recorder::NO_NUMBER),
            memory_failures: AtomicU64::new(0),
            memory_failed: LastMoment::default(),
            debug_checks: config.debug_checks,
            stats_on_exit: config.stats_on_exit,
        }
    }

    #[inline]
    pub(crate) fn recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed) != Recorder::NO_NUMBER
    }

    /// Sets the recorder; returns the one there was.
    pub(crate) fn set_recorder(&self, recorder: Option<Arc<Recorder>>) -> Option<Arc<Recorder>> {
        let mut current = self.recorder.write();
        let number = recorder.as_ref().map(|recorder| recorder.number());
        self.recording
            .store(number.unwrap_or(Recorder::NO_NUMBER), Ordering::Relaxed);
        std::mem::replace(&mut *current, recorder)
    }

    pub(crate) fn record(&self, op: Op, id: usize, bytes: usize, stream: u64) {
        let number = self.recording.load(Ordering::Relaxed);
        let (id, bytes) = (id as u64, bytes as u64);
        if !Recorder::record_in_lane(number, op, id, bytes, stream)
            && let Some(recorder) = &*self.recorder.read()
        {
            recorder.record(op, id, bytes, stream);
        }
    }
}

/// What an allocator shows of itself.
impl Allocator {
    /// Histograms of size, lifetime and latency, of samples; copies a few KiB.
    #[must_use]
    pub fn samples(&self) -> Samples {
        self.pool().samples()
    }

    /// How the allocator is doing; costs as much as [`stats`](Self::stats).
    #[must_use]
    pub fn health(&self) -> Health {
        Health::of(&self.stats())
    }

    /// The detailed report; walks all live buffers and, where samples keep backtraces, looks up the
    /// names in them, which can take seconds the first time.
    #[must_use]
    pub fn report(&self) -> Report {
        self.pool().report()
    }

    /// The state to be drawn; costs as much as [`stats`](Self::stats) and [`samples`](Self::samples).
    #[must_use]
    pub fn dashboard(&self) -> Dashboard {
        self.pool().dashboard()
    }

    /// Records every allocation and free from now on, or none any more; returns the recorder there
    /// was, whose [`finish`](Recorder::finish) writes the trace to its end.
    ///
    /// The stream of an event is 0 for the host, otherwise one that stands for the queue. While
    /// recording, every call takes the slower path, which counts and serves from the same caches, so that what
    /// is held is as without a recorder. Calls that are under way when recording
    /// begins or ends may be missing.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use weldpool::{Allocator, trace::Recorder};
    ///
    /// # let path = std::env::temp_dir().join(format!("weldpool-record-{}.wpt", std::process::id()));
    /// let allocator = Allocator::host()?;
    /// allocator.record(Some(Arc::new(Recorder::create(&path)?)));
    /// drop(allocator.allocate(1000)?);
    /// let recorder = allocator.record(None).ok_or("nothing was recorded")?;
    /// assert_eq!(recorder.finish()?.events, 2);
    /// # std::fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn record(&self, recorder: Option<Arc<Recorder>>) -> Option<Arc<Recorder>> {
        self.pool().set_recorder(recorder)
    }
}
