//! The monitor: a thread that waits, assesses, and has something done.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::action::{ActionTable, Actions, Responder};
use super::config::PressureConfig;
use super::hysteresis::Hysteresis;
use super::ledger::{Ledger, PressureStats};
use super::level::{Level, Thresholds};
#[cfg(target_os = "linux")]
use super::linux as system;
#[cfg(target_os = "macos")]
use super::macos as system;
use super::source::{Notice, Source, SourceReport, Wakeup};
use super::watch::{Assessment, Watch};
use crate::device::host::wait::{Ready, Waiter, Waker};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicU32, Mutex, Ordering};

/// Sources and callbacks that one monitor takes.
const SOURCES_MAX: usize = 256;
const CALLBACKS_MAX: usize = 64;

/// Events closer together than this are answered together. A group at its limit can have thousands
/// in a second.
const EVENTS_APART: Duration = Duration::from_millis(20);

/// A change of level, as callbacks see it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PressureEvent {
    /// The level before.
    pub from: Level,
    /// The level now, and why.
    pub assessment: Assessment,
    /// What the responder was asked to do.
    pub actions: Actions,
    /// Bytes that it gave back.
    pub given_back_bytes: u64,
}

type Callback = Arc<dyn Fn(Level, &PressureEvent) + Send + Sync>;

/// Builds a [`PressureMonitor`].
#[derive(Default)]
#[must_use]
pub struct PressureMonitorBuilder {
    config: PressureConfig,
    sources: Vec<Box<dyn Source>>,
    missing: Vec<(String, String)>,
    responder: Option<Arc<dyn Responder>>,
    callbacks: Vec<Callback>,
}

impl fmt::Debug for PressureMonitorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureMonitorBuilder")
            .field("config", &self.config)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

impl PressureMonitorBuilder {
    /// Sets the configuration.
    pub fn config(mut self, config: PressureConfig) -> Self {
        self.config = config;
        self
    }

    /// Adds a source; at most 256 in all.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.sources.push(Box::new(source));
        self
    }

    /// Adds what the operating system offers. What it does not offer here shows in
    /// [`PressureMonitor::sources`] with the reason. On Linux these are the memory control groups of
    /// the process, and stalls (PSI) of its own group and of the system; on macOS the system's dispatch source.
    pub fn system_sources(mut self) -> Self {
        let found = system::sources();
        self.sources.extend(found.sources);
        let missing = found.missing.into_iter();
        self.missing
            .extend(missing.map(|(name, reason)| (name.to_owned(), reason)));
        self
    }

    /// Sets who acts on pressure. Default: nobody.
    pub fn responder(mut self, responder: Arc<dyn Responder>) -> Self {
        self.responder = Some(responder);
        self
    }

    /// Has a function called after each change of level; see [`PressureMonitor::on_change`].
    pub fn on_change(
        mut self,
        callback: impl Fn(Level, &PressureEvent) + Send + Sync + 'static,
    ) -> Self {
        self.callbacks.push(Arc::new(callback));
        self
    }

    /// Validates everything and, unless the configuration says otherwise, starts the thread, which
    /// makes a first assessment at once.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field,
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) for too many sources or callbacks, and
    /// [`System`](ErrorKind::System) when the thread or its descriptors cannot be had.
    pub fn start(self) -> Result<PressureMonitor> {
        self.config.validate()?;
        if self.sources.len() > SOURCES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "a pressure monitor takes at most 256 sources",
            ));
        }
        if self.callbacks.len() > CALLBACKS_MAX {
            return Err(too_many_callbacks());
        }
        let hysteresis = Hysteresis::new(self.config.thresholds)?;
        let hold = self.config.signal_hold;
        let inner = Arc::new(Inner {
            interval: self.config.interval,
            repeat: self.config.repeat,
            actions: Mutex::new(self.config.actions),
            watch: Mutex::new(Watch::new(self.sources, self.missing, hysteresis, hold)),
            turn: Mutex::new(Turn::default()),
            ledger: Mutex::new(Ledger::new(Instant::now())),
            callbacks: Mutex::new(self.callbacks),
            responder: self.responder,
            level: level_cell(Level::Normal),
            manual: level_cell(Level::Normal),
            stop: AtomicBool::new(false),
        });
        let running = if self.config.enabled {
            Some(start_thread(&inner)?)
        } else {
            None
        };
        Ok(PressureMonitor { inner, running })
    }
}

fn too_many_callbacks() -> Error {
    Error::new(
        ErrorKind::LimitExceeded,
        "a pressure monitor takes at most 64 callbacks",
    )
}

fn start_thread(inner: &Arc<Inner>) -> Result<Running> {
    let (waiter, waker) = Waiter::new()?;
    inner.watch.lock().set_wakeup(&Wakeup(waker.clone()));
    let descriptors = inner.descriptors()?;
    let shared = Arc::clone(inner);
    let thread = std::thread::Builder::new()
        .name("weldpool-pressure".into())
        .spawn(move || run(&shared, waiter, descriptors))
        .map_err(|error| {
            Error::system(ErrorKind::System, "spawn of the pressure thread", &error)
        })?;
    Ok(Running { waker, thread })
}

/// Watches memory pressure until it is dropped, which ends its thread and waits for that.
#[derive(Debug)]
pub struct PressureMonitor {
    inner: Arc<Inner>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    waker: Waker,
    thread: JoinHandle<()>,
}

impl PressureMonitor {
    /// Starts with no sources, nobody to respond and the default configuration.
    pub fn builder() -> PressureMonitorBuilder {
        PressureMonitorBuilder::default()
    }

    /// The level of the last assessment, not yet that of a [`signal`](Self::signal) just made; one load.
    #[must_use]
    pub fn level(&self) -> Level {
        self.inner.level()
    }

    /// Whether a thread watches.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Assesses and responds now, on this thread, and returns the level. From within a callback, a
    /// responder or a source it only returns the level.
    pub fn check(&self) -> Level {
        self.inner.check(&[])
    }

    /// Where no thread watches and the level is raised, assesses whether it is over, once in an interval at
    /// most. Never raises the level, nor does what the lower one asks for beyond holding caches down; does not
    /// wait for an assessment under way. For the allocator to call now and then.
    pub(crate) fn relax(&self) {
        if self.running.is_none() {
            self.inner.relax();
        }
    }

    /// Raises the level to at least `level`, until [`clear`](Self::clear) or another call; returns
    /// what was signalled before. The thread acts on it at once, after which [`level`](Self::level) says so, some
    /// tens of microseconds later; without one, or to wait for it, [`check`](Self::check)
    /// does, and [`clear`](Self::clear) is noticed within an interval of requests past the caches.
    pub fn signal(&self, level: Level) -> Level {
        let before = self
            .inner
            .manual
            .swap(level.index() as u32, Ordering::AcqRel);
        if let Some(running) = &self.running {
            running.waker.wake();
        }
        Level::from_index(before as usize)
    }

    /// Takes back what [`signal`](Self::signal) set, and returns it.
    pub fn clear(&self) -> Level {
        self.signal(Level::Normal)
    }

    /// Has a function called after each change of level, when the responder is done, with the new
    /// level. It runs on the monitor's thread, or on that of whoever calls [`check`](Self::check),
    /// and delays the next assessment; without a thread also on one whose allocation found no memory, or,
    /// when the level falls, on one whose allocation went past the caches. A panic in it is caught and
    /// logged.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) beyond 64 functions.
    pub fn on_change(
        &self,
        callback: impl Fn(Level, &PressureEvent) + Send + Sync + 'static,
    ) -> Result<()> {
        let mut callbacks = self.inner.callbacks.lock();
        if callbacks.len() >= CALLBACKS_MAX {
            return Err(too_many_callbacks());
        }
        callbacks.push(Arc::new(callback));
        Ok(())
    }

    /// Sets what is done at which level from the next response on; returns what it was.
    pub fn set_actions(&self, actions: ActionTable) -> ActionTable {
        std::mem::replace(&mut *self.inner.actions.lock(), actions)
    }

    /// Sets where levels begin from the next assessment on; returns what it was.
    ///
    /// # Errors
    ///
    /// As [`Thresholds::validate`]; the old ones stay in force.
    pub fn set_thresholds(&self, thresholds: Thresholds) -> Result<Thresholds> {
        self.inner
            .watch
            .lock()
            .hysteresis()
            .set_thresholds(thresholds)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> PressureStats {
        self.inner.ledger.lock().read(Instant::now())
    }

    /// The sources, what they last said, and those that this system does not offer with the reason.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceReport> {
        self.inner.watch.lock().report()
    }
}

impl Drop for PressureMonitor {
    fn drop(&mut self) {
        let Some(Running { waker, thread }) = self.running.take() else {
            return;
        };
        self.inner.stop.store(true, Ordering::Release);
        waker.wake();
        thread.thread().unpark();
        // A responder or callback may hold the last handle; the thread then ends by itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the pressure thread panicked");
        }
    }
}

thread_local! {
    /// Whether this thread is inside an assessment, so that one started from within it does not wait
    /// for itself.
    static ASSESSING: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as assessing until it is dropped.
struct Assessing;

impl Assessing {
    fn begin() -> Option<Self> {
        (!ASSESSING.replace(true)).then_some(Self)
    }
}

impl Drop for Assessing {
    fn drop(&mut self) {
        ASSESSING.set(false);
    }
}

/// What the handle and the thread share. Locks are taken in the order `turn`, `watch`; the others
/// are held for no call.
struct Inner {
    interval: Duration,
    repeat: Duration,
    actions: Mutex<ActionTable>,
    watch: Mutex<Watch>,
    turn: Mutex<Turn>,
    ledger: Mutex<Ledger>,
    callbacks: Mutex<Vec<Callback>>,
    responder: Option<Arc<dyn Responder>>,
    level: AtomicU32,
    manual: AtomicU32,
    stop: AtomicBool,
}

/// Held from the reading of sources to the last callback, so that responses are made in the order of
/// the assessments.
#[derive(Debug, Default)]
struct Turn {
    assessed: Option<Instant>,
    responded: Option<Instant>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("level", &self.level())
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

fn level_cell(level: Level) -> AtomicU32 {
    AtomicU32::new(level.index() as u32)
}

impl Inner {
    fn level(&self) -> Level {
        Level::from_index(self.level.load(Ordering::Acquire) as usize)
    }

    fn check(&self, notices: &[Notice]) -> Level {
        let Some(_assessing) = Assessing::begin() else {
            return self.level();
        };
        let mut turn = self.turn.lock();
        let now = Instant::now();
        let assessment = self.assess(&mut turn, notices, now);
        self.answer(&mut turn, assessment, now)
    }

    fn relax(&self) {
        if self.level() == Level::Normal {
            return;
        }
        let Some(_assessing) = Assessing::begin() else {
            return;
        };
        let Some(mut turn) = self.turn.try_lock() else {
            return;
        };
        let now = Instant::now();
        let since = |last| now.saturating_duration_since(last);
        if turn
            .assessed
            .is_some_and(|last| since(last) < self.interval)
        {
            return;
        }
        let assessment = self.assess(&mut turn, &[], now);
        // What a level asks for is not for a request to do that found memory; what it holds down is.
        if assessment.level < self.level() {
            let held = self.actions.lock().at(assessment.level).holds();
            let responded = turn.responded;
            self.answer_with(&mut turn, assessment, now, held);
            // The other steps of the level are due as before.
            turn.responded = responded;
        }
    }

    fn assess(&self, turn: &mut Turn, notices: &[Notice], now: Instant) -> Assessment {
        let manual = Level::from_index(self.manual.load(Ordering::Acquire) as usize);
        turn.assessed = Some(now);
        let assessment = self.watch.lock().assess(notices, manual, now);
        let mut ledger = self.ledger.lock();
        ledger.assessed(assessment.pressure, assessment.source.as_deref());
        assessment
    }

    /// Has done what an assessment asks for; returns its level.
    fn answer(&self, turn: &mut Turn, assessment: Assessment, now: Instant) -> Level {
        let actions = self.actions.lock().at(assessment.level);
        self.answer_with(turn, assessment, now, actions)
    }

    fn answer_with(
        &self,
        turn: &mut Turn,
        assessment: Assessment,
        now: Instant,
        actions: Actions,
    ) -> Level {
        let from = self.level();
        let to = assessment.level;
        self.level.store(to.index() as u32, Ordering::Release);
        self.ledger.lock().moved(to, now);
        let due = turn
            .responded
            .is_none_or(|last| now.saturating_duration_since(last) >= self.repeat);
        if from == to && (to == Level::Normal || !due) {
            return to;
        }
        let given_back_bytes = self.respond(to, actions);
        turn.responded = Some(now);
        if from != to {
            log(from, &assessment, given_back_bytes);
            self.tell(&PressureEvent {
                from,
                assessment,
                actions,
                given_back_bytes,
            });
        }
        to
    }

    fn respond(&self, level: Level, actions: Actions) -> u64 {
        let Some(responder) = &self.responder else {
            return 0;
        };
        let respond = AssertUnwindSafe(|| responder.respond(level, actions));
        let given_back = catch_unwind(respond).unwrap_or_else(|_| {
            tracing::error!(%level, "the responder to memory pressure panicked");
            self.ledger.lock().panicked();
            0
        });
        self.ledger.lock().responded(level, given_back);
        given_back
    }

    fn tell(&self, event: &PressureEvent) {
        let callbacks = self.callbacks.lock().clone();
        for callback in callbacks {
            let call = AssertUnwindSafe(|| callback(event.assessment.level, event));
            if catch_unwind(call).is_err() {
                tracing::error!("a callback of memory pressure panicked");
                self.ledger.lock().panicked();
            }
        }
    }

    /// The descriptors to wait on, each with the position of its source. They are duplicates, so
    /// that waiting on them holds no lock.
    fn descriptors(&self) -> Result<Vec<(usize, OwnedFd)>> {
        let watch = self.watch.lock();
        let mut descriptors = Vec::new();
        for (index, source) in watch.sources().enumerate() {
            if let Some(descriptor) = source.descriptor() {
                let descriptor = descriptor.try_clone_to_owned().map_err(|error| {
                    Error::system(ErrorKind::System, "dup of a pressure source", &error)
                })?;
                descriptors.push((index, descriptor));
            }
        }
        Ok(descriptors)
    }

    /// Which sources still have a descriptor.
    fn waited_for(&self) -> Vec<bool> {
        let watch = self.watch.lock();
        let waited_for = watch.sources().map(|source| source.descriptor().is_some());
        waited_for.collect()
    }

    /// How long to wait at most: until the interval or a held signal ends, or memory may be used up.
    fn timeout(&self) -> Duration {
        let patience = self.watch.lock().patience(Instant::now(), EVENTS_APART);
        patience.map_or(self.interval, |patience| {
            patience.max(Duration::from_millis(1)).min(self.interval)
        })
    }
}

/// `fullest` is what the pressure, a part used of a limit, comes from; `signal` and `seen` say who asked for the
/// level by an event, and why.
fn log(from: Level, assessment: &Assessment, given_back_bytes: u64) {
    let Assessment {
        level, pressure, ..
    } = assessment;
    let fullest = assessment.source.as_deref();
    let signal = assessment.signalled_by.as_deref();
    let seen = assessment.seen.as_deref();
    if *level > Level::Moderate {
        tracing::warn!(%from, to = %level, signal, seen, pressure, fullest, given_back_bytes, "memory pressure");
    } else {
        tracing::info!(%from, to = %level, signal, seen, pressure, fullest, given_back_bytes, "memory pressure");
    }
}

/// The thread.
fn run(inner: &Inner, mut waiter: Waiter, mut descriptors: Vec<(usize, OwnedFd)>) {
    let mut ready: Vec<Ready> = Vec::new();
    let mut notices: Vec<Notice> = Vec::new();
    while !inner.stop.load(Ordering::Acquire) {
        inner.check(&notices);
        let waited_for = inner.waited_for();
        descriptors.retain(|(index, _)| waited_for[*index]);
        let events = notices.iter().any(|notice| notice.event || notice.error);
        notices.clear();
        if events && wait(&mut waiter, &[], &mut ready, EVENTS_APART) {
            continue;
        }
        wait(&mut waiter, &descriptors, &mut ready, inner.timeout());
        notices.resize(waited_for.len(), Notice::default());
        for ((index, _), ready) in descriptors.iter().zip(&ready) {
            notices[*index] = Notice {
                event: ready.event,
                error: ready.error,
            };
        }
    }
}

/// Waits and says whether it was woken. Where the system refuses to wait, sleeps until the timeout
/// or the end.
fn wait(
    waiter: &mut Waiter,
    descriptors: &[(usize, OwnedFd)],
    ready: &mut Vec<Ready>,
    timeout: Duration,
) -> bool {
    let descriptors = descriptors.iter().map(|(_, descriptor)| descriptor);
    waiter
        .wait(descriptors, ready, timeout)
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "waiting for memory pressure failed; it is read at intervals");
            ready.clear();
            std::thread::park_timeout(timeout);
            false
        })
}

#[cfg(test)]
mod tests;
