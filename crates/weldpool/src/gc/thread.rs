//! The thread that collects at an interval.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::policy::{GcPlan, GcPolicy, Observation};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is collected: the allocator.
pub trait Collector: Send + Sync {
    /// How things stand. Called on the collecting thread; none when there is nothing to collect
    /// from any more, which ends the thread.
    fn observe(&self) -> Option<Observation>;

    /// Carries out a plan that is not empty and returns how many bytes went back to the system.
    fn collect(&self, plan: &GcPlan) -> u64;
}

/// Configuration of the collecting thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcConfig {
    /// Whether there is a thread. Default: on.
    pub enabled: bool,
    /// Time between collections, from 10 ms to a day. Default: 30 seconds.
    pub interval: Duration,
    /// The thresholds.
    pub policy: GcPolicy,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(30),
            policy: GcPolicy::default(),
        }
    }
}

impl GcConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field.
    pub fn validate(&self) -> Result<()> {
        self.policy.validate()?;
        if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&self.interval) {
            return Err(Error::with_message(
                ErrorKind::InvalidConfig,
                format!(
                    "GcConfig::interval is {:?}; it must be from 10 ms to a day",
                    self.interval
                ),
            ));
        }
        Ok(())
    }
}

/// Statistics of garbage collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GcStats {
    /// Times the allocator was looked at.
    pub runs: u64,
    /// Times there was something to do.
    pub collections: u64,
    /// Bytes that went back to the system.
    pub given_back_bytes: u64,
    /// Time spent in all runs.
    pub time: Duration,
    /// Panics of the collector that were caught.
    pub panics: u64,
}

/// Collects at an interval until it is dropped, which ends its thread and waits for that.
#[derive(Debug)]
pub struct GcThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    interval: Duration,
    policy: GcPolicy,
    stats: GcStats,
    woken: bool,
    stop: bool,
}

impl GcThread {
    /// Starts the thread, unless the configuration says that there is none.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field, [`System`](ErrorKind::System)
    /// when the thread cannot be started.
    pub fn start<C: Collector + 'static>(config: GcConfig, collector: C) -> Result<Self> {
        config.validate()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                interval: config.interval,
                policy: config.policy,
                stats: GcStats::default(),
                woken: false,
                stop: false,
            }),
            changed: Condvar::new(),
        });
        let thread = if config.enabled {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name("weldpool-gc".into())
                .spawn(move || shared.run(&collector))
                .map_err(|error| {
                    Error::system(ErrorKind::System, "spawn of the collecting thread", &error)
                })?;
            Some(thread)
        } else {
            None
        };
        Ok(Self { shared, thread })
    }

    /// Whether there is a thread.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.is_some()
    }

    /// Has the thread collect now instead of at the end of its interval.
    pub fn wake(&self) {
        self.shared.state.lock().woken = true;
        self.shared.changed.notify_all();
    }

    /// Sets the thresholds from the next collection on; returns the old ones.
    ///
    /// # Errors
    ///
    /// As [`GcPolicy::validate`]; the old ones stay in force.
    pub fn set_policy(&self, policy: GcPolicy) -> Result<GcPolicy> {
        policy.validate()?;
        let mut state = self.shared.state.lock();
        Ok(std::mem::replace(&mut state.policy, policy))
    }

    /// What was collected so far.
    #[must_use]
    pub fn stats(&self) -> GcStats {
        self.shared.state.lock().stats
    }
}

impl Drop for GcThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_all();
        // A collector may hold the last handle; the thread then ends by itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the collecting thread panicked");
        }
    }
}

impl Shared {
    fn run(&self, collector: &impl Collector) {
        while let Some(policy) = self.wait() {
            let start = Instant::now();
            let collected = catch_unwind(AssertUnwindSafe(|| {
                let plan = policy.decide(&collector.observe()?);
                let given_back = (!plan.is_empty()).then(|| collector.collect(&plan));
                Some(given_back)
            }));
            let mut state = self.state.lock();
            let stats = &mut state.stats;
            stats.runs += 1;
            stats.time += start.elapsed();
            match collected {
                Ok(Some(Some(bytes))) => {
                    stats.collections += 1;
                    stats.given_back_bytes = stats.given_back_bytes.saturating_add(bytes);
                }
                Ok(Some(None)) => {}
                Ok(None) => return,
                Err(_) => {
                    stats.panics += 1;
                    drop(state);
                    tracing::error!("garbage collection panicked");
                }
            }
        }
    }

    /// Waits for the next collection and returns its thresholds; none at the end.
    fn wait(&self) -> Option<GcPolicy> {
        let mut state = self.state.lock();
        let deadline = Instant::now().checked_add(state.interval)?;
        while !state.stop && !state.woken {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.sleep(state, left);
        }
        state.woken = false;
        (!state.stop).then_some(state.policy)
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        let woken = self.changed.wait_timeout(state, left);
        woken.unwrap_or_else(|poison| poison.into_inner()).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::sync::{AtomicU64, Ordering};

    const LONG: Duration = Duration::from_secs(30);
    const HOUR: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(10);

    /// Reserves a number of bytes of a thousand, and gives back what a plan says.
    #[derive(Clone)]
    struct Fake {
        reserved: Arc<AtomicU64>,
        plans: Sender<GcPlan>,
    }

    impl Collector for Fake {
        fn observe(&self) -> Option<Observation> {
            let reserved_bytes = self.reserved.load(Ordering::Acquire);
            assert_ne!(reserved_bytes, 13, "on purpose");
            (reserved_bytes > 0).then(|| Observation {
                live_bytes: 1,
                reserved_bytes,
                limit_bytes: Some(1000),
                ..Observation::default()
            })
        }

        fn collect(&self, plan: &GcPlan) -> u64 {
            let kept = plan.trim_to_bytes.unwrap();
            let before = self.reserved.swap(kept, Ordering::AcqRel);
            // The test may have seen enough.
            let _ = self.plans.send(*plan);
            before - kept
        }
    }

    fn config(enabled: bool, interval: Duration) -> GcConfig {
        GcConfig {
            enabled,
            interval,
            policy: GcPolicy::default(),
        }
    }

    fn until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < LONG, "it never happened");
            std::thread::sleep(SHORT / 10);
        }
    }

    #[test]
    fn it_collects_at_its_interval() {
        let (plans, received) = channel();
        let reserved = Arc::new(AtomicU64::new(1000));
        let fake = Fake {
            reserved: Arc::clone(&reserved),
            plans,
        };
        let thread = GcThread::start(config(true, SHORT), fake).unwrap();
        let plan = received.recv_timeout(LONG).unwrap();
        assert_eq!(plan.trim_to_bytes, Some(700));
        until(|| thread.stats().runs >= 3);
        let stats = thread.stats();
        assert_eq!(stats.collections, 1, "then there is nothing more to do");
        assert_eq!(stats.given_back_bytes, 300);
    }

    #[test]
    fn it_can_be_woken_and_changed() {
        let (plans, received) = channel();
        let reserved = Arc::new(AtomicU64::new(800));
        let fake = Fake {
            reserved: Arc::clone(&reserved),
            plans,
        };
        let thread = GcThread::start(config(true, HOUR), fake).unwrap();
        thread.wake();
        until(|| thread.stats().runs == 1);
        let lower = GcPolicy {
            watermark_high: 0.5,
            watermark_low: 0.1,
            ..GcPolicy::default()
        };
        assert_eq!(thread.set_policy(lower).unwrap(), GcPolicy::default());
        let wrong = GcPolicy {
            watermark_high: 0.0,
            ..lower
        };
        thread.set_policy(wrong).unwrap_err();
        thread.wake();
        assert_eq!(
            received.recv_timeout(LONG).unwrap().trim_to_bytes,
            Some(100)
        );
    }

    #[test]
    fn disabled_it_has_no_thread_and_holds_nothing() {
        let (plans, _received) = channel();
        let reserved = Arc::new(AtomicU64::new(1000));
        let fake = Fake {
            reserved: Arc::clone(&reserved),
            plans,
        };
        let thread = GcThread::start(config(false, SHORT), fake).unwrap();
        assert!(!thread.is_running());
        assert_eq!(Arc::strong_count(&reserved), 1);
        thread.wake();
        std::thread::sleep(3 * SHORT);
        assert_eq!(thread.stats(), GcStats::default());
    }

    #[test]
    fn drop_ends_the_thread_before_it_returns() {
        for interval in [SHORT, HOUR] {
            let (plans, _received) = channel();
            let reserved = Arc::new(AtomicU64::new(1000));
            let fake = Fake {
                reserved: Arc::clone(&reserved),
                plans,
            };
            let thread = GcThread::start(config(true, interval), fake).unwrap();
            assert!(thread.is_running());
            drop(thread);
            assert_eq!(Arc::strong_count(&reserved), 1);
        }
    }

    #[test]
    fn it_survives_a_panic_and_ends_with_what_it_collects_from() {
        let (plans, _received) = channel();
        let reserved = Arc::new(AtomicU64::new(13));
        let fake = Fake {
            reserved: Arc::clone(&reserved),
            plans,
        };
        let thread = GcThread::start(config(true, SHORT), fake).unwrap();
        until(|| thread.stats().panics >= 2);
        reserved.store(0, Ordering::Release);
        until(|| Arc::strong_count(&reserved) == 1);
    }

    #[test]
    fn wrong_intervals_are_refused() {
        let (plans, _received) = channel();
        let fake = Fake {
            reserved: Arc::default(),
            plans,
        };
        let error = GcThread::start(config(true, Duration::ZERO), fake).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("interval"), "{error}");
    }
}
