//! The error of the server, with the categories of the protocol.

use std::fmt;

/// Result of the server.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is. The first eight are the protocol's own categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No better category fits.
    Unknown,
    /// A failure that the client can do nothing about.
    Internal,
    /// There is no such thing.
    NotFound,
    /// The request is wrong as it stands.
    InvalidArgument,
    /// Not now; the same request may succeed later.
    Unavailable,
    /// Never on this server.
    Unsupported,
    /// It exists already.
    AlreadyExists,
    /// The client gave up.
    Cancelled,
    /// The path exists, but not for this method.
    MethodNotAllowed,
    /// The body is longer than the limit.
    PayloadTooLarge,
    /// The head is longer than the limit.
    HeaderTooLarge,
    /// The client was too slow.
    Timeout,
}

impl ErrorKind {
    /// The HTTP status that goes with it: as Triton answers for its own categories, by RFC 9110 for
    /// the rest.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Internal => 500,
            Self::NotFound => 404,
            Self::Unavailable => 503,
            Self::Unsupported => 501,
            Self::MethodNotAllowed => 405,
            Self::PayloadTooLarge => 413,
            Self::HeaderTooLarge => 431,
            Self::Timeout => 408,
            Self::Unknown | Self::InvalidArgument | Self::AlreadyExists | Self::Cancelled => 400,
        }
    }
}

/// An error of the server: its kind, and a message for the client that names what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
}

impl Error {
    /// An error with a message for the client.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into().into_boxed_str(),
        }
    }

    /// See [`ErrorKind::Internal`].
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// See [`ErrorKind::NotFound`].
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// See [`ErrorKind::InvalidArgument`].
    #[must_use]
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// See [`ErrorKind::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// See [`ErrorKind::Unsupported`].
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message for the client.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The HTTP status; see [`ErrorKind::status`].
    #[must_use]
    pub fn status(&self) -> u16 {
        self.kind.status()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<weldpool_engine::Error> for Error {
    fn from(error: weldpool_engine::Error) -> Self {
        use weldpool_engine::ErrorKind as Engine;
        let kind = match error.kind() {
            Engine::InvalidInput | Engine::InvalidOutput => ErrorKind::InvalidArgument,
            Engine::Busy | Engine::OutOfMemory => ErrorKind::Unavailable,
            Engine::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<weldpool_config::Error> for Error {
    fn from(error: weldpool_config::Error) -> Self {
        let kind = match error.kind() {
            weldpool_config::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidArgument,
        };
        Self::new(kind, error.to_string())
    }
}
