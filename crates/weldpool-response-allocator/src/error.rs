//! Errors.
#![forbid(unsafe_code)]

use std::fmt;

use weldpool_triton_sys::{ErrorCode, Missing};

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A function of Triton's is not in the process.
    Missing,
    /// A list of sources, or what Triton passed, cannot be.
    InvalidArgument,
    /// Triton has no name for this kind of memory, or the device has none of it.
    Unsupported,
    /// No source has memory now.
    Unavailable,
    /// Triton refused a call.
    Triton,
    /// A mistake of this library's own, or a device that failed.
    Internal,
}

/// An error, in one line that says what, where and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The code that Triton is told.
    pub(crate) fn code(&self) -> ErrorCode {
        match self.kind {
            ErrorKind::InvalidArgument => ErrorCode::InvalidArgument,
            ErrorKind::Unsupported | ErrorKind::Missing => ErrorCode::Unsupported,
            ErrorKind::Unavailable => ErrorCode::Unavailable,
            ErrorKind::Triton | ErrorKind::Internal => ErrorCode::Internal,
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<weldpool::Error> for Error {
    fn from(error: weldpool::Error) -> Error {
        use weldpool::ErrorKind as Kind;
        let kind = match error.kind() {
            // May succeed once others have freed something.
            Kind::OutOfMemory | Kind::LimitExceeded | Kind::Busy | Kind::Timeout => {
                ErrorKind::Unavailable
            }
            Kind::InvalidRequest | Kind::InvalidConfig => ErrorKind::InvalidArgument,
            Kind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, error.to_string())
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Error {
        Error::new(ErrorKind::Missing, missing.to_string())
    }
}
