//! Linux's sources: control groups and stalls for want of memory.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::level::Level;
use super::source::{Found, Notice, Reading, Source, SourceMode, Usage};
use crate::device::host::control_group::{Events, MemoryGroup, Version};
use crate::device::host::stall::{self, Line, Trigger};
use crate::error::Result;

/// Stalls of the whole system.
const SYSTEM_STALLS: &str = "/proc/pressure/memory";

/// Shares of time stalled that count as a signal: 15 % for some task, 10 % for all.
const SHARES: [(Line, f64); 2] = [(Line::Some, 0.15), (Line::Full, 0.10)];

/// A group that runs into its limit with less than this part of it in use is only having its file
/// pages taken, as happens to whoever reads large files.
const RECLAIM_ONLY_BELOW: f64 = 0.5;

/// The sources that this system offers: each memory group of the process, and stalls of its own
/// group and of the system.
pub(super) fn sources() -> Found {
    let mut found = Found {
        sources: Vec::new(),
        missing: Vec::new(),
    };
    let groups = match MemoryGroup::of_this_process() {
        Ok(groups) => groups,
        Err(error) => {
            found.missing.push(("cgroup", error.to_string()));
            Vec::new()
        }
    };
    if groups.is_empty() && found.missing.is_empty() {
        found.missing.push((
            "cgroup",
            "the process is in no group with a visible memory controller".into(),
        ));
    }
    let own = groups
        .first()
        .filter(|group| group.version() == Version::Two)
        .map(|group| group.directory().join("memory.pressure"));
    for (distance, group) in groups.into_iter().enumerate() {
        let source = GroupSource::new(group, distance);
        found.sources.push(Box::new(source));
    }
    // A group's own stalls say what those of others cannot: that this process is affected. Where
    // they are known, those of the whole system count one level less.
    let own_is_known = match own {
        None => false,
        Some(path) => add_stalls(&mut found, "psi cgroup", &path, Level::Warning),
    };
    let system = if own_is_known {
        Level::Moderate
    } else {
        Level::Warning
    };
    add_stalls(&mut found, "psi system", SYSTEM_STALLS.as_ref(), system);
    found
}

/// Adds a file's two lines, the second one level worse; says whether there was any.
fn add_stalls(found: &mut Found, name: &'static str, path: &Path, some: Level) -> bool {
    let mut any = false;
    for (index, (line, share)) in SHARES.into_iter().enumerate() {
        let level = Level::from_index(some.index() + index);
        match StallSource::open(name, path, line, share, level) {
            Ok(source) => {
                found.sources.push(Box::new(source));
                any = true;
            }
            Err(error) => found.missing.push((name, error.to_string())),
        }
    }
    any
}

/// One memory group: used against its limit, and signals when it ran into one.
#[derive(Debug)]
struct GroupSource {
    name: String,
    note: String,
    group: MemoryGroup,
    events: Option<File>,
    last: Option<Events>,
}

impl GroupSource {
    /// `distance` is 0 for the process's own group, 1 for the one around it, and so on.
    fn new(group: MemoryGroup, distance: usize) -> Self {
        let version = match group.version() {
            Version::One => "cgroup v1",
            Version::Two => "cgroup v2",
        };
        let (events, note) = match group.open_events() {
            Ok(Some(file)) => (Some(file), String::new()),
            Ok(None) => (None, "version 1 has no events to wait for".to_owned()),
            Err(error) => (None, error.to_string()),
        };
        Self {
            name: match distance {
                0 => version.to_owned(),
                _ => format!("{version} parent {distance}"),
            },
            note,
            group,
            events,
            last: None,
        }
    }

    fn usage(&self) -> Result<Option<Usage>> {
        let Some(limit) = self.group.effective_limit()? else {
            return Ok(None);
        };
        let used = self.group.used()?;
        Ok(Some(Usage { used, limit }))
    }

    /// The level that the counters ask for since they were last looked at.
    fn signal(&mut self, usage: Option<Usage>) -> Result<Option<Level>> {
        let now = self.group.events(self.events.as_ref())?;
        // What happened before the monitor began is history.
        let before = self.last.replace(now).unwrap_or(now);
        Ok(signal_of(before, now, usage.map(Usage::ratio)))
    }
}

fn signal_of(before: Events, now: Events, ratio: Option<f64>) -> Option<Level> {
    if now.oom > before.oom || now.oom_kill > before.oom_kill {
        return Some(Level::Emergency);
    }
    let level = if now.max > before.max {
        Level::Critical
    } else if now.high > before.high {
        Level::Warning
    } else {
        return None;
    };
    let reclaim_only = ratio.is_some_and(|ratio| ratio < RECLAIM_ONLY_BELOW);
    Some(if reclaim_only { Level::Moderate } else { level })
}

impl Source for GroupSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, _notice: Notice) -> Result<Reading> {
        let reading = self.usage().and_then(|usage| {
            let signal = self.signal(usage)?;
            Ok(Reading {
                usage,
                signal,
                ..Reading::default()
            })
        });
        if reading.is_err() {
            // The file of a group that was removed reports an event for ever.
            self.events = None;
        }
        reading
    }

    fn mode(&self) -> SourceMode {
        match self.events {
            Some(_) => SourceMode::Events,
            None => SourceMode::Interval,
        }
    }

    fn note(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.note)
    }

    fn path(&self) -> Option<&Path> {
        Some(self.group.directory())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }
}

/// Totals that are remembered at most. Events are answered 20 ms apart or more, so this is over a window.
const TOTALS_MAX: usize = 128;

/// A part of the stall that a trigger asks for. The kernel estimates the start of a window, so an event may come
/// somewhat early; and it sends some without any stall, above all when a trigger is new.
const BELIEVED_PART: f64 = 0.5;

/// One line of a file of stalls: by a trigger, or by the share of the last ten seconds.
#[derive(Debug)]
struct StallSource {
    name: String,
    note: String,
    seen: String,
    path: PathBuf,
    line: Line,
    share: f64,
    level: Level,
    trigger: Option<Trigger>,
    totals: Totals,
}

/// What was read of a time that only grows.
#[derive(Debug, Default)]
struct Totals(VecDeque<(Instant, Duration)>);

impl Totals {
    /// Adds a reading; says what came since the last one that is a window old, or the first one, and over what
    /// time.
    fn growth(&mut self, now: Instant, total: Duration, window: Duration) -> (Duration, Duration) {
        let age = |&(then, _): &(Instant, Duration)| now.saturating_duration_since(then);
        // The second one is old enough too.
        while self.0.len() >= TOTALS_MAX || self.0.get(1).is_some_and(|one| age(one) >= window) {
            self.0.pop_front();
        }
        self.0.push_back((now, total));
        let (then, before) = self.0.front().copied().unwrap_or((now, total));
        (
            total.saturating_sub(before),
            now.saturating_duration_since(then),
        )
    }
}

impl StallSource {
    fn open(name: &str, path: &Path, line: Line, share: f64, level: Level) -> Result<Self> {
        let before = stall::stalls(path, line)?;
        let (trigger, note) = match stall::trigger(path, line, share) {
            Ok(trigger) => (Some(trigger), String::new()),
            Err(error) => (None, format!("{error}; averages are read instead")),
        };
        Ok(Self {
            name: format!("{name} {line}"),
            note,
            seen: String::new(),
            path: path.to_owned(),
            line,
            share,
            level,
            trigger,
            totals: Totals(VecDeque::from([(Instant::now(), before.total)])),
        })
    }

    fn read_at(&mut self, notice: Notice, now: Instant) -> Result<Reading> {
        if notice.error && self.trigger.take().is_some() {
            "the kernel ended the trigger; averages are read instead".clone_into(&mut self.note);
        }
        let stalls = stall::stalls(&self.path, self.line)?;
        let stalled = match &self.trigger {
            Some(trigger) => {
                let (growth, time) = self.totals.growth(now, stalls.total, trigger.window);
                let least = trigger.window.mul_f64(self.share * BELIEVED_PART);
                let stalled = notice.event && growth >= least;
                if stalled {
                    self.seen = format!("stalled for {growth:.2?} of the last {time:.2?}");
                }
                stalled
            }
            None => {
                let stalled = stalls.recent_share >= self.share;
                if stalled {
                    let percent = stalls.recent_share * 100.0;
                    self.seen = format!("stalled for {percent:.1} % of the last 10 s");
                }
                stalled
            }
        };
        Ok(Reading {
            signal: stalled.then_some(self.level),
            ..Reading::default()
        })
    }
}

impl Source for StallSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&mut self, notice: Notice) -> Result<Reading> {
        self.read_at(notice, Instant::now())
    }

    fn mode(&self) -> SourceMode {
        match self.trigger {
            Some(_) => SourceMode::Events,
            None => SourceMode::Interval,
        }
    }

    fn seen(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.seen)
    }

    fn note(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.note)
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.trigger.as_ref().map(|trigger| trigger.file.as_fd())
    }
}

/// The sources of a directory that looks like a control group, and nothing else.
#[cfg(test)]
pub(super) fn sources_of(group: MemoryGroup) -> Vec<Box<dyn Source>> {
    let mut found = Found {
        sources: Vec::new(),
        missing: Vec::new(),
    };
    let path = group.directory().join("memory.pressure");
    found.sources.push(Box::new(GroupSource::new(group, 0)));
    add_stalls(&mut found, "psi cgroup", &path, Level::Warning);
    found.sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::host::control_group::tests::FakeGroup;

    const PRESSURE: &str = include_str!("../../tests/data/kernel/memory.pressure");

    fn read(source: &mut dyn Source) -> Reading {
        source.read(Notice::default()).unwrap()
    }

    #[test]
    fn counters_that_rise_are_signals() {
        let none = Events::default();
        let cases = [
            (none, None, None),
            (Events { high: 1, ..none }, None, Some(Level::Warning)),
            (Events { max: 1, ..none }, None, Some(Level::Critical)),
            (Events { oom: 1, ..none }, None, Some(Level::Emergency)),
            (
                Events {
                    oom_kill: 1,
                    ..none
                },
                Some(0.1),
                Some(Level::Emergency),
            ),
            (Events { max: 1, ..none }, Some(0.9), Some(Level::Critical)),
            (Events { max: 1, ..none }, Some(0.4), Some(Level::Moderate)),
            (Events { high: 1, ..none }, Some(0.4), Some(Level::Moderate)),
        ];
        for (now, ratio, level) in cases {
            assert_eq!(signal_of(none, now, ratio), level, "{now:?} {ratio:?}");
            assert_eq!(signal_of(now, now, ratio), None);
        }
    }

    #[test]
    fn a_group_gives_usage_and_signals() {
        for version in [Version::One, Version::Two] {
            let fake = FakeGroup::new(&format!("source-{version:?}"), version);
            let mut source = GroupSource::new(fake.group(), 0);
            let first = read(&mut source);
            let usage = Usage {
                used: 150 << 20,
                limit: 256 << 20,
            };
            assert_eq!(first.usage, Some(usage));
            assert_eq!(first.signal, None, "what was there before is no signal");
            match version {
                Version::One => fake.write("memory.failcnt", "3\n"),
                Version::Two => fake.write("memory.events", "high 0\nmax 3\noom 0\n"),
            }
            assert_eq!(read(&mut source).signal, Some(Level::Critical));
            assert_eq!(read(&mut source).signal, None);
        }
    }

    #[test]
    fn a_group_without_a_limit_still_signals() {
        let fake = FakeGroup::new("unlimited", Version::Two);
        fake.write("memory.max", "max\n");
        let mut source = GroupSource::new(fake.group(), 0);
        assert_eq!(read(&mut source).usage, None);
        fake.write("memory.events", "high 0\nmax 0\noom 1\n");
        assert_eq!(read(&mut source).signal, Some(Level::Emergency));
    }

    #[test]
    fn a_group_that_went_away_is_an_error_and_no_longer_waited_for() {
        let fake = FakeGroup::new("gone", Version::Two);
        let mut source = GroupSource::new(fake.group(), 0);
        assert!(source.descriptor().is_some());
        assert_eq!(source.mode(), SourceMode::Events);
        drop(fake);
        source.read(Notice::default()).unwrap_err();
        assert!(source.descriptor().is_none());
        assert_eq!(source.mode(), SourceMode::Interval);
    }

    #[test]
    fn averages_stand_in_for_refused_triggers() {
        let fake = FakeGroup::new("stalls", Version::Two);
        fake.write("memory.pressure", PRESSURE);
        let path = fake.path().join("memory.pressure");
        for (line, share, level) in [
            (Line::Some, 0.15, Some(Level::Warning)),
            (Line::Some, 0.17, None),
            (Line::Full, 0.10, Some(Level::Warning)),
            (Line::Full, 0.12, None),
        ] {
            let mut source = StallSource::open("psi", &path, line, share, Level::Warning).unwrap();
            assert_eq!(source.mode(), SourceMode::Interval);
            assert!(source.note().contains("averages"), "{}", source.note());
            assert_eq!(read(&mut source).signal, level, "{line} {share}");
        }
    }

    #[test]
    fn stalls_that_cannot_be_read_are_missing_sources() {
        let fake = FakeGroup::new("no-stalls", Version::Two);
        let path = fake.path().join("memory.pressure");
        let mut found = Found {
            sources: Vec::new(),
            missing: Vec::new(),
        };
        assert!(!add_stalls(&mut found, "psi", &path, Level::Warning));
        fake.write("memory.pressure", "some avg10=none\n");
        assert!(!add_stalls(&mut found, "psi", &path, Level::Warning));
        assert_eq!(found.missing.len(), 4);
        assert!(found.missing[0].1.contains("memory.pressure"));
    }

    /// The counters of a file, in milliseconds.
    fn stalled(ms: u64) -> String {
        format!(
            "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n",
            ms * 1000
        )
    }

    fn triggered(path: &Path) -> StallSource {
        let mut source = StallSource::open("psi", path, Line::Some, 0.15, Level::Warning).unwrap();
        source.trigger = Some(Trigger {
            file: File::open(path).unwrap(),
            window: Duration::from_secs(2),
        });
        source
    }

    #[test]
    fn an_event_is_believed_if_there_was_a_stall() {
        let fake = FakeGroup::new("believed", Version::Two);
        let path = fake.path().join("memory.pressure");
        fake.write("memory.pressure", &stalled(5000));
        let mut source = triggered(&path);
        let start = source.totals.0[0].0;
        let mut read = |ms, total, event| {
            fake.write("memory.pressure", &stalled(total));
            let notice = Notice {
                event,
                ..Notice::default()
            };
            let now = start + Duration::from_millis(ms);
            let signal = source.read_at(notice, now).unwrap().signal;
            (signal, source.seen.clone())
        };
        let signal = Some(Level::Warning);
        assert_eq!(read(500, 5000, true), (None, String::new()));
        assert_eq!(
            read(600, 5140, true).0,
            None,
            "less than half of 0.15 of 2 s"
        );
        assert_eq!(read(700, 5300, false).0, None, "no event");
        let seen = "stalled for 310.00ms of the last 720.00ms".to_owned();
        assert_eq!(read(720, 5310, true), (signal, seen), "since the start");
        // What was stalled before the window counts no longer.
        assert_eq!(read(2000, 5310, false).0, None);
        assert_eq!(read(2800, 5310, true).0, None);
        assert_eq!(read(3000, 5470, true).0, signal);
        // A counter that starts anew is no stall.
        assert_eq!(read(6000, 0, true).0, None);
        assert_eq!(read(6100, 100, true).0, None);
        assert_eq!(read(8100, 300, true).0, signal);
    }

    #[test]
    fn totals_are_few_and_as_old_as_the_window() {
        let (start, window) = (Instant::now(), Duration::from_secs(2));
        let mut totals = Totals::default();
        for ms in 0..10_000 {
            let time = Duration::from_millis(ms);
            let (growth, over) = totals.growth(start + time, time / 2, window);
            assert_eq!(growth * 2, over);
            assert!(over <= window && totals.0.len() <= TOTALS_MAX, "{over:?}");
        }
        let mut totals = Totals::default();
        for number in 0..100 {
            let time = Duration::from_millis(700) * number;
            let (_, over) = totals.growth(start + time, time, window);
            assert_eq!(over, Duration::from_millis(700) * number.min(3));
        }
    }

    #[test]
    fn an_ended_trigger_gives_way_to_averages() {
        let fake = FakeGroup::new("ended", Version::Two);
        fake.write("memory.pressure", PRESSURE);
        let path = fake.path().join("memory.pressure");
        let mut source = triggered(&path);
        let read = |source: &mut StallSource, event, error| {
            source.read(Notice { event, error }).unwrap().signal
        };
        assert_eq!(read(&mut source, false, false), None);
        assert_eq!(
            read(&mut source, true, false),
            None,
            "the total is unchanged"
        );
        assert_eq!(read(&mut source, true, true), Some(Level::Warning));
        assert_eq!(source.seen(), "stalled for 16.5 % of the last 10 s");
        assert!(source.descriptor().is_none());
        assert!(source.note().contains("ended"));
    }

    #[test]
    fn this_system_has_sources_or_says_why_not() {
        let found = sources();
        assert!(!found.sources.is_empty() || !found.missing.is_empty());
        for mut source in found.sources {
            let _ = source.read(Notice::default());
            assert!(!source.name().is_empty());
        }
        for (name, reason) in found.missing {
            assert!(!name.is_empty() && !reason.is_empty());
        }
    }
}
