//! The one error type of the crate.

use std::error::Error as StdError;
use std::fmt;

/// A result whose error is this crate's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is; decide on this, not on the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The model's file is not there or cannot be read.
    ModelNotFound,
    /// The bytes are not a model that the engine can make sense of.
    ModelInvalid,
    /// The model or the request is sound, but this engine cannot do it.
    Unsupported,
    /// A load option has a value that is not allowed.
    InvalidOption,
    /// An input tensor, or the set of them, does not fit the model.
    InvalidInput,
    /// A requested output, or the memory given for it, does not fit the model.
    InvalidOutput,
    /// Memory that the run needs is being accessed by somebody else; it may work later.
    Busy,
    /// The engine's shared library was not found.
    LibraryMissing,
    /// A shared library was found, but cannot be used: wrong file, wrong version.
    LibraryUnsuitable,
    /// There is not enough memory, or the pool's limit does not allow more.
    OutOfMemory,
    /// The memory's device failed or was lost.
    Device,
    /// The engine failed while it ran the model.
    Execution,
    /// The run was stopped by a [`Canceller`](crate::Canceller).
    Cancelled,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::ModelNotFound => "model not found",
            ErrorKind::ModelInvalid => "invalid model",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::InvalidOption => "invalid option",
            ErrorKind::InvalidInput => "invalid input",
            ErrorKind::InvalidOutput => "invalid output",
            ErrorKind::Busy => "busy",
            ErrorKind::LibraryMissing => "library missing",
            ErrorKind::LibraryUnsuitable => "library unsuitable",
            ErrorKind::OutOfMemory => "out of memory",
            ErrorKind::Device => "device failed",
            ErrorKind::Execution => "execution failed",
            ErrorKind::Cancelled => "cancelled",
        })
    }
}

/// A failure to load or run a model: its kind, one line that says what, where and what to do, and
/// the tensor it is about.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    tensor: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with a message of one line.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            tensor: None,
            source: None,
        }))
    }

    /// The same error, said to be about this tensor. The message is not changed.
    #[must_use]
    pub fn about_tensor(mut self, name: impl Into<String>) -> Error {
        self.0.tensor = Some(name.into());
        self
    }

    /// The same error with the one that caused it, whose text is appended to the message.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Error {
        self.0.message = format!("{}: {source}", self.0.message);
        self.0.source = Some(Box::new(source));
        self
    }

    /// The same error with words in front of its message, to say where it happened.
    #[must_use]
    pub fn context(mut self, place: impl fmt::Display) -> Error {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message, without the kind: one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The name of the tensor this is about, if it is about one.
    #[must_use]
    pub fn tensor(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("tensor", &self.0.tensor)
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

impl From<weldpool::Error> for Error {
    /// Keeps "not enough", "not now" and "lost" apart.
    fn from(error: weldpool::Error) -> Error {
        use weldpool::ErrorKind as Memory;
        let kind = match error.kind() {
            Memory::OutOfMemory | Memory::LimitExceeded => ErrorKind::OutOfMemory,
            Memory::Busy => ErrorKind::Busy,
            Memory::InvalidRequest => ErrorKind::InvalidInput,
            Memory::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Device,
        };
        let message = error.to_string();
        let mut error_here = Error::new(kind, message);
        error_here.0.source = Some(Box::new(error));
        error_here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_why() {
        let error = Error::new(ErrorKind::ModelNotFound, "cannot read model.onnx")
            .caused_by(std::io::Error::other("gone"))
            .context("loading 'a'")
            .about_tensor("x");
        assert_eq!(
            error.to_string(),
            "loading 'a': cannot read model.onnx: gone"
        );
        assert_eq!(error.kind(), ErrorKind::ModelNotFound);
        assert_eq!(error.tensor(), Some("x"));
        assert!(error.source().is_some());
    }
}
