//! PyTorch's snapshots, against Python's own pickle module.

use std::path::Path;
use std::process::Command;

use weldpool::trace::{
    Event, Format, Op, ReadOptions, Reader, Skipped, TraceErrorKind, Writer, read_all,
};

use super::{event, read, write};

/// Runs the script that stands beside this file.
fn python(command: &str, path: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/trace/snapshot.py");
    let python = std::env::var("WELDPOOL_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(python)
        .arg(script)
        .arg(command)
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What `snapshot()` of the script describes.
fn expected() -> Vec<Event> {
    vec![
        event(Op::Allocate, 0, 4000, 9, 0), // live before the recording began
        event(Op::Allocate, 1, 1000, 0, 2),
        event(Op::Allocate, 2, 300, 0x55aa_0000, 3),
        event(Op::Free, 1, 1000, 0, 4),
        event(Op::Allocate, 3, 2000, 0, 8),
    ]
}

fn counts(skipped: Skipped) -> [u64; 5] {
    [
        skipped.frees,
        skipped.failures,
        skipped.markers,
        skipped.other_devices,
        skipped.live_before,
    ]
}

#[test]
fn what_python_pickles_is_read_in_every_protocol() {
    let folder = tempfile::tempdir().unwrap();
    python("make", folder.path());
    for name in [
        "protocol-2",
        "protocol-3",
        "protocol-4",
        "protocol-5",
        "odd",
    ] {
        let (events, skipped, format) = read(&folder.path().join(format!("{name}.pickle")));
        assert_eq!(format, Format::PyTorch);
        assert_eq!(events, expected(), "{name}");
        assert_eq!(counts(skipped), [2, 1, 3, 1, 1], "{name}");
    }
}

#[test]
fn a_device_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    python("make", folder.path());
    let path = folder.path().join("protocol-4.pickle");
    let of_device = |device| {
        let mut options = ReadOptions::default();
        options.device = Some(device);
        Reader::open_with(&path, options)
    };
    let (events, skipped) = read_all(of_device(1).unwrap()).unwrap();
    assert_eq!(events, [event(Op::Allocate, 0, 64, 0, 0)]);
    assert_eq!(skipped.other_devices, 12);
    assert_eq!(
        of_device(2).unwrap_err().kind(),
        TraceErrorKind::Unsupported
    );
}

#[test]
fn old_forms_are_read() {
    let folder = tempfile::tempdir().unwrap();
    python("make", folder.path());
    let (events, ..) = read(&folder.path().join("old.pickle"));
    let times: Vec<_> = events.iter().map(|event| event.time_us).collect();
    assert_eq!(
        times,
        [0, 3, 4, 5, 9],
        "the entry's number stands for the time"
    );
    let (events, ..) = read(&folder.path().join("bare.pickle"));
    let bytes: Vec<_> = events.iter().map(|event| event.bytes).collect();
    assert_eq!(bytes, [2048, 4096]);
    let error = Reader::open(folder.path().join("other.pickle")).unwrap_err();
    assert_eq!(error.kind(), TraceErrorKind::Format);
}

#[test]
fn what_is_written_is_a_snapshot_for_python_and_the_viewer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.pickle");
    let mut events = Vec::new();
    for id in 0..3000 {
        events.push(event(Op::Allocate, id, 100 + id * 7, id % 3, id));
        if id % 5 != 0 {
            events.push(event(Op::Free, id, 100 + id * 7, id % 3, id));
        }
    }
    write(&path, Format::PyTorch, &events);
    let figures: String = python("check", &path);
    let has = |part: &str| assert!(figures.contains(part), "{part} is missing in {figures}");
    has(r#""alloc": 3000"#);
    has(r#""free_requested": 2400"#);
    has(r#""free_completed": 2400"#);
    has(r#""segment_alloc": 3"#);
    has(r#""live": 600"#);
    // The viewer in the browser has an unpickler of its own, which knows few opcodes.
    let known = [
        "APPEND",
        "APPENDS",
        "BINFLOAT",
        "BINGET",
        "BININT",
        "BININT1",
        "BININT2",
        "BINPUT",
        "BINUNICODE",
        "EMPTY_DICT",
        "EMPTY_LIST",
        "EMPTY_TUPLE",
        "FRAME",
        "LONG1",
        "LONG_BINGET",
        "LONG_BINPUT",
        "MARK",
        "MEMOIZE",
        "NEWFALSE",
        "NEWTRUE",
        "NONE",
        "PROTO",
        "SETITEM",
        "SETITEMS",
        "SHORT_BINUNICODE",
        "STOP",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
    ];
    let opcodes = figures
        .split_once('[')
        .unwrap()
        .1
        .split_once(']')
        .unwrap()
        .0;
    for opcode in opcodes.split(", ").map(|name| name.trim_matches('"')) {
        assert!(known.contains(&opcode), "{opcode}");
    }
    assert_eq!(read(&path).0, events);
}

#[test]
fn a_pickle_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.pickle");
    let mut writer = Writer::create(&path, Format::PyTorch).unwrap();
    writer.write(&event(Op::Allocate, 0, 10, 0, 0)).unwrap();
    writer.finish().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in 2..whole.len() {
        let part = std::io::Cursor::new(whole[..cut].to_vec());
        let error = Reader::new(part, ReadOptions::default()).unwrap_err();
        assert_eq!(
            error.kind(),
            TraceErrorKind::Format,
            "cut at {cut}: {error}"
        );
    }
}
