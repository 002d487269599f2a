use std::collections::HashMap;

use super::*;

/// A sink that tests can look into.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn read(&self) -> (Vec<Event>, crate::trace::Skipped) {
        let bytes = self.0.lock().clone();
        let mut reader = compact::Reader::new(&bytes[..]).unwrap();
        let events = reader.by_ref().collect::<TraceResult<_>>().unwrap();
        (events, reader.skipped())
    }
}

#[test]
fn events_of_all_threads_are_written_in_time_and_in_each_threads_order() {
    let sink = Sink::default();
    let recorder = Recorder::new(sink.clone(), RecorderOptions::default()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let recorder = &recorder;
            scope.spawn(move || {
                for index in 0..5_000 {
                    recorder.record(Op::Allocate, thread << 32 | index, index, thread);
                }
            });
        }
    });
    let recording = recorder.finish().unwrap();
    assert_eq!((recording.events, recording.dropped), (20_000, 0));
    let (events, skipped) = sink.read();
    assert_eq!(events.len(), 20_000);
    assert!(events.is_sorted_by_key(|event| event.time_us));
    let mut next: HashMap<u64, u64> = HashMap::new();
    for event in &events {
        let expected = next.entry(event.stream).or_default();
        assert_eq!(event.id, event.stream << 32 | *expected);
        *expected += 1;
    }
    assert!(!skipped.truncated);
}

#[test]
fn a_full_lane_drops_and_says_so() {
    let sink = Sink::default();
    let options = RecorderOptions {
        events_per_thread: 64,
        ..RecorderOptions::default()
    };
    let recorder = Recorder::new(sink.clone(), options).unwrap();
    for index in 0..200_000 {
        recorder.record(Op::Free, index, 1, 0);
    }
    let recording = recorder.finish().unwrap();
    assert_eq!(recording.events + recording.dropped, 200_000);
    assert!(recording.dropped > 0, "64 places held 200000 events");
    let (events, skipped) = sink.read();
    assert_eq!(events.len() as u64, recording.events);
    assert_eq!(skipped.dropped, recording.dropped);
    assert!(events.iter().all(|event| event.op == Op::Free));
}

#[test]
fn dropping_the_recorder_ends_the_trace_and_later_events_are_ignored() {
    let sink = Sink::default();
    let recorder = Recorder::new(sink.clone(), RecorderOptions::default()).unwrap();
    recorder.record(Op::Allocate, 1, 2, 3);
    drop(recorder);
    let (events, skipped) = sink.read();
    assert_eq!(events.len(), 1);
    assert!(!skipped.truncated);

    let sink = Sink::default();
    let recorder = Recorder::new(sink.clone(), RecorderOptions::default()).unwrap();
    recorder.record(Op::Allocate, 1, 2, 3);
    recorder.finish().unwrap();
    recorder.record(Op::Free, 1, 2, 3);
    assert!(recorder.finish().is_err());
    assert_eq!(sink.read().0.len(), 1);
}

#[test]
fn more_threads_than_allowed_are_counted_and_ended_ones_make_room() {
    let sink = Sink::default();
    let options = RecorderOptions {
        threads_max: 1,
        ..RecorderOptions::default()
    };
    let recorder = Recorder::new(sink.clone(), options).unwrap();
    recorder.record(Op::Allocate, 1, 1, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| recorder.record(Op::Allocate, 2, 1, 0));
    });
    let recording = recorder.finish().unwrap();
    assert_eq!((recording.events, recording.dropped), (1, 1));

    let recorder = Recorder::new(Sink::default(), options).unwrap();
    for id in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| recorder.record(Op::Allocate, id, 1, 0));
        });
        // The lane of an ended thread goes with the next two collections.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !recorder.shared.lanes.lock().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let recording = recorder.finish().unwrap();
    assert_eq!((recording.events, recording.dropped), (3, 0));
}

#[test]
fn a_sink_that_fails_is_reported_at_the_end() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let recorder = Recorder::new(Full, RecorderOptions::default()).unwrap();
    recorder.record(Op::Allocate, 1, 2, 3);
    assert_eq!(recorder.finish().unwrap_err().kind(), TraceErrorKind::Io);
}
