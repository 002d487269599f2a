//! macOS's source: the three levels of memory pressure that the system tells by a dispatch source.
//!
//! An event says into which level the system went, and there is none while it stays there, so that the level lasts until
//! the next. Normal, warning and critical are levels of ours by the same names; the two between and above come of the
//! pressure ([`Hysteresis::update_lasting`](super::Hysteresis::update_lasting)).

#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::level::Level;
use super::source::{Notice, Reading, Source, SourceMode, Wakeup};
use crate::device::host::dispatch::{CRITICAL, Dispatch, NORMAL, WARN};
use crate::error::Result;
use crate::sync::{Arc, AtomicU32, OnceLock, Ordering};

const NAME: &str = "dispatch memorypressure";

/// The sources that this system offers.
#[cfg(target_os = "macos")]
pub(super) fn sources() -> super::source::Found {
    let mut found = super::source::Found::default();
    match PressureSource::open(crate::device::host::dispatch::raw::System) {
        Ok(source) => found.sources.push(Box::new(source)),
        Err(error) => found.missing.push((NAME, error.to_string())),
    }
    found
}

/// What the bits of an event say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// None that we know.
    Nothing,
    /// The system went into a level.
    Level(Level),
    /// It went through several, of which this is the worst; into which one last is not known.
    Several(Level),
}

impl Said {
    fn of(bits: usize) -> Self {
        let known = bits & (NORMAL | WARN | CRITICAL);
        let worst = match known {
            0 => return Self::Nothing,
            bits if bits & CRITICAL != 0 => Level::Critical,
            bits if bits & WARN != 0 => Level::Warning,
            _ => Level::Normal,
        };
        if known.is_power_of_two() {
            Self::Level(worst)
        } else {
            Self::Several(worst)
        }
    }
}

/// Set beside a level that may not be the last one.
const UNSURE: u32 = 1 << 8;

/// What the handler and the reader share. The handler takes no lock.
#[derive(Debug)]
struct Events {
    /// The index of a level, and perhaps [`UNSURE`].
    state: AtomicU32,
    /// The index of the worst level since the last reading.
    worst: AtomicU32,
    wakeup: OnceLock<Wakeup>,
}

impl Events {
    fn new() -> Self {
        Self {
            // Only changes are told: which level it is at the start has to be asked for.
            state: AtomicU32::new(UNSURE),
            worst: AtomicU32::new(0),
            wakeup: OnceLock::new(),
        }
    }

    /// Takes note of an event; wakes the monitor if it says something new.
    fn note(&self, bits: usize) {
        let (level, unsure) = match Said::of(bits) {
            Said::Nothing => return,
            Said::Level(level) => (level, 0),
            Said::Several(level) => (level, UNSURE),
        };
        let index = level.index() as u32;
        self.worst.fetch_max(index, Ordering::AcqRel);
        let before = self.state.swap(index | unsure, Ordering::AcqRel);
        if before != index
            && let Some(wakeup) = self.wakeup.get()
        {
            wakeup.wake();
        }
    }

    /// The worst event since the last reading, and the level that lasts; `ask` is asked where that is not known.
    fn read(&self, ask: impl FnOnce() -> Option<usize>) -> (Option<Level>, Level) {
        let state = self.state.load(Ordering::Acquire);
        let mut lasting = level(state & !UNSURE);
        if state & UNSURE != 0 {
            lasting = match ask().map(Said::of) {
                Some(Said::Level(level)) => level,
                // The event still counts, as one that passes.
                _ => Level::Normal,
            };
            let sure = lasting.index() as u32;
            let settled =
                self.state
                    .compare_exchange(state, sure, Ordering::AcqRel, Ordering::Acquire);
            // An event meanwhile knows better.
            if let Err(newer) = settled {
                lasting = level(newer & !UNSURE);
            }
        }
        let worst = level(self.worst.swap(0, Ordering::AcqRel));
        ((worst > Level::Normal).then_some(worst), lasting)
    }
}

fn level(index: u32) -> Level {
    Level::from_index(index as usize)
}

/// The source of a system.
#[derive(Debug)]
struct PressureSource<D: Dispatch> {
    dispatch: D,
    source: D::Source,
    events: Arc<Events>,
    seen: Level,
}

impl<D: Dispatch> PressureSource<D> {
    fn open(dispatch: D) -> Result<Self> {
        let events = Arc::new(Events::new());
        let noted = Arc::clone(&events);
        let handler = Box::new(move |bits| noted.note(bits));
        let source = dispatch.create(NORMAL | WARN | CRITICAL, handler)?;
        dispatch.activate(&source);
        Ok(Self {
            dispatch,
            source,
            events,
            seen: Level::Normal,
        })
    }
}

impl<D: Dispatch> Source for PressureSource<D> {
    fn name(&self) -> &str {
        NAME
    }

    fn read(&mut self, _notice: Notice) -> Result<Reading> {
        let (signal, lasting) = self.events.read(|| self.dispatch.level());
        self.seen = signal.unwrap_or(lasting);
        Ok(Reading {
            usage: None,
            signal,
            lasting,
        })
    }

    fn set_wakeup(&mut self, wakeup: Wakeup) {
        // A source has one monitor.
        let _second = self.events.wakeup.set(wakeup);
    }

    fn mode(&self) -> SourceMode {
        SourceMode::Events
    }

    fn seen(&self) -> Cow<'_, str> {
        Cow::Owned(format!("the system's memory pressure is {}", self.seen))
    }
}

impl<D: Dispatch> Drop for PressureSource<D> {
    fn drop(&mut self) {
        // Not waited for: a call under way, or none, finds what it uses, which the system lets go after the last.
        self.dispatch.cancel(&self.source);
    }
}

#[cfg(test)]
mod tests;
