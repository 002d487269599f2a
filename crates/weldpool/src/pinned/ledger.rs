//! What is out, who waits, and what was counted. It knows no memory.

use std::time::{Duration, Instant};

use super::config::PinnedConfig;
use super::demand::{DemandId, Demands, Outcome, Task};
use super::stats::{Growths, PinnedStats, Waits};
use crate::counter::AtomicCounter;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering};

/// No level.
const NEVER: u64 = u64::MAX;

/// How often more is obtained for a caller whom what is free does not serve.
const INSISTED_MAX: u32 = 2;

/// Shared by the handles of a pool, its thread and its buffers.
#[derive(Debug)]
pub(super) struct Ledger {
    allocations_max: u64,
    allocation_bytes_max: usize,
    /// Memory is kept ready ahead of requests.
    ahead: bool,
    live: AtomicCounter,
    live_bytes: AtomicCounter,
    pageable: AtomicCounter,
    pageable_bytes: AtomicCounter,
    refused: AtomicU64,
    /// Callers that wait, of whom a free must tell.
    waiting: AtomicUsize,
    /// Bytes out beyond which less is ready than was asked for.
    ahead_beyond: AtomicU64,
    state: Mutex<State>,
    /// For the thread.
    wanted: Condvar,
    /// For callers.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    demands: Demands,
    /// Grows with each reason to look for memory again.
    changes: u64,
    /// Less is ready than was asked for.
    behind: bool,
    stop: bool,
    waits: Waits,
    growths: Growths,
}

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Obtain memory for a demand.
    Serve(Task),
    /// See to it that enough is ready.
    GetAhead,
    Stop,
}

/// What a wait came to.
#[derive(Debug)]
pub(super) enum Awaited {
    /// There may be memory.
    Changed,
    /// There will be none.
    Failed(Error),
    /// Time is up.
    Late,
}

impl Ledger {
    pub(super) fn new(config: &PinnedConfig) -> Self {
        let ahead = config.reserve_bytes > 0;
        Self {
            allocations_max: config.allocations_max as u64,
            allocation_bytes_max: config.allocation_bytes_max,
            ahead,
            live: AtomicCounter::default(),
            live_bytes: AtomicCounter::default(),
            pageable: AtomicCounter::default(),
            pageable_bytes: AtomicCounter::default(),
            refused: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            ahead_beyond: AtomicU64::new(NEVER),
            state: Mutex::new(State {
                demands: Demands::default(),
                changes: 0,
                behind: ahead,
                stop: false,
                waits: Waits::default(),
                growths: Growths::default(),
            }),
            wanted: Condvar::new(),
            changed: Condvar::new(),
        }
    }

    /// A place among the allocations that may be out.
    pub(super) fn enter(self: &Arc<Self>, request: &Request<'_>) -> Result<Slot> {
        let bytes = request.bytes;
        let refuse = |message| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let error = Error::with_message(ErrorKind::LimitExceeded, message);
            Err(error.for_request(bytes, request.name))
        };
        if bytes > self.allocation_bytes_max {
            let most = self.allocation_bytes_max;
            return refuse(format!(
                "a pinned allocation of {bytes} bytes; PinnedConfig::allocation_bytes_max is {most}"
            ));
        }
        if let Err(out) = self.live.try_add(1, self.allocations_max) {
            return refuse(format!(
                "{out} pinned allocations are out; PinnedConfig::allocations_max is {}",
                self.allocations_max
            ));
        }
        Ok(Slot {
            ledger: Arc::clone(self),
            bytes: 0,
            pageable: false,
            demand: None,
        })
    }

    /// A caller wants `need` bytes in one piece.
    pub(super) fn ask(&self, need: usize) -> Wait<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock();
        // What was ready did not do.
        state.behind |= self.ahead;
        let id = state.demands.add(need);
        let changes = state.changes;
        drop(state);
        self.wanted.notify_one();
        Wait {
            ledger: self,
            id,
            changes,
            grown: false,
            insisted: 0,
        }
    }

    /// What the thread is to do next; waits for it.
    pub(super) fn work(&self) -> Work {
        let mut state = self.state.lock();
        loop {
            if state.stop {
                return Work::Stop;
            }
            if let Some(task) = state.demands.task() {
                return Work::Serve(task);
            }
            if state.behind {
                state.behind = false;
                return Work::GetAhead;
            }
            state = wait(&self.wanted, state, None);
        }
    }

    /// Whether what is under way ahead of requests is to end here. If that is for a demand, it goes on after it.
    pub(super) fn interrupts(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = state.demands.task().is_some();
        state.behind |= wanted;
        wanted || state.stop
    }

    /// Ends the thread's work.
    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.wanted.notify_all();
    }

    /// What is free suffices for a demand.
    pub(super) fn suffices(&self, id: DemandId) {
        let mut state = self.state.lock();
        state.demands.end(id, Outcome::Grown);
        self.tell(state);
    }

    /// A step obtained memory, for a demand or ahead.
    pub(super) fn grew(&self, id: Option<DemandId>, bytes: usize, time: Duration) {
        let mut state = self.state.lock();
        state.growths.add(bytes, time);
        if id.is_some_and(|id| state.demands.grew(id, bytes)) {
            self.tell(state);
        }
    }

    /// A step failed: nobody waits any longer who needs `need` bytes or more.
    pub(super) fn growth_failed(&self, need: usize, error: &Error) {
        let mut state = self.state.lock();
        state.growths.failures += 1;
        state.demands.fail(need, error);
        self.tell(state);
    }

    /// Bytes out.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes.value()
    }

    /// Has more obtained when this many bytes more are out than `out`.
    pub(super) fn ahead_for(&self, out: u64, more: u64) {
        let beyond = out.saturating_add(more);
        self.ahead_beyond.store(beyond, Ordering::Relaxed);
    }

    /// Has callers look for memory again.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        state.changes += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Counts what is handed out.
    fn handed_out(&self, bytes: u64) {
        self.live_bytes.add(bytes);
        let beyond = self.ahead_beyond.load(Ordering::Relaxed);
        if self.live_bytes.value() > beyond {
            self.fall_behind();
        }
    }

    #[cold]
    fn fall_behind(&self) {
        self.ahead_beyond.store(NEVER, Ordering::Relaxed);
        self.state.lock().behind = true;
        self.wanted.notify_one();
    }

    pub(super) fn stats(&self) -> PinnedStats {
        let state = self.state.lock();
        let (waits, growths) = (state.waits, state.growths);
        let growing_bytes = state.demands.bytes();
        drop(state);
        PinnedStats {
            live: self.live.read(),
            live_bytes: self.live_bytes.read(),
            pageable: self.pageable.read(),
            pageable_bytes: self.pageable_bytes.read(),
            refused: self.refused.load(Ordering::Relaxed),
            waits: waits.count,
            wait_time: waits.time,
            wait_longest: waits.longest,
            growths: growths.count,
            growth_bytes: growths.bytes,
            growth_time: growths.time,
            growth_longest: growths.longest,
            growth_failures: growths.failures,
            growing_bytes,
        }
    }
}

/// Waits for a change, until a deadline if there is one.
fn wait<'a>(
    condition: &Condvar,
    state: MutexGuard<'a, State>,
    deadline: Option<Instant>,
) -> MutexGuard<'a, State> {
    match deadline {
        None => condition
            .wait(state)
            .unwrap_or_else(|poison| poison.into_inner()),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            let woken = condition.wait_timeout(state, left);
            woken.unwrap_or_else(|poison| poison.into_inner()).0
        }
    }
}

/// A caller that waits. Dropped, it wants nothing any more.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    ledger: &'a Ledger,
    id: DemandId,
    /// The last change that it knows.
    changes: u64,
    /// It was told that memory was obtained for it.
    grown: bool,
    /// How often that did not serve, and more was obtained.
    insisted: u32,
}

impl Wait<'_> {
    /// Waits for a reason to look again. A deadline of none is as far away as time goes.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> Awaited {
        let mut state = self.ledger.state.lock();
        if std::mem::take(&mut self.grown) {
            // It did not serve.
            state.demands.reopen(self.id);
            self.insisted += 1;
            self.ledger.wanted.notify_one();
        }
        loop {
            match state.demands.outcome(self.id) {
                Some(Outcome::Failed(error)) => return Awaited::Failed(error),
                Some(Outcome::Grown) => {
                    self.changes = state.changes;
                    self.grown = true;
                    return Awaited::Changed;
                }
                None => {}
            }
            // First, since others may free, and so change something, all the time.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Awaited::Late;
            }
            if state.changes != self.changes {
                self.changes = state.changes;
                return Awaited::Changed;
            }
            state = wait(&self.ledger.changed, state, deadline);
        }
    }

    /// Whether memory was obtained for it again and again. If it does not serve and is free, more will not either.
    pub(super) fn is_in_vain(&self) -> bool {
        self.grown && self.insisted >= INSISTED_MAX
    }

    /// The wait has ended after `time`, and no memory is to come.
    pub(super) fn over(self, time: Duration) {
        self.ledger.state.lock().waits.add(time);
    }

    /// The wait has ended after `time`. What is still to be obtained is, for the next.
    pub(super) fn gave_up(self, time: Duration) -> Option<DemandId> {
        let mut state = self.ledger.state.lock();
        state.waits.add(time);
        let id = self.id;
        let owed = state.demands.abandon(id).then_some(id);
        drop(state);
        self.ledger.waiting.fetch_sub(1, Ordering::Relaxed);
        std::mem::forget(self);
        owed
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.ledger.state.lock().demands.remove(self.id);
        self.ledger.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the allocations that are out, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    ledger: Arc<Ledger>,
    /// What was handed out, if anything was yet.
    bytes: u64,
    pageable: bool,
    /// What is being obtained for it.
    demand: Option<DemandId>,
}

impl Slot {
    /// The same, with what is being obtained for it.
    pub(super) fn owing(mut self, demand: Option<DemandId>) -> Self {
        self.demand = demand;
        self
    }

    /// Counts what is handed out in it.
    pub(super) fn fill(mut self, bytes: usize, pageable: bool) -> Self {
        self.bytes = bytes as u64;
        self.pageable = pageable;
        self.ledger.handed_out(self.bytes);
        if pageable {
            self.ledger.pageable.add(1);
            self.ledger.pageable_bytes.add(self.bytes);
        }
        self
    }

    pub(super) fn is_pageable(&self) -> bool {
        self.pageable
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let ledger = &*self.ledger;
        ledger.live_bytes.subtract(self.bytes);
        if self.pageable {
            ledger.pageable.subtract(1);
            ledger.pageable_bytes.subtract(self.bytes);
        }
        ledger.live.subtract(1);
        if let Some(id) = self.demand {
            ledger.state.lock().demands.orphan(id);
        }
        if ledger.waiting.load(Ordering::Relaxed) > 0 {
            ledger.tell(ledger.state.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(reserve_bytes: u64) -> Ledger {
        Ledger::new(&PinnedConfig {
            reserve_bytes,
            ..PinnedConfig::default()
        })
    }

    fn serve(ledger: &Ledger) -> Task {
        match ledger.work() {
            Work::Serve(task) => task,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn demands_and_the_end_interrupt_what_is_obtained_ahead() {
        let ledger = ledger(0);
        assert!(!ledger.interrupts());
        let wait = ledger.ask(100);
        assert!(ledger.interrupts());
        ledger.suffices(serve(&ledger).id);
        assert!(matches!(ledger.work(), Work::GetAhead), "it goes on");
        assert!(!ledger.interrupts());
        ledger.stop();
        assert!(ledger.interrupts());
        assert!(matches!(ledger.work(), Work::Stop));
        drop(wait);
    }

    #[test]
    fn a_request_that_was_not_served_has_what_is_ready_looked_at() {
        let ledger = ledger(1);
        assert!(matches!(ledger.work(), Work::GetAhead));
        ledger.ahead_for(0, 1000);
        drop(ledger.ask(100));
        assert!(matches!(ledger.work(), Work::GetAhead));
    }

    #[test]
    fn what_does_not_serve_is_insisted_on_twice() {
        let ledger = ledger(0);
        let mut wait = ledger.ask(100);
        for insists in [false, true, true] {
            assert!(!wait.is_in_vain());
            assert!(matches!(wait.wait(Some(Instant::now())), Awaited::Late));
            let task = serve(&ledger);
            assert_eq!(task.insists, insists);
            ledger.grew(Some(task.id), 100, Duration::ZERO);
            let end = wait.wait(Some(Instant::now()));
            assert!(matches!(end, Awaited::Changed));
        }
        assert!(wait.is_in_vain());
    }

    /// Others may free, and so change something, all the time.
    #[test]
    fn time_is_up_whatever_others_change() {
        let ledger = Arc::new(ledger(1));
        let mut wait = ledger.ask(100);
        let freed = ledger.enter(&Request::new(10)).unwrap();
        drop(freed);
        assert!(matches!(wait.wait(None), Awaited::Changed));
        let freed = ledger.enter(&Request::new(10)).unwrap();
        drop(freed);
        assert!(matches!(wait.wait(Some(Instant::now())), Awaited::Late));
    }
}
