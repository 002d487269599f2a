//! Trace files of every format, and the recorded traces.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod files;
mod pickles;
mod recorded;
mod variants;

use std::path::Path;

use weldpool::trace::{Event, Format, Op, Reader, Skipped, Writer, read_all};

/// The recorded traces of real models.
#[cfg(target_os = "linux")]
pub(crate) const RECORDED: [&str; 6] = [
    "gnn_train",
    "gpt_train",
    "llama_generate",
    "maskrcnn_train",
    "mixed_serving",
    "resnet_train",
];

fn event(op: Op, id: u64, bytes: u64, stream: u64, time_us: u64) -> Event {
    Event {
        op,
        id,
        bytes,
        stream,
        time_us,
        thread: 0,
    }
}

/// Reads a whole file and says what it was.
fn read(path: &Path) -> (Vec<Event>, Skipped, Format) {
    let reader = Reader::open(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let format = reader.format();
    let (events, skipped) = read_all(reader).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    (events, skipped, format)
}

fn write(path: &Path, format: Format, events: &[Event]) {
    let mut writer = Writer::create(path, format).unwrap();
    for event in events {
        writer.write(event).unwrap();
    }
    writer.finish().unwrap();
}
