use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::pressure::{Gauge, Reading, SourceMode, Step, Usage};
use crate::sync::AtomicU64;

/// Longer than any machine needs; a wait that ends this way has failed.
const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(10);

/// A used amount, of 100, that the test sets.
#[derive(Clone, Default)]
struct Dial(Arc<AtomicU64>);

impl Dial {
    fn set(&self, used: u64) {
        self.0.store(used, Ordering::Release);
    }

    fn gauge(&self) -> Gauge {
        let used = Arc::clone(&self.0);
        Gauge::new("dial", move || {
            let used = used.load(Ordering::Acquire);
            Some(Usage { used, limit: 100 })
        })
    }
}

/// Gives back ten bytes a step and notes what it was asked.
#[derive(Default)]
struct Notes(Mutex<Vec<(Level, Actions)>>);

impl Responder for Notes {
    fn respond(&self, level: Level, actions: Actions) -> u64 {
        self.0.lock().push((level, actions));
        10 * actions.iter().count() as u64
    }
}

fn config(enabled: bool, interval: Duration) -> PressureConfig {
    PressureConfig {
        enabled,
        interval,
        repeat: HOUR,
        signal_hold: SHORT,
        ..PressureConfig::default()
    }
}

fn sending() -> (
    impl Fn(Level, &PressureEvent) + Send + Sync + 'static,
    Receiver<PressureEvent>,
) {
    let (sender, receiver): (Sender<PressureEvent>, _) = channel();
    let send = move |level, event: &PressureEvent| {
        assert_eq!(level, event.assessment.level);
        // The test may have seen enough.
        let _ = sender.send(event.clone());
    };
    (send, receiver)
}

#[test]
fn off_nothing_runs_but_a_check_by_hand() {
    let dial = Dial::default();
    dial.set(99);
    let monitor = PressureMonitor::builder()
        .config(config(false, SHORT))
        .source(dial.gauge())
        .start()
        .unwrap();
    assert!(!monitor.is_running());
    monitor.signal(Level::Critical);
    std::thread::sleep(5 * SHORT);
    assert_eq!(monitor.stats().assessments, 0);
    assert_eq!(monitor.level(), Level::Normal);
    assert_eq!(monitor.check(), Level::Emergency);
    assert_eq!(monitor.level(), Level::Emergency);
}

#[test]
fn a_fast_rise_is_followed_without_waiting_for_the_interval() {
    let start = Instant::now();
    // Full after a second.
    let rising = Gauge::new("rising", move || {
        let used = start.elapsed().as_millis().min(990) as u64;
        Some(Usage { used, limit: 1000 })
    });
    let (send, events) = sending();
    let monitor = PressureMonitor::builder()
        .config(config(true, HOUR))
        .source(rising)
        .on_change(send)
        .start()
        .unwrap();
    // A rate takes two readings; the interval would give the second one.
    while monitor.stats().assessments == 0 {
        std::thread::sleep(SHORT);
    }
    std::thread::sleep(2 * SHORT);
    monitor.clear();
    let mut level = Level::Normal;
    while level < Level::Emergency {
        level = events.recv_timeout(LONG).unwrap().assessment.level;
    }
}

#[test]
fn each_change_is_answered_once_and_told_afterwards() {
    let dial = Dial::default();
    let notes = Arc::new(Notes::default());
    let (send, events) = sending();
    let monitor = PressureMonitor::builder()
        .config(config(false, SHORT))
        .source(dial.gauge())
        .responder(Arc::clone(&notes) as Arc<dyn Responder>)
        .on_change(send)
        .start()
        .unwrap();
    for (used, level) in [
        (10, Level::Normal),
        (71, Level::Moderate),
        (72, Level::Moderate),
        (98, Level::Emergency),
        (93, Level::Emergency),
        (83, Level::Warning),
        (60, Level::Normal),
    ] {
        dial.set(used);
        assert_eq!(monitor.check(), level, "{used}");
    }
    let table = ActionTable::default();
    let expected = [
        Level::Moderate,
        Level::Emergency,
        Level::Warning,
        Level::Normal,
    ];
    assert_eq!(
        *notes.0.lock(),
        expected.map(|level| (level, table.at(level)))
    );
    let events: Vec<_> = events.try_iter().collect();
    assert_eq!(
        events
            .iter()
            .map(|event| (event.from, event.given_back_bytes))
            .collect::<Vec<_>>(),
        [
            (Level::Normal, 20),
            (Level::Moderate, 70),
            (Level::Emergency, 40),
            (Level::Warning, 0)
        ]
    );
    let stats = monitor.stats();
    assert_eq!(stats.given_back_bytes, 130);
    assert_eq!(stats.responses, 4);
    assert_eq!(stats.events, 4);
    assert_eq!(stats.assessments, 7);
    assert_eq!(stats.resolutions.count, 1);
    assert_eq!(stats.pressure, 0.6);
    assert_eq!(stats.source.as_deref(), Some("dial"));
    assert_eq!(stats.levels.map(|level| level.entered), [1, 1, 1, 0, 1]);
}

#[test]
fn while_pressure_lasts_the_response_is_repeated() {
    let dial = Dial::default();
    dial.set(91);
    let notes = Arc::new(Notes::default());
    let monitor = PressureMonitor::builder()
        .config(PressureConfig {
            repeat: SHORT,
            ..config(false, SHORT)
        })
        .source(dial.gauge())
        .responder(Arc::clone(&notes) as Arc<dyn Responder>)
        .start()
        .unwrap();
    monitor.check();
    std::thread::sleep(2 * SHORT);
    let old = monitor.set_actions(ActionTable {
        critical: Actions::of(&[Step::ReturnIdle]),
        ..ActionTable::default()
    });
    assert_eq!(old, ActionTable::default());
    monitor.check();
    let notes = notes.0.lock();
    assert_eq!(notes.len(), 2);
    assert_eq!(
        notes[1],
        (Level::Critical, Actions::of(&[Step::ReturnIdle]))
    );
}

#[test]
fn a_signal_by_hand_wakes_the_thread_and_lasts_until_cleared() {
    let (send, events) = sending();
    let monitor = PressureMonitor::builder()
        .config(config(true, HOUR))
        .on_change(send)
        .start()
        .unwrap();
    assert!(monitor.is_running());
    assert_eq!(monitor.signal(Level::Critical), Level::Normal);
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.assessment.level, Level::Critical);
    assert_eq!(event.assessment.signalled_by.as_deref(), Some("manual"));
    std::thread::sleep(3 * SHORT);
    assert_eq!(monitor.check(), Level::Critical, "it outlasts the hold");
    assert_eq!(monitor.signal(Level::Warning), Level::Critical);
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.assessment.level, Level::Warning);
    assert_eq!(monitor.clear(), Level::Warning);
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.assessment.level, Level::Normal);
    assert_eq!(monitor.stats().resolutions.count, 1);
}

#[test]
fn the_thread_reads_at_its_interval() {
    let dial = Dial::default();
    let (send, events) = sending();
    let _monitor = PressureMonitor::builder()
        .config(config(true, SHORT))
        .source(dial.gauge())
        .on_change(send)
        .start()
        .unwrap();
    for (used, level) in [
        (75, Level::Moderate),
        (99, Level::Emergency),
        (50, Level::Normal),
    ] {
        dial.set(used);
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, level);
    }
}

#[test]
fn drop_ends_the_thread_before_it_returns() {
    for interval in [SHORT, HOUR] {
        let dial = Dial::default();
        let monitor = PressureMonitor::builder()
            .config(config(true, interval))
            .source(dial.gauge())
            .start()
            .unwrap();
        assert!(Arc::strong_count(&dial.0) > 1);
        drop(monitor);
        assert_eq!(Arc::strong_count(&dial.0), 1, "the thread holds its source");
    }
}

#[test]
fn a_callback_may_drop_the_monitor() {
    let slot: Arc<Mutex<Option<PressureMonitor>>> = Arc::default();
    let (sender, done) = channel();
    let taken = Arc::clone(&slot);
    let monitor = PressureMonitor::builder()
        .config(config(true, HOUR))
        .on_change(move |_, _| {
            let monitor = taken.lock().take();
            sender.send(monitor.is_some()).unwrap();
        })
        .start()
        .unwrap();
    slot.lock().replace(monitor);
    slot.lock().as_ref().unwrap().signal(Level::Warning);
    assert!(done.recv_timeout(LONG).unwrap());
}

#[test]
fn panics_of_responders_and_callbacks_are_caught() {
    struct Panics;
    impl Responder for Panics {
        fn respond(&self, _level: Level, _actions: Actions) -> u64 {
            panic!("on purpose")
        }
    }
    let (send, events) = sending();
    let monitor = PressureMonitor::builder()
        .config(config(true, HOUR))
        .responder(Arc::new(Panics))
        .on_change(|_, _| panic!("on purpose"))
        .on_change(send)
        .start()
        .unwrap();
    for level in [Level::Warning, Level::Emergency] {
        monitor.signal(level);
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, level);
        assert_eq!(event.given_back_bytes, 0);
    }
    assert_eq!(monitor.stats().panics, 4);
}

#[test]
fn a_check_from_within_a_callback_returns() {
    let slot: Arc<Mutex<Option<Arc<PressureMonitor>>>> = Arc::default();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (inside, noted) = (Arc::clone(&slot), Arc::clone(&seen));
    let monitor = Arc::new(
        PressureMonitor::builder()
            .config(config(false, SHORT))
            .on_change(move |_, _| {
                let monitor = inside.lock().clone().unwrap();
                let level = monitor.check();
                noted
                    .lock()
                    .push((level, monitor.stats().level, monitor.sources().len()));
            })
            .start()
            .unwrap(),
    );
    slot.lock().replace(Arc::clone(&monitor));
    monitor.signal(Level::Warning);
    monitor.check();
    slot.lock().take();
    assert_eq!(*seen.lock(), [(Level::Warning, Level::Warning, 0)]);
}

/// Its descriptor reports an error until it is given up.
#[derive(Debug)]
struct Broken(Option<std::io::PipeWriter>);

impl Source for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    fn read(&mut self, notice: Notice) -> Result<Reading> {
        let signal = notice.error.then_some(Level::Warning);
        if signal.is_some() {
            self.0 = None;
        }
        Ok(Reading {
            signal,
            ..Reading::default()
        })
    }

    fn mode(&self) -> SourceMode {
        if self.0.is_some() {
            SourceMode::Events
        } else {
            SourceMode::Interval
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

#[test]
fn a_descriptor_wakes_the_thread_until_its_source_gives_it_up() {
    // A pipe nobody reads from reports `POLLERR`.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (send, events) = sending();
    let monitor = PressureMonitor::builder()
        .config(config(true, HOUR))
        .source(Broken(Some(writer)))
        .on_change(send)
        .start()
        .unwrap();
    for level in [Level::Warning, Level::Normal] {
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, level, "the signal ends by itself");
    }
    let before = monitor.stats().assessments;
    std::thread::sleep(5 * EVENTS_APART);
    assert_eq!(monitor.stats().assessments, before, "it is not asked again");
    assert_eq!(monitor.sources()[0].mode, SourceMode::Interval);
    assert_eq!(monitor.sources()[0].signals, 1);
}

#[test]
fn limits_are_errors() {
    let monitor = PressureMonitor::builder()
        .config(config(false, SHORT))
        .start()
        .unwrap();
    for _ in 0..CALLBACKS_MAX {
        monitor.on_change(|_, _| ()).unwrap();
    }
    let error = monitor.on_change(|_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    let mut builder = PressureMonitor::builder();
    for _ in 0..=SOURCES_MAX {
        builder = builder.source(Gauge::new("one too many", || None));
    }
    assert_eq!(
        builder.start().unwrap_err().kind(),
        ErrorKind::LimitExceeded
    );
    let wrong = PressureMonitor::builder().config(config(true, Duration::ZERO));
    assert_eq!(wrong.start().unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn thresholds_change_at_run_time() {
    let dial = Dial::default();
    dial.set(50);
    let monitor = PressureMonitor::builder()
        .config(config(false, SHORT))
        .source(dial.gauge())
        .start()
        .unwrap();
    assert_eq!(monitor.check(), Level::Normal);
    let lower = Thresholds {
        moderate: 0.4,
        ..Thresholds::default()
    };
    assert_eq!(
        monitor.set_thresholds(lower).unwrap(),
        Thresholds::default()
    );
    assert_eq!(monitor.check(), Level::Moderate);
    let wrong = Thresholds {
        moderate: f64::NAN,
        ..lower
    };
    monitor.set_thresholds(wrong).unwrap_err();
    assert_eq!(monitor.check(), Level::Moderate);
}

#[test]
fn the_systems_sources_can_be_had_everywhere() {
    let monitor = PressureMonitor::builder()
        .config(config(true, SHORT))
        .system_sources()
        .start()
        .unwrap();
    let sources = monitor.sources();
    assert!(!sources.is_empty());
    for source in sources {
        let said = source.mode != SourceMode::Unavailable || !source.note.is_empty();
        assert!(said, "{source:?}");
    }
}

#[cfg(target_os = "linux")]
mod fake_group {
    use super::*;
    use crate::device::host::control_group::Version;
    use crate::device::host::control_group::tests::FakeGroup;
    use crate::pressure::linux::sources_of;

    fn start(fake: &FakeGroup, notes: &Arc<Notes>) -> (PressureMonitor, Receiver<PressureEvent>) {
        let (send, events) = sending();
        let mut builder = PressureMonitor::builder()
            .config(config(true, SHORT))
            .responder(Arc::clone(notes) as Arc<dyn Responder>)
            .on_change(send);
        builder.sources = sources_of(fake.group());
        (builder.start().unwrap(), events)
    }

    #[test]
    fn a_group_that_fills_up_goes_through_the_levels() {
        let fake = FakeGroup::new("monitor", Version::Two);
        fake.write(
            "memory.pressure",
            "some avg10=0.00 avg60=0 avg300=0 total=0\nfull avg10=0.00 avg60=0 avg300=0 total=0\n",
        );
        let notes = Arc::new(Notes::default());
        let (monitor, events) = start(&fake, &notes);
        let mut told = Vec::new();
        // The sample leaves 20 MiB of file pages out of account.
        for percent in [75, 85, 92, 99, 10] {
            fake.write(
                "memory.current",
                &format!("{}\n", (256 << 20) / 100 * percent + (20 << 20)),
            );
            told.push(events.recv_timeout(LONG).unwrap().assessment.level);
        }
        assert_eq!(
            told,
            [
                Level::Moderate,
                Level::Warning,
                Level::Critical,
                Level::Emergency,
                Level::Normal
            ]
        );
        let stats = monitor.stats();
        assert_eq!(stats.resolutions.count, 1);
        assert!(stats.given_back_bytes > 0);
        assert!(stats.source.unwrap().starts_with("cgroup v2"));
        assert_eq!(monitor.sources().len(), 3);
    }

    #[test]
    fn a_counter_that_rises_raises_the_level_whatever_the_usage() {
        let fake = FakeGroup::new("monitor-events", Version::Two);
        let notes = Arc::new(Notes::default());
        let (monitor, events) = start(&fake, &notes);
        // Counters are compared with the first reading.
        while monitor.stats().assessments == 0 {
            std::thread::sleep(SHORT);
        }
        fake.write("memory.events", "low 0\nhigh 0\nmax 0\noom 1\n");
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, Level::Emergency);
        assert!(event.assessment.signalled_by.is_some());
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, Level::Normal);
    }

    #[test]
    fn half_written_files_are_errors_of_the_source_and_nothing_else() {
        let fake = FakeGroup::new("monitor-malformed", Version::Two);
        fake.write("memory.stat", "");
        let notes = Arc::new(Notes::default());
        let (monitor, _events) = start(&fake, &notes);
        monitor.check();
        let report = &monitor.sources()[0];
        assert!(report.failures > 0);
        assert!(
            report
                .error
                .as_ref()
                .unwrap()
                .to_string()
                .contains("memory.stat")
        );
        assert_eq!(monitor.level(), Level::Normal);
    }
}

/// A request that lowers the level takes none of its steps but those that hold caches down, so whoever checks
/// next takes the others, as if nothing had been done at that level.
#[test]
fn the_steps_of_a_level_that_a_request_fell_to_are_still_due() {
    let dial = Dial::default();
    let notes = Arc::new(Notes::default());
    let repeat = 5 * SHORT;
    let monitor = PressureMonitor::builder()
        .config(PressureConfig {
            repeat,
            ..config(false, SHORT)
        })
        .source(dial.gauge())
        .responder(Arc::clone(&notes) as Arc<dyn Responder>)
        .start()
        .unwrap();
    dial.set(99);
    assert_eq!(monitor.check(), Level::Emergency);
    dial.set(82);
    std::thread::sleep(repeat);
    monitor.relax();
    assert_eq!(monitor.level(), Level::Warning);
    assert_eq!(monitor.check(), Level::Warning);
    let all = ActionTable::default().at(Level::Warning);
    assert_ne!(all.holds(), all);
    let notes = notes.0.lock();
    assert_eq!(
        notes[1..],
        [(Level::Warning, all.holds()), (Level::Warning, all)]
    );
}
