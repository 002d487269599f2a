//! The state of a queue, and the ways it goes on: by a thread of its own, or by hand.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::work::{Command, End, Ended, Failure, Memory, Move, Work};
use crate::device::Timeline;
use crate::device::backlog::{Backlog, Item, ROOM, Refused};
use crate::device::fake::call::Call;
use crate::device::fake::control::{Ledger, Step};
use crate::device::fake::random;
use crate::device::fence::{SoftwareTimeline, deadline_in, sleep, wait_for_other};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex, OnceLock};

/// Delays up to this long are waited out awake, since the system's sleep is no finer.
const AWAKE_MAX: Duration = Duration::from_micros(100);

/// How a queue behaves.
#[derive(Debug, Clone)]
pub(in crate::device::fake) struct Behaviour {
    pub(in crate::device::fake) seed: u64,
    /// Number of the queue on its device, from 0 in the order of creation.
    pub(in crate::device::fake) number: u64,
    /// Longest time by which an item is late.
    pub(in crate::device::fake) delay_max: Duration,
    /// Whether it goes on by hand.
    pub(in crate::device::fake) manual: bool,
    /// Whether host functions are called on threads that nobody else knows, as Metal does.
    pub(in crate::device::fake) foreign_threads: bool,
}

/// A queue, alive until it is closed and its work is done.
#[derive(Debug)]
pub(in crate::device::fake) struct Core {
    behaviour: Behaviour,
    memory: Arc<dyn Memory>,
    ledger: Arc<Ledger>,
    state: Mutex<State>,
    changed: Condvar,
    /// Held while work touches memory, so that a queue is lost only between two items.
    touching: Mutex<()>,
    progress: Arc<SoftwareTimeline>,
    /// What tells how far it has come, where signals are events of somebody else's.
    points: OnceLock<Arc<dyn Timeline>>,
    timeline: Arc<ChargedTimeline>,
}

#[derive(Debug, Default)]
struct State {
    backlog: Backlog<Work>,
    /// Items taken so far.
    taken: u64,
    busy: bool,
    closed: bool,
    hung: bool,
    lost: bool,
}

impl Core {
    pub(in crate::device::fake) fn new(
        behaviour: Behaviour,
        memory: Arc<dyn Memory>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        let progress = Arc::<SoftwareTimeline>::default();
        let timeline = ChargedTimeline::new(Arc::clone(&progress) as _, ledger);
        Self {
            behaviour,
            memory,
            progress,
            points: OnceLock::new(),
            ledger: Arc::clone(ledger),
            state: Mutex::default(),
            changed: Condvar::new(),
            touching: Mutex::default(),
            timeline: Arc::new(timeline),
        }
    }

    pub(super) fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::clone(&self.timeline) as Arc<dyn Timeline>
    }

    pub(super) fn memory(&self) -> &dyn Memory {
        self.memory.as_ref()
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(in crate::device::fake) fn reached(&self) -> u64 {
        match self.points.get() {
            Some(points) => points.completed().unwrap_or(0),
            None => self.progress.reached(),
        }
    }

    /// Says what tells how far it has come.
    pub(in crate::device::fake) fn set_points(&self, points: Arc<dyn Timeline>) {
        let _first = self.points.set(points);
    }

    /// Items submitted and not begun.
    pub(in crate::device::fake) fn waiting(&self) -> usize {
        self.state.lock().backlog.len()
    }

    /// Whether nothing will happen in it any more.
    pub(in crate::device::fake) fn is_finished(&self) -> bool {
        let state = self.state.lock();
        state.closed && (state.lost || (state.backlog.is_empty() && !state.busy))
    }

    pub(super) fn submit(&self, work: Work) -> Result<()> {
        let mut state = self.state.lock();
        let pushed = match state.lost {
            true => Err(Refused {
                work,
                error: lost(),
            }),
            false => state.backlog.push(work),
        };
        drop(state);
        self.changed.notify_all();
        pushed.map_err(Refused::into_error)
    }

    pub(super) fn signal(&self) -> Result<u64> {
        let mut state = self.state.lock();
        if state.lost {
            return Err(lost());
        }
        let value = state.backlog.signal();
        self.changed.notify_all();
        Ok(value)
    }

    /// Waits for room, which a queue that goes on by hand comes by only when it is stepped. A lost one has it: it refuses
    /// all the same.
    pub(super) fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = deadline_in(timeout);
        let mut state = self.state.lock();
        while !state.backlog.has_room() && !state.lost {
            if self.behaviour.manual && deadline.is_none() {
                return Err(Error::with_message(
                    ErrorKind::LimitExceeded,
                    format!("{ROOM} items wait in a queue that goes on by hand; step it"),
                ));
            }
            match sleep(&self.changed, state, deadline) {
                Some(woken) => state = woken,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether nothing will be done any more.
    pub(in crate::device::fake) fn is_lost(&self) -> bool {
        self.state.lock().lost
    }

    /// Submits a command buffer; `ended` is called with what becomes of it.
    pub(in crate::device::fake) fn commit(&self, commands: Vec<Command>, ended: Ended) {
        // What waits comes first in its part, so that it can be seen to wait.
        let mut parts: Vec<Vec<Command>> = vec![Vec::new()];
        for command in commands {
            let waits = matches!(command, Command::Wait(..));
            let begun = parts
                .last()
                .is_some_and(|part| part.iter().any(|other| !matches!(other, Command::Wait(..))));
            if waits && begun {
                parts.push(Vec::new());
            }
            if let Some(part) = parts.last_mut() {
                part.push(command);
            }
        }
        let mut ended = Some(ended);
        let terminated = Arc::<OnceLock<Error>>::default();
        let last = parts.len() - 1;
        for (number, part) in parts.into_iter().enumerate() {
            let end = End(if number == last { ended.take() } else { None });
            // A queue that is lost tells when it drops what it refuses.
            let _refused = self.submit(Work::Buffer(part, Arc::clone(&terminated), end));
        }
    }

    /// No more will be submitted; what was is still done.
    pub(in crate::device::fake) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Begins no further item until resumed.
    pub(in crate::device::fake) fn hang(&self, hung: bool) {
        self.state.lock().hung = hung;
        self.changed.notify_all();
    }

    /// Drops all work that has not begun, waits for what touches memory now, and fails everybody who
    /// waits for the queue.
    pub(in crate::device::fake) fn lose(&self) {
        let mut state = self.state.lock();
        state.lost = true;
        let never_run = state.backlog.take();
        drop(state);
        self.changed.notify_all();
        drop(self.touching.lock());
        self.progress.lose();
        drop(never_run);
    }

    /// Goes on until the queue is closed and empty, or lost.
    pub(in crate::device::fake) fn work(&self) {
        while let Some((number, item)) = self.next() {
            self.delay(number);
            self.run(item);
            self.state.lock().busy = false;
        }
    }

    fn next(&self) -> Option<(u64, Item<Work>)> {
        let mut state = self.state.lock();
        loop {
            if state.lost || (state.closed && state.backlog.is_empty()) {
                return None;
            }
            if !state.hung
                && let Some(item) = state.backlog.pop()
            {
                state.busy = true;
                state.taken += 1;
                self.changed.notify_all();
                return Some((state.taken, item));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Is as late as the seed says for this item.
    fn delay(&self, number: u64) {
        let Behaviour {
            seed, delay_max, ..
        } = self.behaviour;
        if delay_max.is_zero() {
            return;
        }
        let late = delay_max.mul_f64(random::fraction(seed, self.behaviour.number, number));
        if late > AWAKE_MAX {
            std::thread::sleep(late);
            return;
        }
        let start = Instant::now();
        while start.elapsed() < late {
            std::thread::yield_now();
        }
    }

    /// Does one item on the calling thread, if the queue goes on by hand.
    pub(in crate::device::fake) fn step(&self) -> Step {
        if !self.behaviour.manual {
            return Step::Idle;
        }
        let mut state = self.state.lock();
        if state.lost {
            return Step::Lost;
        }
        if state.hung {
            return Step::Held;
        }
        if state.busy {
            return Step::Waiting;
        }
        match state.backlog.front() {
            None => return Step::Idle,
            // A wait for a queue that died is over.
            Some(Item::Work(Work::Wait(other, value))) if waits(other, *value) => {
                return Step::Waiting;
            }
            Some(Item::Work(Work::Buffer(commands, ..)))
                if commands.iter().any(|command| {
                    matches!(command, Command::Wait(other, value) if waits(other, *value))
                }) =>
            {
                return Step::Waiting;
            }
            Some(_) => {}
        }
        let Some(item) = state.backlog.pop() else {
            return Step::Idle;
        };
        state.busy = true;
        drop(state);
        self.run(item);
        self.state.lock().busy = false;
        Step::Ran
    }

    fn run(&self, item: Item<Work>) {
        match item {
            Item::Work(Work::Move(work)) => drop(self.transfer(&work)),
            Item::Work(Work::Buffer(commands, terminated, end)) => {
                let mut outcome = Ok(());
                for command in commands {
                    if terminated.get().is_some() {
                        break;
                    }
                    let done = match command {
                        Command::Move(work) => self.transfer(&work),
                        Command::Wait(other, value) => match other.wait(value, None) {
                            Err(error) if error.kind() == ErrorKind::Timeout => {
                                let _first = terminated.set(error);
                                Ok(())
                            }
                            Err(_) => {
                                wait_for_other(&other, value);
                                Ok(())
                            }
                            Ok(_) => Ok(()),
                        },
                        Command::Touch(touch) => self.touch(touch),
                        Command::Do(work) => {
                            if !self.is_lost() {
                                work();
                            }
                            Ok(())
                        }
                    };
                    outcome = outcome.and(done);
                }
                let outcome = match terminated.get() {
                    Some(why) => Err(why.clone()),
                    None => outcome,
                };
                if self.is_lost() {
                    // Its drop tells.
                    drop(end);
                } else {
                    end.call(outcome);
                }
            }
            Item::Work(Work::Call(function)) => self.call(function),
            Item::Work(Work::Wait(other, value)) => wait_for_other(&other, value),
            Item::Signal(value) => {
                let _touching = self.touching.lock();
                if !self.state.lock().lost {
                    self.progress.reach(value);
                }
            }
        }
    }

    /// Moves bytes, if that keeps the rules and the queue is not lost.
    fn transfer(&self, work: &Move) -> Result<()> {
        let touching = self.touching.lock();
        if self.state.lock().lost {
            return Ok(());
        }
        // SAFETY: whoever submitted the work promised valid, unraced memory until it is done.
        let done = unsafe { work.run(self.memory.as_ref()) };
        drop(touching);
        match done {
            Ok(()) => Ok(()),
            Err(Failure::Broken(violation)) => {
                drop(self.ledger.record(violation));
                Ok(())
            }
            Err(Failure::System(error)) => {
                tracing::error!(%error, "a fake device's queue is lost: no memory for contents");
                self.lose();
                Ok(())
            }
        }
    }

    /// Touches memory, if the queue is not lost.
    fn touch(&self, touch: Box<dyn FnOnce() -> Result<()> + Send>) -> Result<()> {
        let touching = self.touching.lock();
        if self.state.lock().lost {
            return Ok(());
        }
        let done = touch();
        drop(touching);
        if let Err(error) = done {
            tracing::error!(%error, "a fake device's queue is lost: no memory for contents");
            self.lose();
        }
        Ok(())
    }

    fn call(&self, function: Box<dyn FnOnce() + Send>) {
        let returned = if self.behaviour.foreign_threads {
            let spawned = std::thread::Builder::new()
                .name("weldpool-handler".into())
                .spawn(function);
            match spawned {
                Ok(thread) => thread.join().is_ok(),
                Err(error) => {
                    tracing::error!(%error, "no thread for a host function; the queue is lost");
                    self.lose();
                    return;
                }
            }
        } else {
            catch_unwind(AssertUnwindSafe(function)).is_ok()
        };
        if !returned {
            tracing::error!("a host function on a queue panicked");
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::DeviceLost, "the queue was lost")
}

/// Whether a point has not passed. A wait for a queue that died is over.
fn waits(other: &Arc<dyn Timeline>, value: u64) -> bool {
    !other.wait(value, Some(Duration::ZERO)).unwrap_or(true)
}

/// A timeline that charges for being asked.
#[derive(Debug)]
pub(in crate::device::fake) struct ChargedTimeline {
    progress: Arc<dyn Timeline>,
    ledger: Arc<Ledger>,
}

impl ChargedTimeline {
    pub(in crate::device::fake) fn new(progress: Arc<dyn Timeline>, ledger: &Arc<Ledger>) -> Self {
        Self {
            progress,
            ledger: Arc::clone(ledger),
        }
    }

    /// What the device knows, by itself.
    pub(in crate::device::fake) fn progress(&self) -> Arc<dyn Timeline> {
        Arc::clone(&self.progress)
    }
}

impl Timeline for ChargedTimeline {
    fn completed(&self) -> Result<u64> {
        self.ledger.charge(self.ledger.event_query_ns);
        self.ledger.count(Call::Query)?;
        self.progress.completed()
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        self.ledger.charge(self.ledger.event_query_ns);
        self.ledger.count(Call::Wait)?;
        self.progress.wait(value, timeout)
    }
}
