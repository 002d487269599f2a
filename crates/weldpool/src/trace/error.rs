//! The error of reading and writing traces.

use std::fmt;
use std::io;

/// Result of reading and writing traces.
pub type TraceResult<T> = Result<T, TraceError>;

/// What kind of failure a [`TraceError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceErrorKind {
    /// The system could not read or write; see [`std::error::Error::source`].
    Io,
    /// The contents are not what the format says. Repair the file or name its format.
    Format,
    /// The contents are larger than this crate reads.
    Limit,
    /// The file, or something in it, is of a kind this crate does not read.
    Unsupported,
    /// The replayed allocator could not be built.
    Allocator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Unknown,
    #[cfg_attr(
        not(feature = "trace"),
        expect(dead_code, reason = "only other formats have lines")
    )]
    Line(u64),
    Offset(u64),
}

/// An error of reading or writing a trace: what failed, and at which line or offset.
#[derive(Debug)]
pub struct TraceError {
    kind: TraceErrorKind,
    place: Place,
    message: Box<str>,
    source: Option<io::Error>,
}

impl TraceError {
    pub(super) fn new(kind: TraceErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            place: Place::Unknown,
            message: message.into().into_boxed_str(),
            source: None,
        }
    }

    pub(super) fn io(action: &str, error: io::Error) -> Self {
        Self {
            source: Some(error),
            ..Self::new(TraceErrorKind::Io, action)
        }
    }

    #[cfg(feature = "trace")]
    pub(super) fn at_line(mut self, line: u64) -> Self {
        self.place = Place::Line(line);
        self
    }

    pub(super) fn at_offset(mut self, offset: u64) -> Self {
        self.place = Place::Offset(offset);
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> TraceErrorKind {
        self.kind
    }

    /// The line of a text file, counted from 1, where the failure has one.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self.place {
            Place::Line(line) => Some(line),
            _ => None,
        }
    }

    /// The offset in bytes in a binary file, where the failure has one.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        match self.place {
            Place::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Unknown => {}
            Place::Line(line) => write!(f, "line {line}: ")?,
            Place::Offset(offset) => write!(f, "offset {offset}: ")?,
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|error| error as &(dyn std::error::Error + 'static))
    }
}
