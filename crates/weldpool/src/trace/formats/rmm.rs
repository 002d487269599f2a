//! The log of RMM's logging adaptor: `Thread,Time,Action,Pointer,Size,Stream`.

#![forbid(unsafe_code)]

use std::io::{BufRead, Write};

use super::file::{Decode, Encode, cannot_write};
use super::lines::{Columns, Lines, address, decimal, quoted, stream, wrong};
use crate::trace::error::TraceResult;
use crate::trace::event::{Event, Op, Skipped};

const NAMES: [&str; 6] = ["Action", "Pointer", "Size", "Thread", "Time", "Stream"];
/// The columns a heading cannot do without: action, pointer and size.
const REQUIRED: usize = 3;
const DAY_US: u64 = 24 * 3600 * 1_000_000;

pub(super) struct Decoder<R> {
    lines: Lines<R>,
    columns: Columns<6>,
    clock: Clock,
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn new(input: R) -> TraceResult<Self> {
        let mut lines = Lines::new(input);
        Ok(Self {
            columns: Columns::read(&mut lines, NAMES, REQUIRED)?,
            lines,
            clock: Clock::default(),
        })
    }
}

impl<R: BufRead + Send> Decode for Decoder<R> {
    fn next(&mut self, skipped: &mut Skipped) -> TraceResult<Option<Event>> {
        loop {
            let event = match self.lines.next()? {
                Some(line) => parse(self.columns.fields(line), &mut self.clock, skipped),
                None => return Ok(None),
            };
            if let Some(event) = event.map_err(|error| error.at_line(self.lines.number()))? {
                return Ok(Some(event));
            }
        }
    }
}

fn parse(
    [action, pointer, size, thread, time, on]: [&str; 6],
    clock: &mut Clock,
    skipped: &mut Skipped,
) -> TraceResult<Option<Event>> {
    let op = match action {
        "allocate" => Op::Allocate,
        "free" => Op::Free,
        "allocate failure" => {
            skipped.failures += 1;
            return Ok(None);
        }
        _ => {
            return Err(wrong(format!(
                "Action is {}, none of allocate, free and allocate failure",
                quoted(action)
            )));
        }
    };
    let id = address(pointer, "Pointer")?;
    let event = Event {
        op,
        id,
        bytes: decimal(size, "Size")?,
        stream: if on.is_empty() {
            0
        } else {
            stream(on, "Stream")?
        },
        time_us: clock.read(time)?,
        thread: match thread {
            "" => 0,
            _ => stream(thread, "Thread")?,
        },
    };
    if id == 0 {
        // What an allocation of zero bytes gives, and what its free takes back.
        skipped.empty += u64::from(op == Op::Allocate);
        return Ok(None);
    }
    Ok(Some(event))
}

/// Turns the time of day into the time since the first event.
#[derive(Default)]
struct Clock {
    first_us: Option<u64>,
    last_us: u64,
    days: u64,
}

impl Clock {
    fn read(&mut self, field: &str) -> TraceResult<u64> {
        if field.is_empty() {
            return Ok(0);
        }
        let of_day = time_of_day(field)
            .ok_or_else(|| wrong(format!("Time is {}, not HH:MM:SS.us", quoted(field))))?;
        let first_us = *self.first_us.get_or_insert(of_day);
        // A step back by more than half a day is midnight; a smaller one is another thread's line.
        if of_day + DAY_US / 2 < self.last_us {
            self.days += 1;
        }
        self.last_us = of_day;
        Ok((of_day + self.days * DAY_US).saturating_sub(first_us))
    }
}

/// Microseconds since midnight; the fraction may stand behind a point or a colon.
fn time_of_day(field: &str) -> Option<u64> {
    let mut parts = field.split([':', '.']);
    let mut part = |max: u64| -> Option<u64> {
        let number = parts.next()?.parse().ok()?;
        (number <= max).then_some(number)
    };
    let (hours, minutes, seconds) = (part(23)?, part(59)?, part(60)?);
    let micros = match parts.next() {
        None => 0,
        Some(fraction) if fraction.len() <= 6 && parts.next().is_none() => {
            let scale = 10_u64.pow(6 - fraction.len() as u32);
            fraction.parse::<u64>().ok()? * scale
        }
        Some(_) => return None,
    };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

/// Ids stand for pointers, moved away from the null pointer.
#[derive(Default)]
pub(super) struct Encoder {
    begun: bool,
}

impl Encode for Encoder {
    fn write(&mut self, event: &Event, out: &mut dyn Write) -> TraceResult<()> {
        self.finish(out)?;
        let action = match event.op {
            Op::Allocate => "allocate",
            Op::Free => "free",
        };
        let us = event.time_us;
        writeln!(
            out,
            "{},{:02}:{:02}:{:02}.{:06},{action},{:#x},{},{}",
            event.thread,
            us / 3_600_000_000 % 24,
            us / 60_000_000 % 60,
            us / 1_000_000 % 60,
            us % 1_000_000,
            pointer(event.id),
            event.bytes,
            event.stream,
        )
        .map_err(cannot_write)
    }

    fn finish(&mut self, out: &mut dyn Write) -> TraceResult<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        writeln!(out, "Thread,Time,Action,Pointer,Size,Stream").map_err(cannot_write)
    }
}

/// An address for an id: unique, not null, and aligned as a device's are.
pub(super) fn pointer(id: u64) -> u64 {
    id.wrapping_add(1).rotate_left(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_become_times_since_the_first() {
        let mut clock = Clock::default();
        for (field, expected) in [
            ("23:59:59.999999", 0),
            ("00:00:00.000001", 2),
            ("00:00:01:500000", 1_500_001),
            ("00:00:01.4", 1_400_001),
            ("", 0),
        ] {
            assert_eq!(clock.read(field).unwrap(), expected, "{field:?}");
        }
        for field in ["1", "24:00:00.0", "00:00:00.1234567", "a:b:c", "1:2:3.4.5"] {
            assert!(clock.read(field).is_err(), "{field:?}");
        }
    }
}
