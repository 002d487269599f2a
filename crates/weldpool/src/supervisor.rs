//! What watches over a pool from outside: the monitor of memory pressure and the collecting thread.

#![forbid(unsafe_code)]

use std::sync::Weak;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::gc::{Ages, Collector, GcConfig, GcPlan, GcThread, Observation};
use crate::pool::Pool;
use crate::pressure::{
    Actions, DeviceBudget, Gauge, Level, PressureConfig, PressureMonitor, Responder,
};
use crate::stats::Stats;
use crate::sync::{Arc, Mutex, OnceLock};

/// Belongs to the handles of an allocator, and ends with the last of them: dropping it ends its threads
/// and waits for that, with no lock of the pool held.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pool: Weak<Pool>,
    pressure: PressureConfig,
    monitor: OnceLock<PressureMonitor>,
    gc: GcThread,
}

impl Supervisor {
    /// Starts what the configuration asks for.
    pub(crate) fn start(
        pool: &Arc<Pool>,
        pressure: PressureConfig,
        gc: GcConfig,
    ) -> Result<Arc<Self>> {
        let supervisor = Arc::new(Self {
            pool: Arc::downgrade(pool),
            pressure,
            monitor: OnceLock::new(),
            gc: GcThread::start(gc, Caretaker::of(pool))?,
        });
        if pressure.enabled {
            supervisor.pressure()?;
        }
        pool.supervise(&supervisor);
        Ok(supervisor)
    }

    /// The monitor, which is made when it is first asked for unless it has a thread.
    pub(crate) fn pressure(&self) -> Result<&PressureMonitor> {
        if self.monitor.get().is_none() {
            let made = self.make_monitor()?;
            // Somebody else may have been faster; theirs is as good.
            let _second = self.monitor.set(made);
        }
        self.monitor
            .get()
            .ok_or_else(|| Error::new(ErrorKind::System, "the monitor of memory pressure is gone"))
    }

    fn make_monitor(&self) -> Result<PressureMonitor> {
        let pool = self
            .pool
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::System, "the pool of this allocator is closed"))?;
        let gauged = Weak::clone(&self.pool);
        PressureMonitor::builder()
            .config(self.pressure)
            .source(DeviceBudget::new(Arc::clone(pool.device())))
            .source(Gauge::new("reserved", move || gauged.upgrade()?.usage()))
            .system_sources()
            .responder(Arc::new(Caretaker::of(&pool)))
            .start()
    }

    /// Has garbage collected now; false when nothing collects.
    pub(crate) fn collect_soon(&self) -> bool {
        let running = self.gc.is_running();
        if running {
            self.gc.wake();
        }
        running
    }

    /// Has pressure assessed now and garbage collected soon; false when neither is watched.
    pub(crate) fn assess(&self) -> bool {
        self.collect_soon();
        match self.monitor.get() {
            Some(monitor) => {
                monitor.check();
                true
            }
            None => false,
        }
    }

    /// Has pressure assessed that may be over, where no thread does.
    pub(crate) fn relax(&self) {
        if let Some(monitor) = self.monitor.get() {
            monitor.relax();
        }
    }

    /// Adds what was watched to the statistics.
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        stats.gc = self.gc.stats();
        if let Some(monitor) = self.monitor.get() {
            let pressure = monitor.stats();
            stats.pressure = stats.pressure.max(pressure.pressure);
            stats.pressure_level = pressure.level;
            stats.pressure_events = pressure.events;
            stats.pressure_returned_bytes = pressure.given_back_bytes;
        }
    }
}

/// Looks after a pool for as long as there is one.
struct Caretaker {
    pool: Weak<Pool>,
    ages: Mutex<Ages>,
}

impl Caretaker {
    fn of(pool: &Arc<Pool>) -> Self {
        Self {
            pool: Arc::downgrade(pool),
            ages: Mutex::default(),
        }
    }
}

impl Responder for Caretaker {
    fn respond(&self, level: Level, actions: Actions) -> u64 {
        let pool = self.pool.upgrade();
        pool.map_or(0, |pool| pool.respond(level, actions))
    }
}

impl Collector for Caretaker {
    fn observe(&self) -> Option<Observation> {
        let pool = self.pool.upgrade()?;
        Some(pool.observe(&mut self.ages.lock(), Instant::now()))
    }

    fn collect(&self, plan: &GcPlan) -> u64 {
        let Some(pool) = self.pool.upgrade() else {
            return 0;
        };
        pool.collect_garbage(plan, &mut self.ages.lock(), Instant::now())
    }
}
