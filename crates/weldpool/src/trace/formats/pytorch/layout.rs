//! Addresses for a trace that has none: best fit in one growing range.

use std::collections::{BTreeMap, BTreeSet};

/// What an allocation of PyTorch's is rounded up to.
const GRANULE: u64 = 512;

/// The ranges of one stream, as offsets.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Free ranges by offset, with their length.
    free: BTreeMap<u64, u64>,
    /// The same by length.
    by_length: BTreeSet<(u64, u64)>,
    end: u64,
}

/// The length of the range for an allocation.
pub(super) fn rounded(bytes: u64) -> u64 {
    bytes
        .max(1)
        .checked_next_multiple_of(GRANULE)
        .unwrap_or(u64::MAX / GRANULE * GRANULE)
}

impl Layout {
    /// The offset behind all ranges there ever were.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a range of `length`; none once the offsets are used up.
    pub(super) fn take(&mut self, length: u64) -> Option<u64> {
        let fit = self.by_length.range((length, 0)..).next().copied();
        let Some((found, offset)) = fit else {
            let offset = self.end;
            self.end = self.end.checked_add(length)?;
            return Some(offset);
        };
        self.remove(offset, found);
        if found > length {
            self.insert(offset + length, found - length);
        }
        Some(offset)
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, mut offset: u64, mut length: u64) {
        let before = self.free.range(..offset).next_back();
        if let Some((&from, &bytes)) = before
            && from + bytes == offset
        {
            self.remove(from, bytes);
            (offset, length) = (from, length + bytes);
        }
        if let Some(&bytes) = self.free.get(&(offset + length)) {
            self.remove(offset + length, bytes);
            length += bytes;
        }
        self.insert(offset, length);
    }

    fn insert(&mut self, offset: u64, length: u64) {
        self.free.insert(offset, length);
        self.by_length.insert((length, offset));
    }

    fn remove(&mut self, offset: u64, length: u64) {
        self.free.remove(&offset);
        self.by_length.remove(&(length, offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_reused_and_grow_together() {
        let mut layout = Layout::default();
        let taken: Vec<_> = [512, 1024, 512]
            .map(|length| layout.take(length).unwrap())
            .into();
        assert_eq!(taken, [0, 512, 1536]);
        layout.give(0, 512);
        layout.give(1536, 512);
        assert_eq!(layout.take(512), Some(0), "lowest of two that fit equally");
        layout.give(0, 512);
        layout.give(512, 1024);
        assert_eq!(layout.free.len(), 1);
        assert_eq!(layout.take(2048), Some(0));
        assert_eq!(layout.end(), 2048);
        assert_eq!(layout.take(u64::MAX), None);
        assert_eq!([rounded(0), rounded(512), rounded(513)], [512, 512, 1024]);
    }
}
