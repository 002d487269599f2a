//! What a test can see of a fake device and do to it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::call::Call;
use super::costs::Clock;
use super::faults::{Fault, Faults};
use super::queue::{Behaviour, Core, FakeQueue, Memory};
use super::random;
use super::violation::{Rule, Violation, Violations};
use crate::device::{DeviceQueue, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// What all parts of a device write to.
#[derive(Debug)]
pub(super) struct Ledger {
    clock: Clock,
    faults: Faults,
    violations: Violations,
    lost: AtomicBool,
    pub(super) event_record_ns: u64,
    pub(super) event_query_ns: u64,
}

impl Ledger {
    /// Begins a call: counts it, and fails it if it is to fail or the device is lost.
    pub(super) fn enter(&self, call: Call) -> Result<()> {
        self.count(call)?;
        if self.lost.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::DeviceLost,
                "the fake device was lost",
            ));
        }
        Ok(())
    }

    /// Counts a call that a lost device answers too, and fails it if it is to fail.
    pub(super) fn count(&self, call: Call) -> Result<()> {
        self.faults.check(call)
    }

    pub(super) fn charge(&self, nanoseconds: u64) {
        self.clock.charge(nanoseconds);
    }

    pub(super) fn charged_ns(&self) -> u64 {
        self.clock.ns()
    }

    pub(super) fn record(&self, violation: Violation) -> Error {
        self.violations.record(violation)
    }
}

/// What both devices can be told when they are made.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) ordinal: u32,
    pub(super) seed: u64,
    pub(super) delay_max: Duration,
    pub(super) manual: bool,
    pub(super) poison: bool,
    pub(super) faults: Vec<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ordinal: 0,
            seed: 0,
            delay_max: Duration::from_micros(20),
            manual: false,
            poison: false,
            faults: Vec::new(),
        }
    }
}

/// What one step of a queue that goes on by hand came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// One item was done.
    Ran,
    /// Nothing is submitted that has not been done, or queues run by themselves, or there is no such
    /// queue.
    Idle,
    /// The next item waits for another queue, or another thread is at this queue's item.
    Waiting,
    /// The queue hangs.
    Held,
    /// The queue was lost.
    Lost,
}

/// Control over a fake device: what it saw, and what is to go wrong.
///
/// Queues are numbered from 0 in the order of their creation. A number stays valid until the queue is
/// dropped and its work done.
#[derive(Debug)]
pub struct Control {
    ledger: Arc<Ledger>,
    settings: Settings,
    foreign_threads: bool,
    queues: Mutex<Queues>,
    rounds: AtomicU64,
}

#[derive(Debug, Default)]
struct Queues {
    cores: BTreeMap<u64, Arc<Core>>,
    next: u64,
}

impl Control {
    pub(super) fn new(
        settings: Settings,
        event_record_ns: u64,
        event_query_ns: u64,
        foreign_threads: bool,
    ) -> Self {
        let ledger = Ledger {
            clock: Clock::default(),
            faults: Faults::new(settings.seed, settings.faults.clone()),
            violations: Violations::default(),
            lost: AtomicBool::new(false),
            event_record_ns,
            event_query_ns,
        };
        Self {
            ledger: Arc::new(ledger),
            settings,
            foreign_threads,
            queues: Mutex::default(),
            rounds: AtomicU64::new(0),
        }
    }

    /// Records a broken rule unless something that a call takes is of this device.
    pub(super) fn check_own(&self, own: bool, what: &str) -> Result<()> {
        if own {
            return Ok(());
        }
        Err(self.ledger.record(Violation {
            rule: Rule::OwnMemory,
            text: format!("{what} is not of this device"),
        }))
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Whether queues are stepped by hand.
    pub(super) fn is_stepped(&self) -> bool {
        self.settings.manual
    }

    pub(super) fn create_queue(&self, memory: Arc<dyn Memory>) -> Result<Arc<dyn DeviceQueue>> {
        Ok(Arc::new(FakeQueue::new(self.create_core(memory)?)))
    }

    /// A queue's state, which goes on until it is closed.
    pub(super) fn create_core(&self, memory: Arc<dyn Memory>) -> Result<Arc<Core>> {
        let mut queues = self.queues.lock();
        // Under the lock, so that a queue is either refused or lost with the others.
        self.ledger.enter(Call::CreateQueue)?;
        queues.cores.retain(|_, core| !core.is_finished());
        let number = queues.next;
        let behaviour = Behaviour {
            seed: self.settings.seed,
            number,
            delay_max: self.settings.delay_max,
            manual: self.settings.manual,
            foreign_threads: self.foreign_threads,
        };
        let core = Arc::new(Core::new(behaviour, memory, &self.ledger));
        if !self.settings.manual {
            let working = Arc::clone(&core);
            std::thread::Builder::new()
                .name(format!("weldpool-fake-{number}"))
                .spawn(move || working.work())
                .map_err(|error| {
                    Error::system(ErrorKind::System, "spawn of a queue thread", &error)
                })?;
        }
        queues.next += 1;
        queues.cores.insert(number, Arc::clone(&core));
        Ok(core)
    }

    /// Says what tells how far the newest queue has come.
    pub(super) fn set_points(&self, points: Arc<dyn Timeline>) {
        let queues = self.queues.lock();
        if let Some((_, newest)) = queues.cores.last_key_value() {
            newest.set_points(points);
        }
    }

    /// The rules broken so far, oldest first; at most the first 256. A test asserts that there are none.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.ledger.violations.list()
    }

    /// How many rules were broken.
    #[must_use]
    pub fn violation_count(&self) -> u64 {
        self.ledger.violations.count()
    }

    /// Adds a fault to those planned.
    pub fn inject(&self, fault: Fault) {
        self.ledger.faults.add(fault);
    }

    /// Forgets all planned faults and returns them.
    pub fn clear_faults(&self) -> Vec<Fault> {
        self.ledger.faults.clear()
    }

    /// Calls of this kind so far, those that failed included.
    #[must_use]
    pub fn calls(&self, call: Call) -> u64 {
        self.ledger.faults.calls(call)
    }

    /// Loses the device: every later call fails, work that has not begun never runs, and everybody who
    /// waits for it gets [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn lose(&self) {
        let queues = self.queues.lock();
        self.ledger.lost.store(true, Ordering::Release);
        let cores: Vec<_> = queues.cores.values().cloned().collect();
        drop(queues);
        for core in cores {
            core.lose();
        }
    }

    /// Loses one queue; false if there is none of this number.
    pub fn lose_queue(&self, queue: u64) -> bool {
        self.with(queue, Core::lose).is_some()
    }

    /// Lets a queue begin no further work, so that its fences never pass; false if there is none of
    /// this number.
    pub fn hang(&self, queue: u64) -> bool {
        self.with(queue, |core| core.hang(true)).is_some()
    }

    /// Lets a hung queue go on; false if there is none of this number.
    pub fn resume(&self, queue: u64) -> bool {
        self.with(queue, |core| core.hang(false)).is_some()
    }

    /// The numbers of the queues that are not dropped or have work left.
    #[must_use]
    pub fn queues(&self) -> Vec<u64> {
        let mut queues = self.queues.lock();
        queues.cores.retain(|_, core| !core.is_finished());
        queues.cores.keys().copied().collect()
    }

    /// Items of a queue that have not begun.
    #[must_use]
    pub fn waiting(&self, queue: u64) -> usize {
        self.with(queue, Core::waiting).unwrap_or(0)
    }

    /// Does one item of a queue on the calling thread, where queues go on by hand.
    pub fn step(&self, queue: u64) -> Step {
        self.with(queue, Core::step).unwrap_or(Step::Idle)
    }

    /// Steps a queue, and others where it waits for them, until its timeline has reached `value`; false
    /// when it cannot.
    pub fn run_until(&self, queue: u64, value: u64) -> bool {
        loop {
            match self.with(queue, Core::reached) {
                None => return false,
                Some(reached) if reached >= value => return true,
                Some(_) => {}
            }
            match self.step(queue) {
                Step::Ran => {}
                Step::Waiting if self.step_any(Some(queue)) => {}
                _ => return false,
            }
        }
    }

    /// Steps queues in an order that the seed decides until none can go on; returns the steps made.
    pub fn run_all(&self) -> usize {
        let mut steps = 0;
        while self.step_any(None) {
            steps += 1;
        }
        steps
    }

    /// Does one item of some queue; false if none can go on.
    fn step_any(&self, except: Option<u64>) -> bool {
        let mut numbers = self.queues();
        numbers.retain(|&number| Some(number) != except);
        while !numbers.is_empty() {
            let round = self.rounds.fetch_add(1, Ordering::Relaxed);
            // A stream that no queue's delays use.
            let random = random::number(self.settings.seed, u64::MAX, round);
            let index = random % numbers.len() as u64;
            let number = numbers.swap_remove(usize::try_from(index).unwrap_or(0));
            if self.step(number) == Step::Ran {
                return true;
            }
        }
        false
    }

    fn with<T>(&self, queue: u64, function: impl FnOnce(&Core) -> T) -> Option<T> {
        let core = self.queues.lock().cores.get(&queue).cloned()?;
        Some(function(&core))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A thread that hangs would never end.
        for core in self.queues.get_mut().cores.values() {
            core.hang(false);
        }
    }
}
