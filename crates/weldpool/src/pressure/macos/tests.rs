use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;
use crate::Allocator;
use crate::device::fake::{Call, FakeApple};
use crate::device::host::dispatch::twin::{Delivery, Twin, Violation};
use crate::pressure::{
    ActionTable, Actions, Gauge, PressureConfig, PressureEvent, PressureMonitor, Responder, Usage,
};
use crate::sync::{AtomicU64, Mutex};

/// Longer than any machine needs; a wait that ends this way has failed.
const LONG: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(10);

fn open(twin: &Twin) -> PressureSource<Twin> {
    PressureSource::open(twin.clone()).unwrap()
}

fn read(source: &mut PressureSource<Twin>) -> (Option<Level>, Level) {
    let reading = source.read(Notice::default()).unwrap();
    assert_eq!(reading.usage, None);
    (reading.signal, reading.lasting)
}

#[test]
fn bits_are_levels_and_of_several_the_worst() {
    for (bits, said) in [
        (0, Said::Nothing),
        // NOTE_MEMORYSTATUS has further bits, of the process's own limits.
        (0x10, Said::Nothing),
        (NORMAL, Said::Level(Level::Normal)),
        (WARN, Said::Level(Level::Warning)),
        (CRITICAL, Said::Level(Level::Critical)),
        (CRITICAL | 0x20, Said::Level(Level::Critical)),
        (NORMAL | WARN, Said::Several(Level::Warning)),
        (WARN | CRITICAL, Said::Several(Level::Critical)),
        (NORMAL | CRITICAL, Said::Several(Level::Critical)),
        (usize::MAX, Said::Several(Level::Critical)),
    ] {
        assert_eq!(Said::of(bits), said, "{bits:#x}");
    }
}

#[test]
fn an_event_signals_once_and_its_level_lasts() {
    let twin = Twin::new(Delivery::ByHand);
    twin.set_level(Some(NORMAL));
    let mut source = open(&twin);
    assert_eq!(read(&mut source), (None, Level::Normal));
    for (bit, level) in [
        (WARN, Level::Warning),
        (CRITICAL, Level::Critical),
        (WARN, Level::Warning),
    ] {
        twin.raise(bit);
        assert_ne!(read(&mut source).1, level, "it is not told yet");
        twin.deliver();
        assert_eq!(read(&mut source), (Some(level), level));
        assert_eq!(read(&mut source), (None, level));
        let seen = format!("the system's memory pressure is {level}");
        assert_eq!(source.seen(), seen);
    }
    twin.raise(NORMAL);
    twin.deliver();
    assert_eq!(read(&mut source), (None, Level::Normal));
}

#[test]
fn pressure_that_began_before_is_asked_for() {
    for (level, lasting) in [
        (Some(CRITICAL), Level::Critical),
        (Some(WARN), Level::Warning),
        (Some(NORMAL), Level::Normal),
        (Some(3), Level::Normal),
        (None, Level::Normal),
    ] {
        let twin = Twin::default();
        twin.set_level(level);
        assert_eq!(read(&mut open(&twin)), (None, lasting), "{level:?}");
    }
}

#[test]
fn an_event_before_the_first_reading_counts_more_than_what_was_asked() {
    let twin = Twin::new(Delivery::ByHand);
    let mut source = open(&twin);
    twin.raise(CRITICAL);
    twin.deliver();
    twin.set_level(Some(NORMAL));
    assert_eq!(read(&mut source), (Some(Level::Critical), Level::Critical));
}

#[test]
fn coalesced_events_signal_the_worst_and_the_system_says_what_lasts() {
    for (last, lasting) in [(NORMAL, Level::Normal), (CRITICAL, Level::Critical)] {
        let twin = Twin::new(Delivery::ByHand);
        let mut source = open(&twin);
        read(&mut source);
        for bit in [WARN, CRITICAL, last] {
            twin.raise(bit);
        }
        twin.deliver();
        assert_eq!(read(&mut source), (Some(Level::Critical), lasting));
        assert_eq!(read(&mut source), (None, lasting));
    }
    // Where it does not say, nothing lasts.
    let twin = Twin::new(Delivery::ByHand);
    let mut source = open(&twin);
    twin.raise(WARN);
    twin.raise(CRITICAL);
    twin.set_level(None);
    twin.deliver();
    assert_eq!(read(&mut source), (Some(Level::Critical), Level::Normal));
}

#[test]
fn an_event_between_two_readings_is_not_lost() {
    let twin = Twin::new(Delivery::ByHand);
    let mut source = open(&twin);
    for bit in [CRITICAL, NORMAL] {
        twin.raise(bit);
        twin.deliver();
    }
    assert_eq!(read(&mut source), (Some(Level::Critical), Level::Normal));
}

#[test]
fn an_event_while_the_system_is_asked_knows_better() {
    let events = Events::new();
    let (signal, lasting) = events.read(|| {
        events.note(WARN);
        Some(NORMAL)
    });
    assert_eq!((signal, lasting), (Some(Level::Warning), Level::Warning));
}

#[test]
fn a_source_ends_by_a_cancel_and_its_handler_with_it() {
    let twin = Twin::new(Delivery::ByHand);
    let source = open(&twin);
    let events = Arc::clone(&source.events);
    twin.raise(CRITICAL);
    drop(source);
    twin.await_end();
    assert!(!twin.keeps_handler());
    assert_eq!(Arc::strong_count(&events), 1, "nobody notes events");
    assert_eq!(twin.told(), [], "what was not told yet is not any more");
    assert_eq!(twin.violations(), []);
}

#[test]
fn a_call_under_way_outlives_the_source() {
    let twin = Twin::default();
    let source = open(&twin);
    let events = Arc::clone(&source.events);
    // The handler of a late call is the same function; here the source goes between its event and its note.
    drop(source);
    events.note(CRITICAL);
    twin.await_end();
    assert_eq!(twin.violations(), []);
}

#[test]
fn a_system_that_refuses_is_an_error_and_leaves_nothing() {
    let twin = Twin::default();
    twin.refuse();
    PressureSource::open(twin.clone()).unwrap_err();
    assert!(!twin.keeps_handler());
    assert_eq!(twin.violations(), []);
}

/// Notes what it was asked.
#[derive(Default)]
struct Notes(Mutex<Vec<(Level, Actions)>>);

impl Responder for Notes {
    fn respond(&self, level: Level, actions: Actions) -> u64 {
        self.0.lock().push((level, actions));
        0
    }
}

fn watch(
    twin: &Twin,
    used: &Arc<AtomicU64>,
    notes: &Arc<Notes>,
) -> (PressureMonitor, Receiver<PressureEvent>) {
    let (sender, events) = channel();
    let used = Arc::clone(used);
    let monitor = PressureMonitor::builder()
        .config(PressureConfig {
            interval: HOUR,
            repeat: HOUR,
            signal_hold: SHORT,
            ..PressureConfig::default()
        })
        .source(open(twin))
        .source(Gauge::new("own", move || {
            Some(Usage {
                used: used.load(Ordering::Acquire),
                limit: 100,
            })
        }))
        .responder(Arc::clone(notes) as Arc<dyn Responder>)
        .on_change(move |_, event| {
            // The test may have seen enough.
            let _ = sender.send(event.clone());
        })
        .start()
        .unwrap();
    // An event before the first assessment would be part of it.
    while monitor.stats().assessments == 0 {
        std::thread::sleep(SHORT);
    }
    (monitor, events)
}

#[test]
fn an_event_wakes_the_monitor_which_has_the_steps_of_its_level_taken() {
    let twin = Twin::default();
    let (used, notes) = (Arc::new(AtomicU64::new(10)), Arc::new(Notes::default()));
    let (monitor, events) = watch(&twin, &used, &notes);
    let mut told = Vec::new();
    let mut next = || {
        let event = events.recv_timeout(LONG).unwrap();
        told.push(event.assessment.level);
        event
    };
    twin.raise(WARN);
    assert_eq!(next().assessment.signalled_by.as_deref(), Some(NAME));
    twin.raise(CRITICAL);
    let event = next();
    let seen = event.assessment.seen.as_deref();
    assert_eq!(seen, Some("the system's memory pressure is critical"));
    // With the pool's own pressure it is an emergency, and without again none.
    used.store(95, Ordering::Release);
    monitor.check();
    next();
    used.store(10, Ordering::Release);
    monitor.check();
    next();
    twin.raise(NORMAL);
    next();
    let expected = [
        Level::Warning,
        Level::Critical,
        Level::Emergency,
        Level::Critical,
        Level::Normal,
    ];
    assert_eq!(told, expected);
    let table = ActionTable::default();
    let asked = expected.map(|level| (level, table.at(level)));
    assert_eq!(*notes.0.lock(), asked);
    let report = &monitor.sources()[0];
    assert_eq!((report.name.as_str(), report.signals), (NAME, 2));
    drop(monitor);
    twin.await_end();
    assert_eq!(twin.violations(), []);
}

/// Has a pool answer.
struct Answers(Allocator);

impl Responder for Answers {
    fn respond(&self, level: Level, actions: Actions) -> u64 {
        self.0.pool().respond(level, actions)
    }
}

#[test]
fn a_pool_drops_whole_heaps_and_has_no_work_done_on_them() {
    let device = Arc::new(FakeApple::builder().build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let buffers: Vec<_> = (0..8)
        .map(|_| allocator.allocate(4 << 20).unwrap())
        .collect();
    let live = allocator.allocate(1 << 20).unwrap();
    let twin = Twin::default();
    let (sender, events) = channel();
    let monitor = PressureMonitor::builder()
        .config(PressureConfig {
            interval: HOUR,
            ..PressureConfig::default()
        })
        .source(open(&twin))
        .responder(Arc::new(Answers(allocator.clone())))
        .on_change(move |_, event| {
            let _ = sender.send(event.clone());
        })
        .start()
        .unwrap();
    drop(buffers);
    let before = allocator.stats().reserved.value;
    assert!(before >= 32 << 20);
    twin.raise(WARN);
    let event = events.recv_timeout(LONG).unwrap();
    let after = allocator.stats().reserved.value;
    assert_eq!(event.given_back_bytes, before - after);
    assert!(after < 8 << 20, "{after} bytes are held for 1 MiB");
    let control = device.control();
    for call in [Call::Copy, Call::Fill, Call::HostCall] {
        assert_eq!(control.calls(call), 0, "{call:?}");
    }
    assert_eq!(control.violations(), []);
    drop((monitor, live));
    twin.await_end();
}

#[test]
fn coalesced_events_are_answered_at_their_worst_and_then_by_what_lasts() {
    let twin = Twin::new(Delivery::ByHand);
    let (used, notes) = (Arc::new(AtomicU64::new(0)), Arc::new(Notes::default()));
    let (monitor, events) = watch(&twin, &used, &notes);
    for bit in [WARN, CRITICAL, NORMAL, WARN] {
        twin.raise(bit);
    }
    twin.deliver();
    for level in [Level::Critical, Level::Warning] {
        let event = events.recv_timeout(LONG).unwrap();
        assert_eq!(event.assessment.level, level);
    }
    assert_eq!(monitor.stats().events, 2);
}

#[test]
fn a_monitor_ends_while_events_are_under_way() {
    let twin = Twin::new(Delivery::Late(SHORT));
    let (used, notes) = (Arc::new(AtomicU64::new(0)), Arc::new(Notes::default()));
    let (monitor, events) = watch(&twin, &used, &notes);
    twin.raise(WARN);
    let event = events.recv_timeout(LONG).unwrap();
    assert_eq!(event.assessment.level, Level::Warning);
    twin.raise(CRITICAL);
    drop(monitor);
    twin.raise(NORMAL);
    twin.await_end();
    assert_eq!(twin.violations(), []);
}

#[test]
fn without_a_thread_events_wait_for_a_check() {
    let twin = Twin::new(Delivery::ByHand);
    let monitor = PressureMonitor::builder()
        .config(PressureConfig {
            enabled: false,
            ..PressureConfig::default()
        })
        .source(open(&twin))
        .start()
        .unwrap();
    twin.raise(WARN);
    twin.deliver();
    assert_eq!(monitor.level(), Level::Normal);
    assert_eq!(monitor.check(), Level::Warning);
}

#[test]
fn the_twin_would_notice_a_source_that_is_not_cancelled() {
    let twin = Twin::default();
    let source = twin.create(WARN, Box::new(|_| ())).unwrap();
    twin.activate(&source);
    drop(source);
    assert_eq!(twin.violations(), [Violation::ReleasedUncancelled]);
}
