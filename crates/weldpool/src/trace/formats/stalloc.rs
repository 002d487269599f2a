//! STAlloc's text: `1 POINTER SIZE STREAM` for an allocation, `0 ...` for a free, and between them
//! lines that mark iterations, micro-batches and layers. There are no times; each event counts as
//! one microsecond.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use super::file::{Decode, Encode, cannot_write};
use super::lines::{Lines, address, decimal, stream};
use super::rmm::pointer;
use crate::trace::error::TraceResult;
use crate::trace::event::{Event, Op, Skipped};

pub(super) struct Decoder<R> {
    lines: Lines<R>,
    events: u64,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            lines: Lines::new(input),
            events: 0,
        }
    }
}

impl<R: BufRead + Send> Decode for Decoder<R> {
    fn next(&mut self, skipped: &mut Skipped) -> TraceResult<Option<Event>> {
        loop {
            let event = match self.lines.next()? {
                Some(line) => fields(line).map(|fields| parse(fields, self.events)),
                None => return Ok(None),
            };
            match event {
                None => skipped.markers += 1,
                Some(event) => {
                    let event = event.map_err(|error| error.at_line(self.lines.number()))?;
                    self.events += 1;
                    if event.id != 0 {
                        return Ok(Some(event));
                    }
                    skipped.empty += u64::from(event.op == Op::Allocate);
                }
            }
        }
    }
}

/// The operation and the three other fields of an event's line; none of a marker's.
pub(super) fn fields(line: &str) -> Option<(Op, [&str; 3])> {
    let mut words = line.split_ascii_whitespace();
    let op = match words.next()? {
        "1" => Op::Allocate,
        "0" => Op::Free,
        _ => return None,
    };
    let fields = [words.next()?, words.next()?, words.next()?];
    words.next().is_none().then_some((op, fields))
}

fn parse((op, [pointer, size, on]): (Op, [&str; 3]), time_us: u64) -> TraceResult<Event> {
    Ok(Event {
        op,
        id: address(pointer, "the pointer")?,
        bytes: decimal(size, "the size")?,
        stream: stream(on, "the stream")?,
        time_us,
        thread: 0,
    })
}

pub(super) struct Encoder;

impl Encode for Encoder {
    fn write(&mut self, event: &Event, out: &mut dyn Write) -> TraceResult<()> {
        let op = u8::from(event.op == Op::Allocate);
        let (id, bytes, on) = (pointer(event.id), event.bytes, event.stream);
        // The null stream is a bare zero, as the pointer it is printed as.
        if on == 0 {
            writeln!(out, "{op} {id:#x} {bytes} 0")
        } else {
            writeln!(out, "{op} {id:#x} {bytes} {on:#x}")
        }
        .map_err(cannot_write)
    }

    fn finish(&mut self, _: &mut dyn Write) -> TraceResult<()> {
        Ok(())
    }
}
