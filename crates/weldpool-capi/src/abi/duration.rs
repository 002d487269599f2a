//! Times as numbers.

#![forbid(unsafe_code)]

use std::time::Duration;

/// As a time to wait: without end. As a limit: none.
pub const WELDPOOL_FOREVER: u64 = 0xffff_ffff_ffff_ffff;

/// How long to wait; none for without end.
pub(crate) fn timeout(nanoseconds: u64) -> Option<Duration> {
    (nanoseconds != WELDPOOL_FOREVER).then(|| Duration::from_nanos(nanoseconds))
}
