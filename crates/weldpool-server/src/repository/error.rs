//! What can be wrong with a model repository.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such repository, model, version or file.
    NotFound,
    /// It is there and cannot be read.
    Unreadable,
    /// Two repositories have a model of this name.
    Duplicate,
    /// A name that could lead out of the repository, or is no name at all.
    InvalidName,
    /// There is more of something than a limit allows.
    LimitExceeded,
}

/// Something wrong with a model repository.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    path: Option<PathBuf>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            path: None,
        }
    }

    pub(super) fn at(mut self, path: &Path) -> Error {
        self.path = Some(path.to_owned());
        self
    }

    /// A failed operation of the system on a path.
    pub(super) fn io(what: &str, path: &Path, error: &io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
            _ => ErrorKind::Unreadable,
        };
        Error::new(kind, format!("{what} '{}': {error}", path.display())).at(path)
    }

    /// What kind of thing is wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The file or directory that is meant, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for crate::Error {
    fn from(error: Error) -> crate::Error {
        let message = error.to_string();
        match error.kind {
            ErrorKind::NotFound => crate::Error::not_found(message),
            ErrorKind::Unreadable => crate::Error::internal(message),
            ErrorKind::Duplicate | ErrorKind::InvalidName | ErrorKind::LimitExceeded => {
                crate::Error::invalid_argument(message)
            }
        }
    }
}
