//! The one error of this crate.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, by the part that has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A variable, program or platform that the run needs is missing.
    Environment,
    /// A peer could not be fetched, or is not the pinned one.
    Download,
    /// A child process did not start, stopped by itself or would not stop.
    Process,
    /// A server answered something other than the protocol or the content asked for.
    Protocol,
    /// A file or socket operation failed.
    Io,
}

/// An error with its kind, what was being done, and the error below it if there is one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of everything fallible here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a cause below it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// An error of `kind` caused by `source`.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            message: message.into(),
            source: Some(source.into()),
        }
    }

    /// A failed file or socket operation; `message` says which.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Self::caused(ErrorKind::Io, message, source)
    }

    /// A server's answer that breaks the protocol or has the wrong content.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    /// What went wrong, by the part that has to act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
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

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
