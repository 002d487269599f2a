//! Where pressure is read.

use std::borrow::Cow;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use super::level::Level;
use crate::device::host::wait::Waker;
use crate::error::{Error, Result};

/// Memory used, of a limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use that cannot be had back for the asking.
    pub used: u64,
    /// Bytes there are.
    pub limit: u64,
}

impl Usage {
    /// used / limit, at most 1; 1 when the limit is 0.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.used >= self.limit {
            1.0
        } else {
            self.used as f64 / self.limit as f64
        }
    }
}

/// What a source says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Memory used, where this source knows a limit.
    pub usage: Option<Usage>,
    /// Level that the operating system asks for by an event since the last reading.
    pub signal: Option<Level>,
    /// Level that the operating system says holds until it says otherwise; [`Level::Normal`] for none.
    pub lasting: Level,
}

/// Wakes the monitor of a source, which reads all sources then. Any thread may, at any time: it takes no lock,
/// does not block, and does nothing once the monitor has ended.
#[derive(Debug, Clone)]
pub struct Wakeup(pub(super) Waker);

impl Wakeup {
    /// Wakes it.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// What the wait found out about a source's descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notice {
    /// Something happened (`POLLPRI`).
    pub event: bool,
    /// The system reports an error condition (`POLLERR`), which some files do with every event.
    pub error: bool,
}

/// How the monitor learns of changes in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceMode {
    /// The system wakes the monitor; the interval is only a safety net.
    Events,
    /// The monitor reads at its interval.
    Interval,
    /// The system does not offer it here; the report's note says why.
    Unavailable,
}

impl SourceMode {
    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Interval => "interval",
            Self::Unavailable => "unavailable",
        }
    }
}

/// One place where pressure is read.
pub trait Source: Debug + Send {
    /// Name in statistics and reports, the same for the life of the source.
    fn name(&self) -> &str;

    /// Reads it now. `notice` says what its descriptor reported since the last reading. Called with
    /// a lock of the monitor held: it must not call the monitor, and should not block.
    ///
    /// # Errors
    ///
    /// Whatever stands in the way. The source is left out of this assessment and tried again at the
    /// next; the error shows in [`sources`](super::PressureMonitor::sources).
    fn read(&mut self, notice: Notice) -> Result<Reading>;

    /// Gives it what wakes the monitor, before the monitor's thread first reads it: for a source that is told of
    /// changes on a thread of the system's. Not called where no thread watches.
    fn set_wakeup(&mut self, _wakeup: Wakeup) {}

    /// How changes are learned now.
    fn mode(&self) -> SourceMode {
        SourceMode::Interval
    }

    /// What it saw when it signalled last, for the log; empty when there is nothing to say.
    fn seen(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    /// What a reader of the report should know, such as why events are not used.
    fn note(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    /// The file or directory it reads, if there is one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// A descriptor to wait on for `POLLPRI`, asked for at the start and again after each reading:
    /// once there is none, the source is only read at the interval.
    #[cfg(unix)]
    fn descriptor(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// What was found on this system, and what was not, with the reason.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sources: Vec<Box<dyn Source>>,
    pub(super) missing: Vec<(&'static str, String)>,
}

/// A source as a report shows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// How changes are learned.
    pub mode: SourceMode,
    /// What one should know about it; empty when there is nothing.
    pub note: String,
    /// The file or directory it reads.
    pub path: Option<PathBuf>,
    /// The last usage it gave.
    pub usage: Option<Usage>,
    /// The level it holds up by a signal now, or that the system says lasts.
    pub signal: Level,
    /// Signals so far.
    pub signals: u64,
    /// Readings that failed so far.
    pub failures: u64,
    /// The error of the last reading, if it failed.
    pub error: Option<Error>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_stay_between_nothing_and_all() {
        for (used, limit, ratio) in [
            (0, 10, 0.0),
            (5, 10, 0.5),
            (10, 10, 1.0),
            (11, 10, 1.0),
            (0, 0, 1.0),
            (u64::MAX, u64::MAX, 1.0),
        ] {
            assert_eq!(Usage { used, limit }.ratio(), ratio, "{used} of {limit}");
        }
    }
}
