//! Lines of text files, and the numbers in them.

#![forbid(unsafe_code)]

use std::io::BufRead;

use super::file::cannot_read;
use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};

/// Longest line in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Reads a file line by line into one buffer.
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            line: Vec::new(),
            number: 0,
        }
    }

    /// Number of the line read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, without white space around it; none at the end.
    pub(super) fn next(&mut self) -> TraceResult<Option<&str>> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut limited = std::io::Read::take(&mut self.input, LINE_BYTES_MAX as u64);
            let read = limited.read_until(b'\n', &mut self.line);
            let bytes = read.map_err(|error| cannot_read(error).at_line(self.number))?;
            if bytes == 0 {
                return Ok(None);
            }
            if bytes == LINE_BYTES_MAX && !self.line.ends_with(b"\n") {
                return Err(TraceError::new(
                    TraceErrorKind::Limit,
                    format!("the line is longer than {LINE_BYTES_MAX} bytes"),
                )
                .at_line(self.number));
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        match std::str::from_utf8(self.line.trim_ascii()) {
            Ok(line) => Ok(Some(line)),
            Err(_) => Err(wrong("the line is not UTF-8").at_line(self.number)),
        }
    }
}

pub(super) fn wrong(message: impl Into<String>) -> TraceError {
    TraceError::new(TraceErrorKind::Format, message)
}

/// A field of a line, shortened for a message.
pub(super) fn quoted(field: &str) -> String {
    let short: String = field.chars().take(40).collect();
    format!("{short:?}")
}

/// A decimal number in the column `name`.
pub(super) fn decimal(field: &str, name: &str) -> TraceResult<u64> {
    field
        .parse()
        .map_err(|_| wrong(format!("{name} is {}, not a number", quoted(field))))
}

/// An address as C and C++ print it: hexadecimal, `(nil)` or `0` for none; hexadecimal digits
/// need no `0x`.
pub(super) fn address(field: &str, name: &str) -> TraceResult<u64> {
    if field == "(nil)" {
        return Ok(0);
    }
    let digits = field.strip_prefix("0x").or(field.strip_prefix("0X"));
    u64::from_str_radix(digits.unwrap_or(field), 16)
        .map_err(|_| wrong(format!("{name} is {}, not an address", quoted(field))))
}

/// A stream: a decimal number, or an address.
pub(super) fn stream(field: &str, name: &str) -> TraceResult<u64> {
    field.parse().or_else(|_| address(field, name))
}

/// The columns that a heading gives, by their names.
pub(super) struct Columns<const N: usize>([Option<usize>; N]);

impl<const N: usize> Columns<N> {
    /// Reads the heading, the first line, and finds `names` in it; the first `required` of them must
    /// be there.
    pub(super) fn read(
        lines: &mut Lines<impl BufRead>,
        names: [&str; N],
        required: usize,
    ) -> TraceResult<Self> {
        let heading = lines.next()?.unwrap_or_default();
        let heading: Vec<_> = heading.split(',').map(str::trim).collect();
        let found = names.map(|name| heading.iter().position(|column| *column == name));
        match found.iter().take(required).position(Option::is_none) {
            Some(missing) => {
                let columns = names[..required].join(", ");
                Err(wrong(format!(
                    "the heading has no column {:?}; it needs {columns}",
                    names[missing]
                ))
                .at_line(1))
            }
            None => Ok(Self(found)),
        }
    }

    /// The fields of a line, in the order of the names; a required one that the line lacks is empty,
    /// and so is one that the heading lacks.
    pub(super) fn fields<'a>(&self, line: &'a str) -> [&'a str; N] {
        let mut fields = [""; N];
        for (index, field) in line.split(',').enumerate() {
            for (column, place) in self.0.iter().zip(&mut fields) {
                if *column == Some(index) {
                    *place = field.trim();
                }
            }
        }
        fields
    }
}
