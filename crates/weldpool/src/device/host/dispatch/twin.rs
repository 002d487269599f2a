//! Dispatch in software: sources that behave as [documented](super), and notes of who breaks a rule.

#![forbid(unsafe_code)]

use std::thread::ThreadId;
use std::time::Duration;

use super::{Dispatch, Handler};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Real sources crash the program.
    ReleasedInactive,
    /// The handler would be called for ever.
    ReleasedUncancelled,
    /// What it uses may be gone.
    CalledAfterEnd,
}

/// How a call of the handler comes after its event.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Delivery {
    /// As soon as a thread is there.
    #[default]
    Soon,
    /// So much later; events meanwhile are coalesced.
    Late(Duration),
    /// When [`Twin::deliver`] says so.
    ByHand,
}

/// A system with one source at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Twin(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    delivery: Delivery,
    refuses: bool,
    level: Option<usize>,
    mask: usize,
    active: bool,
    cancelled: bool,
    /// The cancellation handler was called.
    ended: bool,
    /// Bits that the handler has yet to be told.
    pending: usize,
    /// Calls that are allowed by hand.
    allowed: usize,
    running: bool,
    handler: Option<Arc<Handler>>,
    told: Vec<(usize, ThreadId)>,
    violations: Vec<Violation>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("pending", &self.pending)
            .field("violations", &self.violations)
            .finish_non_exhaustive()
    }
}

impl Twin {
    pub(crate) fn new(delivery: Delivery) -> Self {
        let twin = Self::default();
        twin.0.state.lock().delivery = delivery;
        twin
    }

    /// Makes no more sources.
    pub(crate) fn refuse(&self) {
        self.0.state.lock().refuses = true;
    }

    /// Sets the level that can be asked for, and tells nobody.
    pub(crate) fn set_level(&self, level: Option<usize>) {
        self.0.state.lock().level = level;
    }

    /// The system's level becomes that of `bit`.
    pub(crate) fn raise(&self, bit: usize) {
        let mut state = self.0.state.lock();
        state.level = Some(bit);
        if state.active && !state.cancelled {
            state.pending |= bit & state.mask;
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// Lets one call of the handler happen, and waits until it has.
    pub(crate) fn deliver(&self) {
        let mut state = self.0.state.lock();
        let told = state.told.len();
        state.allowed += 1;
        self.0.changed.notify_all();
        while state.told.len() == told || state.running {
            state = self.0.wait(state);
        }
    }

    /// Waits until the cancellation handler was called.
    pub(crate) fn await_end(&self) {
        let mut state = self.0.state.lock();
        while !state.ended {
            state = self.0.wait(state);
        }
    }

    /// Whether a handler is still kept.
    pub(crate) fn keeps_handler(&self) -> bool {
        self.0.state.lock().handler.is_some()
    }

    /// Calls the handler, as a stray block that was never taken out of its queue would.
    pub(crate) fn call_stray(&self, bits: usize) {
        let mut state = self.0.state.lock();
        match state.handler.clone() {
            Some(handler) => {
                drop(state);
                handler(bits);
            }
            None => state.violations.push(Violation::CalledAfterEnd),
        }
    }

    /// What the handler was told, and on which threads.
    pub(crate) fn told(&self) -> Vec<(usize, ThreadId)> {
        self.0.state.lock().told.clone()
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.0.state.lock().violations.clone()
    }
}

impl Shared {
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The system's thread, for the life of a source.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if state.cancelled {
                let handler = state.handler.take();
                drop(state);
                drop(handler);
                self.state.lock().ended = true;
                self.changed.notify_all();
                return;
            }
            let by_hand = matches!(state.delivery, Delivery::ByHand);
            if state.pending == 0 || (by_hand && state.allowed == 0) {
                state = self.wait(state);
                continue;
            }
            if let Delivery::Late(delay) = state.delivery {
                drop(state);
                std::thread::sleep(delay);
                state = self.state.lock();
                if state.cancelled {
                    continue;
                }
            }
            state.allowed = state.allowed.saturating_sub(1);
            state.running = true;
            let bits = std::mem::take(&mut state.pending);
            state.told.push((bits, std::thread::current().id()));
            let handler = state.handler.clone();
            drop(state);
            if let Some(handler) = handler {
                handler(bits);
            }
            state = self.state.lock();
            state.running = false;
            self.changed.notify_all();
        }
    }
}

/// A source of the twin's.
#[derive(Debug)]
pub(crate) struct Source(Arc<Shared>);

impl Dispatch for Twin {
    type Source = Source;

    fn create(&self, mask: usize, handler: Handler) -> Result<Source> {
        let mut state = self.0.state.lock();
        if state.refuses {
            return Err(Error::new(ErrorKind::Unsupported, "refused on purpose"));
        }
        state.mask = mask;
        state.handler = Some(Arc::new(handler));
        drop(state);
        let shared = Arc::clone(&self.0);
        std::thread::spawn(move || shared.run());
        Ok(Source(Arc::clone(&self.0)))
    }

    fn activate(&self, source: &Source) {
        source.0.state.lock().active = true;
    }

    fn cancel(&self, source: &Source) {
        let mut state = source.0.state.lock();
        state.cancelled = true;
        state.pending = 0;
        drop(state);
        source.0.changed.notify_all();
    }

    fn level(&self) -> Option<usize> {
        self.0.state.lock().level
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if !state.active {
            state.violations.push(Violation::ReleasedInactive);
        } else if !state.cancelled {
            state.violations.push(Violation::ReleasedUncancelled);
        }
        // The model's thread ends either way.
        state.cancelled = true;
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CRITICAL, NORMAL, WARN};
    use super::*;
    use crate::sync::{AtomicUsize, Ordering};

    const ALL: usize = NORMAL | WARN | CRITICAL;

    fn ignore() -> Handler {
        Box::new(|_| ())
    }

    #[test]
    fn a_source_that_is_released_inactive_or_uncancelled_is_noted() {
        let twin = Twin::default();
        drop(twin.create(ALL, ignore()).unwrap());
        assert_eq!(twin.violations(), [Violation::ReleasedInactive]);

        let twin = Twin::default();
        let source = twin.create(ALL, ignore()).unwrap();
        twin.activate(&source);
        drop(source);
        assert_eq!(twin.violations(), [Violation::ReleasedUncancelled]);
    }

    #[test]
    fn a_call_after_the_cancellation_handler_is_noted() {
        let twin = Twin::default();
        let source = twin.create(ALL, ignore()).unwrap();
        twin.activate(&source);
        twin.call_stray(WARN);
        assert_eq!(twin.violations(), []);
        twin.cancel(&source);
        twin.await_end();
        twin.call_stray(WARN);
        assert_eq!(twin.violations(), [Violation::CalledAfterEnd]);
    }

    #[test]
    fn events_are_coalesced_masked_and_told_on_another_thread() {
        let twin = Twin::new(Delivery::ByHand);
        let source = twin.create(WARN | CRITICAL, ignore()).unwrap();
        twin.raise(CRITICAL);
        twin.activate(&source);
        for bit in [WARN, CRITICAL, NORMAL] {
            twin.raise(bit);
        }
        twin.deliver();
        twin.raise(WARN);
        twin.deliver();
        let told = twin.told();
        let bits: Vec<_> = told.iter().map(|&(bits, _)| bits).collect();
        assert_eq!(bits, [WARN | CRITICAL, WARN], "inactive ones are not told");
        let own = std::thread::current().id();
        assert!(told.iter().all(|&(_, thread)| thread != own));
        twin.cancel(&source);
        drop(source);
        assert_eq!(twin.violations(), []);
    }

    #[test]
    fn a_cancel_lets_the_call_under_way_end_and_no_other_begin() {
        let twin = Twin::default();
        let gate = Arc::new(Mutex::new(()));
        let calls = Arc::new(AtomicUsize::new(0));
        let (inside, counted) = (Arc::clone(&gate), Arc::clone(&calls));
        let closed = gate.lock();
        let source = twin
            .create(
                ALL,
                Box::new(move |_| {
                    counted.fetch_add(1, Ordering::AcqRel);
                    drop(inside.lock());
                }),
            )
            .unwrap();
        twin.activate(&source);
        twin.raise(WARN);
        while calls.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        twin.raise(CRITICAL);
        twin.cancel(&source);
        assert!(twin.keeps_handler(), "a call is under way");
        drop(closed);
        twin.await_end();
        assert!(!twin.keeps_handler());
        assert_eq!(calls.load(Ordering::Acquire), 1);
    }
}
