//! The recorded traces: there, whole, and the same after conversion. `data/README.md` says what
//! they are.

use std::path::{Path, PathBuf};

use weldpool::Allocator;
use weldpool::trace::{Event, Format, Op, Replay, ReplayOptions, Target};

use super::{read, write};

/// Name, events, allocations, streams and peak of live bytes, as their recording says.
const TRACES: [(&str, usize, usize, usize, u64); 6] = [
    ("gnn_train", 19_899, 9_951, 1, 2_519_256_820),
    ("gpt_train", 113_855, 56_929, 1, 14_069_836_680),
    ("llama_generate", 982_703, 491_352, 1, 3_967_214_993),
    ("maskrcnn_train", 37_215, 18_609, 1, 14_006_013_729),
    ("mixed_serving", 248_988, 124_497, 4, 1_958_804_031),
    ("resnet_train", 23_515, 11_759, 1, 4_171_692_720),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/traces")
}

fn trace(name: &str) -> Vec<Event> {
    let (events, skipped, format) = read(&folder().join(format!("{name}.csv.gz")));
    assert_eq!(format, Format::Csv);
    assert_eq!(skipped, weldpool::trace::Skipped::default(), "{name}");
    events
}

#[test]
fn all_are_there_and_what_their_recording_says() {
    for (name, events, allocations, streams, peak) in TRACES {
        let trace = trace(name);
        assert_eq!(trace.len(), events, "{name}");
        let allocated = trace.iter().filter(|event| event.op == Op::Allocate);
        assert_eq!(allocated.count(), allocations, "{name}");
        let mut seen: Vec<_> = trace.iter().map(|event| event.stream).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), streams, "{name}");
        let (mut live, mut most) = (0, 0);
        for event in &trace {
            match event.op {
                Op::Allocate => live += event.bytes,
                Op::Free => live -= event.bytes,
            }
            most = most.max(live);
        }
        assert_eq!(most, peak, "{name}");
    }
    assert!(folder().join("peers-pytorch.jsonl").is_file());
}

#[test]
fn one_is_the_same_after_conversion_to_every_format_with_times() {
    let events = trace("gnn_train");
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Csv, Format::Rmm, Format::PyTorch, Format::Compact] {
        let path = folder.path().join(format.name());
        write(&path, format, &events);
        assert_eq!(read(&path).0, events, "{format}");
    }
}

#[test]
fn one_is_replayed_with_the_peak_it_has() {
    let events = trace("gnn_train");
    let once = ReplayOptions {
        mean_pass: false,
        ..ReplayOptions::default()
    };
    let report = Replay::new(once)
        .run(&events, || Ok(Target::new(Allocator::host()?)))
        .unwrap();
    assert_eq!(report.peak_live_bytes, 2_519_256_820);
    assert_eq!((report.allocs, report.failures), (9_951, 0));
    assert!(report.peak_reserved_bytes >= report.peak_live_bytes);
}
