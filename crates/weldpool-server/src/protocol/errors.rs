//! Errors of the protocol: how those of the layers below are told to a client, and the body that
//! carries one.
//!
//! A message names the tensor it is about. What a client sends wrong is `InvalidArgument`; memory
//! that is not to be had now is `Unavailable`; anything else from below is `Internal`.

use std::fmt;

use super::json::{JsonError, Reason};
use crate::{Error, ErrorKind, Result, config};

impl From<JsonError> for Error {
    fn from(error: JsonError) -> Error {
        Error::invalid_argument(format!("failed to parse the request JSON buffer: {error}"))
    }
}

/// Names the part of the request that held a value of the wrong kind.
pub(crate) fn field<T>(
    what: impl fmt::Display,
    result: std::result::Result<T, JsonError>,
) -> Result<T> {
    result.map_err(|error| match error.reason {
        Reason::Unexpected { wanted, found } => {
            Error::invalid_argument(format!("{what} must be {wanted}, not {found}"))
        }
        _ => error.into(),
    })
}

/// Puts `subject` before the message of an error.
pub(crate) fn within(subject: impl fmt::Display, error: &Error) -> Error {
    Error::new(error.kind(), format!("{subject}: {error}"))
}

/// An error of the memory pool on behalf of `subject`.
pub(crate) fn memory(subject: impl fmt::Display, error: &weldpool::Error) -> Error {
    use weldpool::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::OutOfMemory | Kind::LimitExceeded | Kind::Busy => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{subject}: {error}"))
}

/// An error of the engine's tensors on behalf of `subject`.
pub(crate) fn tensor(subject: impl fmt::Display, error: &weldpool_engine::Error) -> Error {
    use weldpool_engine::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::InvalidInput => ErrorKind::InvalidArgument,
        Kind::OutOfMemory | Kind::Busy => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{subject}: {error}"))
}

/// An error of comparing a request with the model's configuration.
pub(crate) fn mismatch(error: &config::Error) -> Error {
    Error::invalid_argument(error.to_string())
}

/// Says that a size is beyond its limit.
pub(crate) fn too_large(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::PayloadTooLarge, message)
}

/// Says that tensors cannot be passed in shared memory.
pub(crate) fn unsupported_shared_memory() -> Error {
    Error::unsupported("shared memory is not supported by this server")
}

/// The body of an answer that tells of an error.
#[must_use]
pub(crate) fn body(message: &str) -> Vec<u8> {
    serde_json::json!({ "error": message })
        .to_string()
        .into_bytes()
}
