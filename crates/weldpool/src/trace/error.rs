//! The error of reading and writing traces.

use std::fmt;
use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind};

/// Result of reading and writing traces.
pub type TraceResult<T> = Result<T, TraceError>;

/// What kind of failure a [`TraceError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceErrorKind {
    /// The system could not read or write; see [`TraceError::io_error`].
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
    #[cfg_attr(
        not(feature = "trace"),
        expect(dead_code, reason = "only readers of all formats count")
    )]
    Event(u64),
}

/// An error of reading or writing a trace: in which file and where in it, what failed and why, and what
/// to do.
///
/// `Debug` is `Display` behind the kind, so that what `main` returns can be read.
pub struct TraceError {
    kind: TraceErrorKind,
    path: Option<Box<Path>>,
    place: Place,
    message: Box<str>,
    io: Option<io::Error>,
}

/// For programs whose functions return [`Result`](crate::Result): the text stays, and kinds become those that are
/// nearest.
impl From<TraceError> for Error {
    fn from(error: TraceError) -> Self {
        let kind = match error.kind {
            TraceErrorKind::Io | TraceErrorKind::Allocator => ErrorKind::System,
            TraceErrorKind::Format => ErrorKind::InvalidRequest,
            TraceErrorKind::Limit => ErrorKind::LimitExceeded,
            TraceErrorKind::Unsupported => ErrorKind::Unsupported,
        };
        Self::with_message(kind, error.to_string())
    }
}

impl TraceError {
    pub(super) fn new(kind: TraceErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            path: None,
            place: Place::Unknown,
            message: message.into().into_boxed_str(),
            io: None,
        }
    }

    pub(super) fn io(action: &str, error: io::Error) -> Self {
        Self {
            io: Some(error),
            ..Self::new(TraceErrorKind::Io, action)
        }
    }

    pub(super) fn in_file(self, path: &Path) -> Self {
        self.in_some_file(Some(path))
    }

    /// Where the path is known.
    pub(super) fn in_some_file(mut self, path: Option<&Path>) -> Self {
        self.path = self.path.or_else(|| path.map(Into::into));
        self
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

    /// Unless a line or an offset says it better.
    #[cfg(feature = "trace")]
    pub(super) fn at_event(mut self, event: u64) -> Self {
        if self.place == Place::Unknown {
            self.place = Place::Event(event);
        }
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> TraceErrorKind {
        self.kind
    }

    /// The file, where one was opened or created by its path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
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

    /// The event, counted from 1, where the failure has neither line nor offset.
    #[must_use]
    pub fn event(&self) -> Option<u64> {
        match self.place {
            Place::Event(event) => Some(event),
            _ => None,
        }
    }

    /// What the system said, where it failed. The text of this error contains it.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        self.io.as_ref()
    }

    /// What to do, where the message does not say it.
    fn advice(&self) -> &'static str {
        match (self.kind, self.io.as_ref().map(io::Error::kind)) {
            (TraceErrorKind::Format, _) => "; repair the file, or say which format it has",
            (_, Some(io::ErrorKind::NotFound)) => "; check the path",
            (_, Some(io::ErrorKind::IsADirectory)) => "; name a file in it",
            (_, Some(io::ErrorKind::PermissionDenied)) => "; check who may use the file",
            (
                _,
                Some(
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput,
                ),
            ) => "; the file is cut short or damaged, copy or record it again",
            (_, Some(io::ErrorKind::StorageFull)) => "; make room on the disk",
            _ => "",
        }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        match self.place {
            Place::Unknown => {}
            Place::Line(line) => write!(f, "line {line}: ")?,
            Place::Offset(offset) => write!(f, "offset {offset}: ")?,
            Place::Event(event) => write!(f, "event {event}: ")?,
        }
        f.write_str(&self.message)?;
        if let Some(error) = &self.io {
            write!(f, ": {error}")?;
        }
        f.write_str(self.advice())
    }
}

impl fmt::Debug for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for TraceError {}
