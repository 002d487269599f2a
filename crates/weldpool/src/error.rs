//! The error of the memory manager.

use std::fmt;

use crate::name::Name;
use crate::registered::CopyReason;

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
    /// Not now: work in flight or another guard holds the contents, or, for a request for held memory alone,
    /// none that is held suffices. Wait for it and try again.
    Busy,
    /// A wait ended before the work did.
    Timeout,
    /// The work was cancelled before its end.
    Cancelled,
    /// The device or queue is gone; every later call on it says the same.
    DeviceLost,
    /// The operating system or a driver refused a call for another reason.
    System,
}

/// How a pool stood when an allocation had failed, everything idle given back. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolState {
    /// Requested by users and not yet freed.
    pub live_bytes: u64,
    /// Held from the driver and idle.
    pub cached_bytes: u64,
    /// Held from the driver.
    pub reserved_bytes: u64,
    /// The most that may be held, where a limit is set.
    pub limit_bytes: Option<u64>,
    /// The largest free range.
    pub largest_free_bytes: u64,
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
    copy_reason: Option<CopyReason>,
    /// What to do, where that is not what its kind says.
    advice: Option<&'static str>,
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
            copy_reason: None,
            advice: None,
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

    /// What the request was for, where the error belongs to one; see [`Request::name`](crate::Request::name).
    #[must_use]
    pub fn requested_name(&self) -> Option<&'static str> {
        self.requested.map(|(_, name)| name.as_str())
    }

    /// How the pool stood. There for every request to an allocator that failed with
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) or [`LimitExceeded`](ErrorKind::LimitExceeded), also by way of a
    /// [`PinnedPool`](crate::pinned::PinnedPool), and for no other error. The limits of a `PinnedPool` itself are on what
    /// is out, not on memory; their errors have none, and say which field of its configuration it is.
    #[must_use]
    pub fn pool_state(&self) -> Option<&PoolState> {
        self.pool.as_deref()
    }

    /// What to do about it, where that can be said; the text of the error ends with it.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        if self.advice.is_some() {
            return self.advice;
        }
        match self.kind {
            ErrorKind::OutOfMemory => Some("free buffers or use a smaller model or batch"),
            // Other limits say themselves what they are.
            ErrorKind::LimitExceeded if self.pool.is_some() => {
                Some("free buffers or raise Config::reserved_bytes_max")
            }
            _ => None,
        }
    }

    /// The error number of the operating system, where it reported one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        self.os_error
    }

    /// Why memory of the program cannot be used where it is, where the error is about that. Of a
    /// [`Device`](crate::Device) that says nothing, an [adopted](crate::Allocator::adopt) memory was
    /// [`Refused`](CopyReason::Refused).
    #[must_use]
    pub fn copy_reason(&self) -> Option<CopyReason> {
        self.copy_reason
    }

    /// The same, with the reason for which memory of the program cannot be used where it is; for implementations of
    /// [`Device::register`](crate::Device::register).
    #[must_use]
    pub const fn with_copy_reason(mut self, reason: CopyReason) -> Self {
        self.copy_reason = Some(reason);
        self
    }

    /// The same, with what to do about it: a sentence without a full stop, for implementations of a
    /// [`Device`](crate::Device) whose limits are others than an allocator's.
    #[must_use]
    pub const fn with_advice(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// The same, its text behind what was wanted.
    pub(crate) fn within(mut self, what: impl fmt::Display) -> Self {
        let message = match &self.message {
            Message::Static(text) => format!("{what}: {text}"),
            Message::Owned(text) => format!("{what}: {text}"),
        };
        self.message = Message::Owned(message.into_boxed_str());
        self
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
                    pool.live_bytes,
                    pool.cached_bytes,
                    pool.reserved_bytes,
                    pool.largest_free_bytes
                )?;
                match pool.limit_bytes {
                    Some(limit) => write!(f, ", limit {limit}")?,
                    None => f.write_str(", no limit set")?,
                }
            }
            f.write_str(")")?;
        }
        match self.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
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
                live_bytes: 1,
                cached_bytes: 2,
                reserved_bytes: 3,
                limit_bytes: Some(4),
                largest_free_bytes: 5,
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
        assert_eq!(error.requested_name(), Some("weights"));
        assert!(text.ends_with(error.advice().unwrap()), "{text}");
        let plain = Error::new(ErrorKind::LimitExceeded, "at most 64 callbacks");
        assert_eq!((plain.advice(), plain.pool_state()), (None, None));
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
