//! What a copy, and the copier, can be told.

#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::extent::Rows;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// Threads of one copy by default, where there are as many processors.
const THREADS_MAX: usize = 8;
/// Bounds on what can be configured.
const THREADS_BOUND: usize = 256;
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_BOUND: usize = 1 << 30;

/// Settings of a [`Copier`](super::Copier).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopierConfig {
    /// Threads that work on one copy at the most, the caller's of a copy that blocks among them; whoever waits for a
    /// [`CopyFuture`](super::CopyFuture) by its [`wait`](super::CopyFuture::wait) helps besides. Also the copier's own
    /// threads at the most. Default: as many as there are processors, 8 at the most.
    pub threads_max: usize,
    /// Bytes of a chunk of copies that processors have a part in, which are those on the ways `Staged` and `Host` of
    /// [`CopyPath`](super::CopyPath). None for what the device says: its
    /// [`chunk_bytes`](crate::device::Staging::chunk_bytes) where the copy is staged, and its
    /// [`part_bytes`](crate::device::Staging::part_bytes) on the host.
    pub chunk_bytes: Option<usize>,
    /// Up to so many bytes the driver copies memory that its device does not know, by means of its own; none for
    /// what the [device says](crate::device::Staging::pageable_bytes_max).
    pub pageable_bytes_max: Option<usize>,
    /// For how long a thread waits for work before it ends.
    pub idle_max: Duration,
}

impl Default for CopierConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            threads_max: processors.min(THREADS_MAX),
            chunk_bytes: None,
            pageable_bytes_max: None,
            idle_max: Duration::from_secs(10),
        }
    }
}

impl CopierConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::with_message(ErrorKind::InvalidConfig, text));
        if !(1..=THREADS_BOUND).contains(&self.threads_max) {
            return wrong(format!(
                "threads_max is {}; it must be from 1 to {THREADS_BOUND}",
                self.threads_max
            ));
        }
        match self.chunk_bytes {
            Some(bytes) if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_BOUND).contains(&bytes) => {
                wrong(format!(
                    "chunk_bytes is {bytes}; it must be from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_BOUND}"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyProgress {
    /// Bytes that have arrived.
    pub done_bytes: usize,
    /// Bytes of the whole copy.
    pub total_bytes: usize,
}

type Callback = Arc<dyn Fn(CopyProgress) + Send + Sync>;

/// What a copy can be told. Without anything, all of the source goes to the start of the destination.
#[derive(Clone, Default)]
#[must_use]
pub struct CopyOptions {
    pub(super) source_offset: usize,
    pub(super) destination_offset: usize,
    pub(super) bytes: Option<usize>,
    pub(super) rows: Option<Rows>,
    pub(super) threads_max: Option<usize>,
    pub(super) progress: Option<Callback>,
}

impl CopyOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where to begin in the source, in bytes. Default: 0.
    pub fn source_offset(mut self, bytes: usize) -> Self {
        self.source_offset = bytes;
        self
    }

    /// Where to begin in the destination, in bytes. Default: 0.
    pub fn destination_offset(mut self, bytes: usize) -> Self {
        self.destination_offset = bytes;
        self
    }

    /// How many bytes to copy. Default: the rest of the source. Not together with [`rows`](Self::rows).
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Copies rows that do not lie close together, instead of consecutive bytes.
    pub fn rows(mut self, rows: Rows) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Threads that work on this copy at the most, if that is fewer than the copier allows. At least 1, as in
    /// [`CopierConfig::threads_max`].
    pub fn threads_max(mut self, threads: usize) -> Self {
        self.threads_max = Some(threads);
        self
    }

    /// Has a function called whenever a chunk has arrived, on whichever thread copied it, one call at a time and
    /// with ascending figures. It holds up the copy for as long as it runs. If it panics it is not called again,
    /// and the copy goes on.
    pub fn progress(mut self, callback: impl Fn(CopyProgress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(callback));
        self
    }
}

impl CopyOptions {
    /// Refuses what no copy can do, whatever it copies.
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |text| Err(Error::new(ErrorKind::InvalidRequest, text));
        if self.threads_max == Some(0) {
            return wrong("threads_max of a copy is 0; it must be at least 1");
        }
        if self.rows.is_some() && self.bytes.is_some() {
            return wrong(
                "a copy of rows has no bytes of its own; Rows::bytes and Rows::count say how many",
            );
        }
        Ok(())
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOptions")
            .field("source_offset", &self.source_offset)
            .field("destination_offset", &self.destination_offset)
            .field("bytes", &self.bytes)
            .field("rows", &self.rows)
            .field("threads_max", &self.threads_max)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

/// Calls a progress function, which may panic; false if it did.
pub(super) fn report(callback: &Callback, progress: CopyProgress) -> bool {
    let returned = catch_unwind(AssertUnwindSafe(|| callback(progress))).is_ok();
    if !returned {
        tracing::error!("the progress function of a copy panicked; it is not called again");
    }
    returned
}
