//! What happened so far: events, time at each level, and how long each spell of pressure lasted.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::level::Level;

/// Statistics of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LevelStats {
    /// Times the level was entered, from either side.
    pub entered: u64,
    /// Time spent at it, the present stay included.
    pub time: Duration,
    /// Calls of the responder for it.
    pub responses: u64,
    /// Bytes that went back to the system in those.
    pub given_back_bytes: u64,
}

/// How long it took from leaving [`Level::Normal`] until being back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resolutions {
    /// Spells that ended.
    pub count: u64,
    /// The last one.
    pub last: Duration,
    /// The longest one.
    pub max: Duration,
    /// All together.
    pub total: Duration,
}

impl Resolutions {
    /// The average; nothing before the first.
    #[must_use]
    pub fn mean(&self) -> Duration {
        u32::try_from(self.count)
            .ok()
            .filter(|&count| count > 0)
            .map_or(Duration::ZERO, |count| self.total / count)
    }
}

/// Statistics of a [`PressureMonitor`](super::PressureMonitor).
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct PressureStats {
    /// The level now.
    pub level: Level,
    /// The greatest used / limit of all sources, from 0 to 1.
    pub pressure: f64,
    /// The source it comes from; none while no source knows a limit.
    pub source: Option<String>,
    /// The levels, in the order of [`Level::ALL`].
    pub levels: [LevelStats; 5],
    /// Changes of level, in either direction.
    pub events: u64,
    /// Spells of pressure that ended.
    pub resolutions: Resolutions,
    /// Since when the level is not normal; none while it is.
    pub unresolved: Option<Duration>,
    /// Assessments made.
    pub assessments: u64,
    /// Calls of the responder.
    pub responses: u64,
    /// Bytes that went back to the system in answer to pressure.
    pub given_back_bytes: u64,
    /// Panics of responders and callbacks that were caught.
    pub panics: u64,
}

/// Keeps the statistics; it is told the time.
#[derive(Debug)]
pub(super) struct Ledger {
    stats: PressureStats,
    since: Instant,
    left_normal: Option<Instant>,
}

impl Ledger {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stats: PressureStats::default(),
            since: now,
            left_normal: None,
        }
    }

    pub(super) fn assessed(&mut self, pressure: f64, source: Option<&str>) {
        self.stats.assessments += 1;
        self.stats.pressure = pressure;
        if self.stats.source.as_deref() != source {
            self.stats.source = source.map(str::to_owned);
        }
    }

    /// Notes a change of level.
    pub(super) fn moved(&mut self, to: Level, now: Instant) {
        let from = self.stats.level;
        if from == to {
            return;
        }
        self.stats.levels[from.index()].time += now.saturating_duration_since(self.since);
        self.since = now;
        self.stats.level = to;
        self.stats.levels[to.index()].entered += 1;
        self.stats.events += 1;
        if from == Level::Normal {
            self.left_normal = Some(now);
        } else if to == Level::Normal
            && let Some(left) = self.left_normal.take()
        {
            let took = now.saturating_duration_since(left);
            let resolutions = &mut self.stats.resolutions;
            resolutions.count += 1;
            resolutions.last = took;
            resolutions.max = resolutions.max.max(took);
            resolutions.total += took;
        }
    }

    pub(super) fn responded(&mut self, level: Level, given_back: u64) {
        let at = &mut self.stats.levels[level.index()];
        at.responses += 1;
        at.given_back_bytes = at.given_back_bytes.saturating_add(given_back);
        self.stats.responses += 1;
        self.stats.given_back_bytes = self.stats.given_back_bytes.saturating_add(given_back);
    }

    pub(super) fn panicked(&mut self) {
        self.stats.panics += 1;
    }

    pub(super) fn read(&self, now: Instant) -> PressureStats {
        let mut stats = self.stats.clone();
        stats.levels[stats.level.index()].time += now.saturating_duration_since(self.since);
        stats.unresolved = self
            .left_normal
            .map(|left| now.saturating_duration_since(left));
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_counted_for_their_level() {
        let mut ledger = Ledger::new(Instant::now());
        for (level, bytes) in [
            (Level::Moderate, 3),
            (Level::Critical, 5),
            (Level::Critical, 7),
            (Level::Normal, 0),
        ] {
            ledger.responded(level, bytes);
        }
        let stats = ledger.read(Instant::now());
        let counted = stats
            .levels
            .map(|level| (level.responses, level.given_back_bytes));
        assert_eq!(counted, [(1, 0), (1, 3), (0, 0), (2, 12), (0, 0)]);
        assert_eq!((stats.responses, stats.given_back_bytes), (4, 15));
    }

    #[test]
    fn spells_and_stays_are_timed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let seconds = Duration::from_secs;
        let mut ledger = Ledger::new(start);
        ledger.moved(Level::Warning, at(10));
        ledger.moved(Level::Warning, at(11));
        ledger.moved(Level::Moderate, at(13));
        assert_eq!(ledger.read(at(14)).unresolved, Some(seconds(4)));
        ledger.moved(Level::Normal, at(16));
        ledger.moved(Level::Emergency, at(20));
        ledger.moved(Level::Normal, at(22));
        let stats = ledger.read(at(25));
        let times = stats.levels.map(|level| level.time);
        assert_eq!(
            times,
            [seconds(17), seconds(3), seconds(3), seconds(0), seconds(2)]
        );
        assert_eq!(stats.levels.map(|level| level.entered), [2, 1, 1, 0, 1]);
        assert_eq!(stats.events, 5);
        assert_eq!(
            stats.resolutions,
            Resolutions {
                count: 2,
                last: seconds(2),
                max: seconds(6),
                total: seconds(8)
            }
        );
        assert_eq!(stats.resolutions.mean(), seconds(4));
        assert_eq!(stats.unresolved, None);
        assert_eq!(Resolutions::default().mean(), Duration::ZERO);
    }
}
