//! Errors with one of Triton's codes, from which clients get their status.

use std::fmt;

pub(crate) use weldpool_triton_sys::ErrorCode;

/// A result whose error is this crate's.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as Triton is told of it: a code, and one line that says what, where and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    code: ErrorCode,
    message: String,
}

impl Error {
    /// An error with a code and a message of one line.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// `Internal`.
    pub(crate) fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::Internal, message)
    }

    /// `InvalidArgument`.
    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorCode::InvalidArgument, message)
    }

    /// The same error with words in front of its message, to say where it happened.
    pub(crate) fn context(mut self, place: impl fmt::Display) -> Error {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Triton's code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message.
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
        let code = match error.kind() {
            // May succeed when others' memory is free again.
            Kind::OutOfMemory | Kind::LimitExceeded => ErrorCode::Unavailable,
            Kind::InvalidConfig | Kind::InvalidRequest => ErrorCode::InvalidArgument,
            Kind::Unsupported => ErrorCode::Unsupported,
            _ => ErrorCode::Internal,
        };
        let error = match code {
            ErrorCode::Unavailable => error.with_advice(POOL_ADVICE),
            _ => error,
        };
        Error::new(code, error.to_string())
    }
}

/// What helps where the pool has no memory; who runs a server has no access to its configuration in Rust.
const POOL_ADVICE: &str = "send the request again, or raise max-pool-size (MPS_MAX_POOL_SIZE)";

impl From<weldpool_engine::Error> for Error {
    fn from(error: weldpool_engine::Error) -> Error {
        use weldpool_engine::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::ModelNotFound | Kind::LibraryMissing => ErrorCode::NotFound,
            Kind::InvalidInput | Kind::InvalidOutput | Kind::InvalidOption => {
                ErrorCode::InvalidArgument
            }
            Kind::Unsupported | Kind::LibraryUnsuitable => ErrorCode::Unsupported,
            Kind::OutOfMemory | Kind::Busy => ErrorCode::Unavailable,
            Kind::Cancelled => ErrorCode::Cancelled,
            _ => ErrorCode::Internal,
        };
        match error.kind() {
            Kind::OutOfMemory => Error::new(code, format!("{}; {POOL_ADVICE}", error.message())),
            _ => Error::new(code, error.message()),
        }
    }
}

impl From<weldpool_config::Error> for Error {
    fn from(error: weldpool_config::Error) -> Error {
        use weldpool_config::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::Unsupported => ErrorCode::Unsupported,
            _ => ErrorCode::InvalidArgument,
        };
        Error::new(code, error.to_string())
    }
}
