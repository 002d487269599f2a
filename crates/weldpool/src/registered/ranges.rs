//! Which addresses are registered.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::CopyReason;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// Most registrations of an allocator.
const RANGES_MAX: usize = 1 << 16;

/// Registered ranges of addresses, none of which overlap: from their start to their end.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Mutex<BTreeMap<usize, usize>>);

impl Ranges {
    /// Takes note of a range that is about to be registered. O(log n).
    pub(super) fn add(&self, start: usize, bytes: usize) -> Result<()> {
        let end = start.checked_add(bytes).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidRequest,
                "memory that ends beyond all addresses",
            )
        })?;
        let mut ranges = self.0.lock();
        if ranges.len() >= RANGES_MAX {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "65536 ranges of memory are registered, which is the most",
            )
            .with_copy_reason(CopyReason::LimitReached));
        }
        // None overlap, so only the last that begins before the end can reach in.
        let last = ranges.range(..end).next_back();
        if let Some((&other, &other_end)) = last.filter(|&(_, &other_end)| other_end > start) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "{bytes} bytes at {start:#x} overlap {} bytes at {other:#x}, which are registered already",
                    other_end - other
                ),
            )
            .with_copy_reason(CopyReason::AlreadyKnown));
        }
        ranges.insert(start, end);
        Ok(())
    }

    pub(super) fn remove(&self, start: usize) {
        self.0.lock().remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_may_touch_and_not_overlap() {
        let ranges = Ranges::default();
        ranges.add(100, 50).unwrap();
        for (start, bytes, free) in [
            (50, 50, true),
            (150, 1, true),
            (99, 1, false),
            (120, 10, false),
            (0, 1000, false),
            (149, 5, false),
            (150, 1, false),
            (151, 9, true),
        ] {
            let added = ranges.add(start, bytes);
            assert_eq!(added.is_ok(), free, "{start} {bytes}");
            let kind = added.map_err(|error| error.kind());
            assert!(kind.is_ok() || kind == Err(ErrorKind::InvalidRequest));
        }
        ranges.remove(100);
        ranges.add(110, 40).unwrap();
        assert!(ranges.add(usize::MAX, 2).is_err());
    }

    #[test]
    fn there_is_a_most() {
        let ranges = Ranges::default();
        for number in 0..RANGES_MAX {
            ranges.add(number * 2, 1).unwrap();
        }
        let error = ranges.add(1 << 40, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        ranges.remove(0);
        ranges.add(1 << 40, 1).unwrap();
    }
}
