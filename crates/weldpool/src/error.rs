//! The error of the memory manager.

use std::fmt;

use crate::name::Name;

/// Result of the memory manager.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is; the caller's reaction depends on this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request can never be satisfied as it stands: zero bytes, a bad alignment, an overflow, a
    /// wrong element type or range. Change the request.
    InvalidRequest,
    /// A configuration value is wrong. Raised once, when the allocator is built.
    InvalidConfig,
    /// The device has no memory left and everything idle was already given back. Free something and
    /// try again.
    OutOfMemory,
    /// A limit that was configured, or the device's largest segment, stands in the way although the
    /// device may have memory.
    LimitExceeded,
    /// This device never offers what was asked.
    Unsupported,
    /// Not now: work in flight or another guard holds the contents. Wait for it and try again.
    Busy,
    /// A wait ended before the work did.
    Timeout,
    /// The device or queue is gone; every later call on it says the same.
    DeviceLost,
    /// The operating system or a driver refused a call for another reason.
    System,
}

/// State of a pool at the moment an allocation failed, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolState {
    pub(crate) live: u64,
    pub(crate) cached: u64,
    pub(crate) reserved: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) largest_free: u64,
}

/// An error of the memory manager: what failed, where, and what to do about it.
///
/// `Debug` is `Display` behind the kind, so that what `main` returns can be read.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: Message,
    requested: Option<(usize, Name)>,
    pool: Option<Box<PoolState>>,
    source: Option<std::io::ErrorKind>,
    os_error: Option<i32>,
}

#[derive(Clone)]
enum Message {
    Static(&'static str),
    Owned(Box<str>),
}

impl Error {
    /// An error whose text is fixed, which costs no allocation.
    #[must_use]
    pub const fn new(kind: ErrorKind, message: &'static str) -> Self {
        Self {
            kind,
            message: Message::Static(message),
            requested: None,
            pool: None,
            source: None,
            os_error: None,
        }
    }

    /// An error whose text carries details.
    #[must_use]
    pub fn with_message(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            message: Message::Owned(message.into().into_boxed_str()),
            ..Self::new(kind, "")
        }
    }

    /// An error of the operating system in `call`, which is the name of the function that failed.
    #[must_use]
    pub fn system(kind: ErrorKind, call: &'static str, error: &std::io::Error) -> Self {
        Self {
            source: Some(error.kind()),
            os_error: error.raw_os_error(),
            ..Self::new(kind, call)
        }
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Bytes that were requested, where the error belongs to a request.
    #[must_use]
    pub fn requested_bytes(&self) -> Option<usize> {
        self.requested.map(|(bytes, _)| bytes)
    }

    /// The error number of the operating system, where it reported one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        self.os_error
    }

    pub(crate) fn for_request(mut self, bytes: usize, name: Name) -> Self {
        self.requested.get_or_insert((bytes, name));
        self
    }

    pub(crate) fn with_pool(mut self, pool: PoolState) -> Self {
        self.pool.get_or_insert_with(|| Box::new(pool));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.message {
            Message::Static(text) => f.write_str(text)?,
            Message::Owned(text) => f.write_str(text)?,
        }
        if let Some(number) = self.os_error {
            write!(f, " failed: {}", std::io::Error::from_raw_os_error(number))?;
        } else if let Some(kind) = self.source {
            write!(f, " failed: {kind}")?;
        }
        if let Some((bytes, name)) = self.requested {
            write!(f, " (asked for {bytes} bytes for {:?}", name.as_str())?;
            if let Some(pool) = &self.pool {
                write!(
                    f,
                    "; live {}, cached {}, reserved {}, largest free range {}",
                    pool.live, pool.cached, pool.reserved, pool.largest_free
                )?;
                match pool.limit {
                    Some(limit) => write!(f, ", limit {limit}")?,
                    None => f.write_str(", no limit set")?,
                }
            }
            f.write_str(")")?;
        }
        match self.kind {
            ErrorKind::OutOfMemory => f.write_str("; free buffers or use a smaller model or batch"),
            ErrorKind::LimitExceeded if self.pool.is_some() => {
                f.write_str("; free buffers or raise Config::reserved_bytes_max")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_what_was_asked_and_what_the_pool_held() {
        let error = Error::new(ErrorKind::LimitExceeded, "the pool's limit is reached")
            .for_request(4096, Name::from("weights"))
            .with_pool(PoolState {
                live: 1,
                cached: 2,
                reserved: 3,
                limit: Some(4),
                largest_free: 5,
            });
        let text = error.to_string();
        for part in [
            "4096",
            "weights",
            "live 1",
            "cached 2",
            "reserved 3",
            "largest free range 5",
            "limit 4",
            "raise",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
        assert_eq!(format!("{error:?}"), format!("LimitExceeded: {text}"));
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(error.requested_bytes(), Some(4096));
    }

    #[test]
    fn system_errors_carry_call_and_number() {
        let error = Error::system(
            ErrorKind::System,
            "mmap",
            &std::io::Error::from_raw_os_error(12),
        );
        assert_eq!(error.os_error(), Some(12));
        assert!(error.to_string().starts_with("mmap failed: "));
    }
}
