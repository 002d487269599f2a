//! The errors of the connection layer, and the status each one is answered with.

use std::borrow::Cow;
use std::{fmt, io};

/// A `Result` whose error is the connection layer's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong on a connection, in one line that can be shown to a client or an operator.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<io::Error>,
}

/// The kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes break HTTP/1.1 or a content coding.
    Malformed,
    /// The body ends before the bytes that were asked for.
    BodyTooShort,
    /// The head of a request, a chunk extension or a trailer is over its limit.
    HeaderTooLarge,
    /// The request target alone is over the limit of the head.
    TargetTooLong,
    /// The body is over its limit, as sent or as decoded.
    BodyTooLarge,
    /// The body's `Content-Encoding` is not one that is understood.
    UnsupportedEncoding,
    /// The request's method or `Transfer-Encoding` is not one that is understood.
    Unimplemented,
    /// The request's HTTP version is not 1.0 or 1.1.
    UnsupportedVersion,
    /// The request expects something other than `100-continue`.
    ExpectationFailed,
    /// The peer was silent, or too slow, for longer than a limit allows.
    Timeout,
    /// The peer closed the connection in the middle of a message.
    Disconnected,
    /// The operating system failed a read or a write.
    Io,
    /// The handler panicked.
    HandlerPanicked,
    /// The memory of a response's body cannot be read.
    ResponseUnreadable,
    /// A header of a response holds bytes that a header must not hold.
    InvalidHeader,
    /// A limit is zero, too large, or contradicts another.
    InvalidLimit,
    /// The address to listen on is in use.
    AddressInUse,
    /// The address to listen on cannot be bound for another reason.
    AddressUnavailable,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    pub(crate) fn with_source(mut self, source: io::Error) -> Self {
        self.source = Some(source);
        self
    }

    /// Classifies a failed read or write: a peer that went away is not an operator's problem.
    pub(crate) fn io(error: io::Error) -> Self {
        use io::ErrorKind as Io;
        let (kind, message) = match error.kind() {
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => {
                (ErrorKind::Disconnected, "the client closed the connection")
            }
            _ => (ErrorKind::Io, "the connection failed"),
        };
        Self::new(kind, message).with_source(error)
    }

    pub(crate) fn disconnected() -> Self {
        Self::new(
            ErrorKind::Disconnected,
            "the client closed the connection before the end of the request",
        )
    }

    /// The kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message alone, without the operating system's words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status to answer with, or `None` when nobody is there to read an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        Some(match self.kind {
            ErrorKind::Malformed | ErrorKind::BodyTooShort => 400,
            ErrorKind::Timeout => 408,
            ErrorKind::BodyTooLarge => 413,
            ErrorKind::TargetTooLong => 414,
            ErrorKind::UnsupportedEncoding => 415,
            ErrorKind::ExpectationFailed => 417,
            ErrorKind::HeaderTooLarge => 431,
            ErrorKind::Unimplemented => 501,
            ErrorKind::UnsupportedVersion => 505,
            ErrorKind::HandlerPanicked
            | ErrorKind::ResponseUnreadable
            | ErrorKind::InvalidHeader
            | ErrorKind::InvalidLimit
            | ErrorKind::AddressInUse
            | ErrorKind::AddressUnavailable => 500,
            ErrorKind::Disconnected | ErrorKind::Io => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_peer_is_told_apart_from_a_failing_system() {
        let lost = Error::io(io::ErrorKind::ConnectionReset.into());
        assert_eq!(
            (lost.kind(), lost.status()),
            (ErrorKind::Disconnected, None)
        );
        let failed = Error::io(io::ErrorKind::OutOfMemory.into());
        assert_eq!((failed.kind(), failed.status()), (ErrorKind::Io, None));
    }

    #[test]
    fn the_message_is_one_line_and_the_source_is_kept() {
        let error = Error::io(io::Error::other("link down"));
        assert_eq!(error.to_string(), "the connection failed: link down");
        assert_eq!(error.message(), "the connection failed");
        assert!(std::error::Error::source(&error).is_some());
    }
}
