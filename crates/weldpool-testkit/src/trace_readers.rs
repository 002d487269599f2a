//! Arbitrary bytes as trace files.

use std::io::Cursor;

use weldpool::trace::{Format, ReadOptions, Reader, compact};

/// Events read of one file; a compressed one can be much longer than its bytes.
const READ_MAX: usize = 100_000;

/// Reads `bytes` as a trace of any format: the format is found out, or the first byte names it. Ends with
/// events or an error.
///
/// # Panics
///
/// When a reader does.
pub fn run(bytes: &[u8]) {
    let reader = compact::Reader::new(bytes);
    if let Ok(reader) = reader {
        let _read = reader.take(READ_MAX).filter(Result::is_ok).count();
    }
    read(bytes.to_vec(), None);
    if let Some((&first, rest)) = bytes.split_first() {
        let format = Format::ALL[usize::from(first) % Format::ALL.len()];
        read(rest.to_vec(), Some(format));
    }
}

fn read(bytes: Vec<u8>, format: Option<Format>) {
    let mut options = ReadOptions::default();
    options.format = format;
    let Ok(reader) = Reader::new(Cursor::new(bytes), options) else {
        return;
    };
    let events = reader.take(READ_MAX).take_while(Result::is_ok);
    let _events = events.count();
}
