//! Reads all sources and turns what they say into one assessment.

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::hysteresis::Hysteresis;
use super::level::Level;
use super::outlook::Outlook;
use super::source::{Notice, Source, SourceMode, SourceReport, Usage, Wakeup};
use crate::error::{Error, ErrorKind};

/// The name that a signal by hand has in events.
pub(super) const MANUAL: &str = "manual";

/// The state of memory at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Assessment {
    /// The level.
    pub level: Level,
    /// The greatest used / limit of all sources, from 0 to 1; 0 while none knows a limit.
    pub pressure: f64,
    /// The source it comes from.
    pub source: Option<String>,
    /// Who signals the level, if it is a signal that keeps it so high.
    pub signalled_by: Option<String>,
    /// What that one saw, as [`Source::seen`] says it.
    pub seen: Option<String>,
}

/// A source, and what it said last.
#[derive(Debug)]
struct Slot {
    source: Box<dyn Source>,
    usage: Option<Usage>,
    held: Option<(Level, Instant)>,
    lasting: Level,
    signals: u64,
    failures: u64,
    error: Option<Error>,
}

impl Slot {
    fn read(&mut self, notice: Notice, now: Instant, hold: Duration) {
        let source = &mut self.source;
        let reading = catch_unwind(AssertUnwindSafe(|| source.read(notice))).unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::System,
                "a source of memory pressure panicked",
            ))
        });
        self.held = self.held.filter(|&(_, until)| now < until);
        let lasted = std::mem::take(&mut self.lasting);
        match reading {
            Ok(reading) => {
                self.usage = reading.usage;
                self.error = None;
                if let Some(level) = reading.signal {
                    self.signals += 1;
                    self.hold(level, now, hold);
                }
                self.lasting = reading.lasting;
                // It may come back at once.
                if reading.lasting < lasted {
                    self.hold(lasted, now, hold);
                }
            }
            Err(error) => {
                if self.error.is_none() {
                    tracing::warn!(source = self.source.name(), %error, "memory pressure unread");
                }
                self.failures += 1;
                self.usage = None;
                self.error = Some(error);
            }
        }
    }

    /// A worse signal replaces the one held, a lesser one does not shorten it.
    fn hold(&mut self, level: Level, now: Instant, hold: Duration) {
        // Beyond what the clock can say, a signal is held until the next one.
        let until = now.checked_add(hold).unwrap_or(now);
        if self.held.is_none_or(|(held, _)| level >= held) {
            self.held = Some((level, until));
        }
    }

    fn signal(&self) -> Level {
        self.held
            .map_or(self.lasting, |(level, _)| level.max(self.lasting))
    }

    fn report(&self) -> SourceReport {
        SourceReport {
            name: self.source.name().to_owned(),
            mode: self.source.mode(),
            note: self.source.note().into_owned(),
            path: self.source.path().map(Path::to_owned),
            usage: self.usage,
            signal: self.signal(),
            signals: self.signals,
            failures: self.failures,
            error: self.error.clone(),
        }
    }
}

/// All sources and the state of the level.
#[derive(Debug)]
pub(super) struct Watch {
    slots: Vec<Slot>,
    missing: Vec<(String, String)>,
    hysteresis: Hysteresis,
    outlook: Outlook,
    hold: Duration,
}

impl Watch {
    pub(super) fn new(
        sources: Vec<Box<dyn Source>>,
        missing: Vec<(String, String)>,
        hysteresis: Hysteresis,
        hold: Duration,
    ) -> Self {
        let slots = sources
            .into_iter()
            .map(|source| Slot {
                source,
                usage: None,
                held: None,
                lasting: Level::Normal,
                signals: 0,
                failures: 0,
                error: None,
            })
            .collect();
        Self {
            slots,
            missing,
            hysteresis,
            outlook: Outlook::default(),
            hold,
        }
    }

    pub(super) fn hysteresis(&mut self) -> &mut Hysteresis {
        &mut self.hysteresis
    }

    /// Reads every source; `notices` are those of the first sources, the others have none. `manual`
    /// is the level signalled by hand.
    pub(super) fn assess(&mut self, notices: &[Notice], manual: Level, now: Instant) -> Assessment {
        let hold = self.hold;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            slot.read(notices.get(index).copied().unwrap_or_default(), now, hold);
        }
        let name = |slot: &Slot| slot.source.name().to_owned();
        let (pressure, source) = self
            .slots
            .iter()
            .filter_map(|slot| Some((slot.usage?.ratio(), slot)))
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .map_or((0.0, None), |(ratio, slot)| (ratio, Some(name(slot))));
        let worst = self.slots.iter().max_by_key(|slot| slot.signal());
        let (signal, signaller, seen) = match worst {
            Some(slot) if slot.signal() > manual => {
                let seen = slot.source.seen();
                let seen = (!seen.is_empty()).then(|| seen.into_owned());
                (slot.signal(), name(slot), seen)
            }
            _ => (manual, MANUAL.to_owned(), None),
        };
        self.outlook.read(pressure, now);
        let lasting = self.slots.iter().map(|slot| slot.lasting).max();
        let lasting = lasting.unwrap_or_default();
        let level = self.hysteresis.update_lasting(pressure, signal, lasting);
        let signalled = signal == level && level > Level::Normal;
        Assessment {
            level,
            pressure,
            source,
            signalled_by: signalled.then_some(signaller),
            seen: seen.filter(|_| signalled),
        }
    }

    /// How long the next assessment can wait besides the interval: until a held signal ends, and not so
    /// long that memory may be used up by then, but at least `least`.
    pub(super) fn patience(&self, now: Instant, least: Duration) -> Option<Duration> {
        let ends = self.slots.iter().filter_map(|slot| Some(slot.held?.1));
        let end = ends.min().map(|end| end.saturating_duration_since(now));
        self.outlook.next(least).into_iter().chain(end).min()
    }

    /// All sources, the ones that are not to be had here included.
    pub(super) fn report(&self) -> Vec<SourceReport> {
        let missing = self.missing.iter().map(|(name, reason)| SourceReport {
            name: name.clone(),
            mode: SourceMode::Unavailable,
            note: reason.clone(),
            path: None,
            usage: None,
            signal: Level::Normal,
            signals: 0,
            failures: 0,
            error: None,
        });
        self.slots.iter().map(Slot::report).chain(missing).collect()
    }

    /// Gives every source what wakes the monitor.
    pub(super) fn set_wakeup(&mut self, wakeup: &Wakeup) {
        for slot in &mut self.slots {
            slot.source.set_wakeup(wakeup.clone());
        }
    }

    /// Sources in the order of their notices.
    pub(super) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.slots.iter().map(|slot| &*slot.source)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gauge::Gauge;
    use super::super::level::Thresholds;
    use super::*;
    use crate::error::Result;
    use crate::pressure::source::Reading;

    /// Says what a script tells it to.
    #[derive(Debug)]
    struct Script(Vec<Result<Reading>>);

    impl Source for Script {
        fn name(&self) -> &str {
            "script"
        }

        fn read(&mut self, _notice: Notice) -> Result<Reading> {
            if self.0.is_empty() {
                return Ok(Reading::default());
            }
            self.0.remove(0)
        }
    }

    fn watch(sources: Vec<Box<dyn Source>>) -> Watch {
        let hysteresis = Hysteresis::new(Thresholds::default()).unwrap();
        let missing = vec![("psi".to_owned(), "not there".to_owned())];
        Watch::new(sources, missing, hysteresis, Duration::from_secs(3))
    }

    fn signal(level: Level) -> Result<Reading> {
        Ok(Reading {
            signal: Some(level),
            ..Reading::default()
        })
    }

    fn lasting(level: Level) -> Result<Reading> {
        Ok(Reading {
            lasting: level,
            ..Reading::default()
        })
    }

    fn gauge(name: &str, used: u64) -> Box<dyn Source> {
        Box::new(Gauge::new(name, move || Some(Usage { used, limit: 100 })))
    }

    #[test]
    fn the_greatest_ratio_is_the_pressure() {
        let mut watch = watch(vec![gauge("one", 30), gauge("two", 85), gauge("three", 84)]);
        let assessment = watch.assess(&[], Level::Normal, Instant::now());
        assert_eq!(assessment.level, Level::Warning);
        assert_eq!(assessment.pressure, 0.85);
        assert_eq!(assessment.source.as_deref(), Some("two"));
        assert_eq!(assessment.signalled_by, None);
    }

    #[test]
    fn without_a_source_there_is_no_pressure() {
        let assessment = watch(Vec::new()).assess(&[], Level::Normal, Instant::now());
        assert_eq!(assessment.level, Level::Normal);
        assert_eq!(assessment.source, None);
    }

    #[test]
    fn a_signal_is_held_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let script = Script(vec![
            signal(Level::Critical),
            signal(Level::Moderate),
            Ok(Reading::default()),
        ]);
        let mut watch = watch(vec![Box::new(script)]);
        let mut level = |seconds| watch.assess(&[], Level::Normal, at(seconds)).level;
        assert_eq!(level(0), Level::Critical);
        assert_eq!(
            level(1),
            Level::Critical,
            "a lesser one does not replace it"
        );
        assert_eq!(level(2), Level::Critical);
        assert_eq!(level(3), Level::Normal);
        assert_eq!(watch.patience(at(3), Duration::ZERO), None);
    }

    #[test]
    fn a_level_that_lasts_is_left_a_while_after_it_ended() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let script = Script(vec![
            lasting(Level::Warning),
            lasting(Level::Warning),
            lasting(Level::Normal),
            lasting(Level::Normal),
            lasting(Level::Critical),
            Err(Error::new(ErrorKind::System, "on purpose")),
        ]);
        let mut watch = watch(vec![Box::new(script)]);
        for (seconds, level) in [
            (0, Level::Warning),
            (100, Level::Warning),
            (200, Level::Warning),
            (203, Level::Normal),
            (204, Level::Critical),
            // Who cannot be read says nothing.
            (205, Level::Normal),
        ] {
            let seen = watch.assess(&[], Level::Normal, at(seconds));
            assert_eq!(seen.level, level, "after {seconds} s");
            let by = (level > Level::Normal).then_some("script");
            assert_eq!(seen.signalled_by.as_deref(), by, "after {seconds} s");
            let waits = watch.patience(at(seconds), Duration::ZERO).is_some();
            assert_eq!(
                waits,
                seconds == 200,
                "only a level that ended is waited for"
            );
        }
        assert_eq!(watch.report()[0].signals, 0, "no event was told");
    }

    #[test]
    fn a_critical_system_and_a_pressure_that_is_too_are_an_emergency() {
        let script = Script(vec![lasting(Level::Critical), lasting(Level::Critical)]);
        let mut used = [89, 90].into_iter();
        let gauge = Gauge::new("own", move || {
            let used = used.next()?;
            Some(Usage { used, limit: 100 })
        });
        let mut watch = watch(vec![Box::new(script), Box::new(gauge)]);
        let now = Instant::now();
        assert_eq!(watch.assess(&[], Level::Normal, now).level, Level::Critical);
        let assessment = watch.assess(&[], Level::Normal, now);
        assert_eq!(assessment.level, Level::Emergency);
        assert_eq!(assessment.source.as_deref(), Some("own"));
    }

    #[test]
    fn the_worse_of_signal_and_hand_counts() {
        let now = Instant::now();
        let mut watch = watch(vec![Box::new(Script(vec![signal(Level::Warning)]))]);
        let assessment = watch.assess(&[], Level::Moderate, now);
        assert_eq!(assessment.level, Level::Warning);
        assert_eq!(assessment.signalled_by.as_deref(), Some("script"));
        let assessment = watch.assess(&[], Level::Emergency, now);
        assert_eq!(assessment.signalled_by.as_deref(), Some(MANUAL));
        let patience = watch.patience(now, Duration::ZERO);
        assert_eq!(patience, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_source_that_fails_or_panics_is_left_out_and_tried_again() {
        let failing = Script(vec![Err(Error::new(ErrorKind::System, "on purpose"))]);
        let mut calls = 0;
        let panicking = Gauge::new("panics", move || {
            calls += 1;
            assert!(calls > 1, "on purpose");
            None
        });
        let mut watch = watch(vec![
            Box::new(failing),
            Box::new(panicking),
            gauge("good", 75),
        ]);
        let now = Instant::now();
        assert_eq!(watch.assess(&[], Level::Normal, now).level, Level::Moderate);
        let report = watch.report();
        assert_eq!(report.len(), 4);
        for source in &report[..2] {
            assert_eq!(source.failures, 1);
            assert!(source.error.is_some());
        }
        assert_eq!(report[3].mode, SourceMode::Unavailable);
        assert_eq!(report[3].note, "not there");
        watch.assess(&[], Level::Normal, now);
        assert!(watch.report().iter().all(|source| source.error.is_none()));
    }
}
