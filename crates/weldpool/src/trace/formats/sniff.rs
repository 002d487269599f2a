//! Recognising a format by the first bytes of a file.

#![forbid(unsafe_code)]

use super::file::Format;
use super::{compact, stalloc};
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};

/// The opcode that every pickle of protocol 2 and later begins with.
const PICKLE: u8 = 0x80;

pub(super) fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

pub(super) fn format(start: &[u8]) -> TraceResult<Format> {
    if start.starts_with(&compact::MAGIC) {
        return Ok(Format::Compact);
    }
    if let [PICKLE, 2..=5, ..] = start {
        return Ok(Format::PyTorch);
    }
    let text = String::from_utf8_lossy(start);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let columns: Vec<_> = first.split(',').map(str::trim).collect();
    let has = |names: &[&str]| names.iter().all(|name| columns.contains(name));
    if has(&["op", "id", "bytes"]) {
        return Ok(Format::Csv);
    }
    if has(&["Action", "Pointer", "Size"]) {
        return Ok(Format::Rmm);
    }
    if std::iter::once(first).chain(lines).any(is_stalloc) {
        return Ok(Format::Stalloc);
    }
    let beginning: String = first.chars().take(40).collect();
    Err(TraceError::new(
        TraceErrorKind::Unsupported,
        if start.is_empty() {
            "the file is empty; record or export the trace again".to_owned()
        } else {
            format!(
                "the format is not recognised from the beginning {beginning:?}; it is none of {}; a CSV \
                 begins with the line op,id,bytes,stream,t_us",
                Format::ALL.map(Format::name).join(", ")
            )
        },
    ))
}

fn is_stalloc(line: &str) -> bool {
    stalloc::fields(line).is_some_and(|(_, [pointer, size, _])| {
        (pointer == "0" || pointer.starts_with("0x") || pointer == "(nil)")
            && size.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        for (start, expected) in [
            (&b"WELDTRC\0\x01\0"[..], Some(Format::Compact)),
            (b"\x80\x04\x95", Some(Format::PyTorch)),
            (b"op,id,bytes,stream,t_us\n", Some(Format::Csv)),
            (
                b"\n Thread,Time,Action,Pointer,Size,Stream\r\n",
                Some(Format::Rmm),
            ),
            (b"1 0x7f1e41329c00 1 0\n", Some(Format::Stalloc)),
            (
                b"Iteration Index : head\n0 0x7f 1 0x55\n",
                Some(Format::Stalloc),
            ),
            (b"", None),
            (b"\x80\x06", None),
            (b"id,lower,upper,size\n1,2,3,4\n", None),
        ] {
            assert_eq!(format(start).ok(), expected, "{start:?}");
        }
    }
}
