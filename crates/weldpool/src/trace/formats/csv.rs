//! Our text format: `op,id,bytes,stream,t_us`, with a sixth column `thread` where events have one.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use super::file::{Decode, Encode, cannot_write};
use super::lines::{Columns, Lines, decimal, quoted, wrong};
use crate::trace::error::TraceResult;
use crate::trace::event::{Event, Op, Skipped};

const NAMES: [&str; 6] = ["op", "id", "bytes", "stream", "t_us", "thread"];
/// The columns a heading cannot do without: op, id and bytes.
const REQUIRED: usize = 3;

pub(super) struct Decoder<R> {
    lines: Lines<R>,
    columns: Columns<6>,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> TraceResult<Self> {
        let mut lines = Lines::new(input);
        Ok(Self {
            columns: Columns::read(&mut lines, NAMES, REQUIRED)?,
            lines,
        })
    }
}

impl<R: BufRead + Send> Decode for Decoder<R> {
    fn next(&mut self, _: &mut Skipped) -> TraceResult<Option<Event>> {
        let event = match self.lines.next()? {
            Some(line) => parse(self.columns.fields(line)),
            None => return Ok(None),
        };
        event
            .map(Some)
            .map_err(|error| error.at_line(self.lines.number()))
    }
}

fn parse([op, id, bytes, stream, time_us, thread]: [&str; 6]) -> TraceResult<Event> {
    let optional = |field: &str, name| match field {
        "" => Ok(0),
        _ => decimal(field, name),
    };
    Ok(Event {
        op: match op {
            "a" => Op::Allocate,
            "f" => Op::Free,
            _ => return Err(wrong(format!("op is {}, neither a nor f", quoted(op)))),
        },
        id: decimal(id, "id")?,
        bytes: decimal(bytes, "bytes")?,
        stream: optional(stream, "stream")?,
        time_us: optional(time_us, "t_us")?,
        thread: optional(thread, "thread")?,
    })
}

/// Most bytes of lines that are held back.
const HELD_BYTES_MAX: usize = 256 << 20;

/// Writes the column `thread` only where it says something. Lines are therefore held back, without
/// it, until an event is not of thread 0.
#[derive(Default)]
pub(super) struct Encoder {
    held: Vec<u8>,
    threads: bool,
}

impl Encode for Encoder {
    fn write(&mut self, event: &Event, out: &mut dyn Write) -> TraceResult<()> {
        if !self.threads && (event.thread != 0 || self.held.len() > HELD_BYTES_MAX) {
            self.add_threads(out)?;
        }
        let op = match event.op {
            Op::Allocate => 'a',
            Op::Free => 'f',
        };
        let Event {
            id,
            bytes,
            stream,
            time_us,
            thread,
            ..
        } = event;
        if self.threads {
            writeln!(out, "{op},{id},{bytes},{stream},{time_us},{thread}")
        } else {
            writeln!(self.held, "{op},{id},{bytes},{stream},{time_us}")
        }
        .map_err(cannot_write)
    }

    fn finish(&mut self, out: &mut dyn Write) -> TraceResult<()> {
        if self.threads {
            return Ok(());
        }
        let heading = NAMES[..5].join(",");
        writeln!(out, "{heading}").map_err(cannot_write)?;
        out.write_all(&self.held).map_err(cannot_write)
    }
}

impl Encoder {
    fn add_threads(&mut self, out: &mut dyn Write) -> TraceResult<()> {
        self.threads = true;
        writeln!(out, "{}", NAMES.join(",")).map_err(cannot_write)?;
        for line in self.held.split_inclusive(|byte| *byte == b'\n') {
            out.write_all(line.trim_ascii_end())
                .and_then(|()| out.write_all(b",0\n"))
                .map_err(cannot_write)?;
        }
        self.held = Vec::new();
        Ok(())
    }
}
