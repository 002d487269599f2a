//! What was copied, which way, and how long it took.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use super::path::CopyPath;
use crate::sync::{AtomicU64, Ordering};
use crate::text::bytes as written;

/// Copies that went one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PathStats {
    /// Copies that came to an end, those that failed or were cancelled included. What was refused before anything
    /// was done, because it did not fit or was in use, is none.
    pub copies: u64,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Nanoseconds in which they were under way, in sum; waits for other work that used either side are not counted.
    pub ns: u64,
}

/// What a [`Copier`](super::Copier) has copied since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CopyStats {
    /// Copies by processors.
    pub host: PathStats,
    /// Copies by the device alone.
    pub direct: PathStats,
    /// Copies between devices without the host.
    pub peer: PathStats,
    /// Copies of memory that the device does not know, by the driver.
    pub pageable: PathStats,
    /// Copies by way of memory that the device knows.
    pub staged: PathStats,
    /// Copies that were cancelled before their end.
    pub cancelled: u64,
    /// Copies that failed; those that were refused are not counted.
    pub failed: u64,
    /// Threads that help with copies now.
    pub threads: u64,
}

impl CopyStats {
    /// The copies that went a way.
    #[must_use]
    pub const fn of(&self, path: CopyPath) -> PathStats {
        match path {
            CopyPath::Host => self.host,
            CopyPath::Direct => self.direct,
            CopyPath::Peer => self.peer,
            CopyPath::Pageable => self.pageable,
            CopyPath::Staged => self.staged,
        }
    }
}

impl fmt::Display for CopyStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for path in CopyPath::ALL {
            let PathStats { copies, bytes, ns } = self.of(path);
            #[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
            let rate = if ns == 0 {
                0.0
            } else {
                bytes as f64 / ns as f64
            };
            let name = path.name();
            let bytes = written(bytes);
            writeln!(
                f,
                "{name:<9} {copies:>9} copies  {bytes:>12}  {rate:>7.2} GB/s"
            )?;
        }
        let Self {
            cancelled,
            failed,
            threads,
            ..
        } = self;
        write!(
            f,
            "{cancelled} cancelled, {failed} failed, {threads} threads"
        )
    }
}

/// The counters behind [`CopyStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    paths: [PathCounters; CopyPath::ALL.len()],
    cancelled: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct PathCounters {
    copies: AtomicU64,
    bytes: AtomicU64,
    ns: AtomicU64,
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Complete,
    Cancelled,
    Failed,
}

impl Counters {
    pub(super) fn count(&self, path: CopyPath, bytes: usize, elapsed: Duration, ending: Ending) {
        let one = &self.paths[path.index()];
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        one.copies.fetch_add(1, Ordering::Relaxed);
        one.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        one.ns.fetch_add(ns, Ordering::Relaxed);
        match ending {
            Ending::Complete => {}
            Ending::Cancelled => drop(self.cancelled.fetch_add(1, Ordering::Relaxed)),
            Ending::Failed => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(super) fn read(&self, threads: usize) -> CopyStats {
        let of = |path: CopyPath| {
            let one = &self.paths[path.index()];
            PathStats {
                copies: one.copies.load(Ordering::Relaxed),
                bytes: one.bytes.load(Ordering::Relaxed),
                ns: one.ns.load(Ordering::Relaxed),
            }
        };
        CopyStats {
            host: of(CopyPath::Host),
            direct: of(CopyPath::Direct),
            peer: of(CopyPath::Peer),
            pageable: of(CopyPath::Pageable),
            staged: of(CopyPath::Staged),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            threads: threads as u64,
        }
    }
}
