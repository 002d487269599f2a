//! Empty segments that are put away rather than given back: the system takes their memory when it needs it, without a page
//! being touched, and until then they are the cheapest memory to get.

#![forbid(unsafe_code)]

use super::{Arena, Growth, Home};
use crate::device::{ReleaseError, Segment};
use crate::profiling::SlowPath;
use crate::space::Range;

/// What becomes of an empty segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposal {
    /// It goes back to the device.
    Return,
    /// It is put away where the device can, while no more than so many bytes are by the allocator.
    Park { most: u64 },
}

/// A request takes a segment that was put away if it is at most this many times as large.
const OVERSIZE_TIMES: usize = 2;

impl Arena {
    /// Puts empty segments of up to about `bytes` bytes away, while no more than `most` are; where the device cannot, they
    /// go back, as they do with [`trim`](Self::trim). What the system took of those put away before goes back first. Says
    /// how many bytes are not reserved any more.
    pub(crate) fn park_empty(&self, bytes: usize, most: u64) -> usize {
        let mut span = self.device.span(SlowPath::Trim, bytes);
        let mut growth = self.growth.lock();
        let discarded = growth.parked.extract_if(.., |parked| parked.is_discarded());
        for parked in discarded.collect::<Vec<_>>() {
            self.return_parked_one(&mut growth, parked);
        }
        let empty = self.empty_segments(&growth);
        let put = self.dispose_of(&mut growth, empty, bytes, Disposal::Park { most });
        span.set_bytes(put);
        put
    }

    /// Gives back segments of at least `bytes` bytes that were put away, as far as there are so many; says how many bytes.
    pub(crate) fn release_parked(&self, bytes: usize) -> usize {
        self.return_parked(&mut self.growth.lock(), bytes)
    }

    /// Puts a segment away that is in no region any more; gives it back where that cannot be.
    pub(super) fn park(
        &self,
        growth: &mut Growth,
        segment: Box<dyn Segment>,
        most: u64,
    ) -> Option<Box<dyn Segment>> {
        let Home { storage, node, .. } = self.home;
        let room = self
            .device
            .parked()
            .value
            .saturating_add(segment.bytes() as u64)
            <= most;
        if !room || !self.device.park(segment.as_ref(), storage, node.index()) {
            return Some(segment);
        }
        growth.parked.push(segment);
        None
    }

    /// A region of a segment that was put away and suffices, the smallest.
    pub(super) fn take_parked(
        &self,
        growth: &mut Growth,
        need: usize,
        usual: usize,
    ) -> Option<Range> {
        let most = need.saturating_mul(OVERSIZE_TIMES).max(usual);
        let Home { storage, node, .. } = self.home;
        loop {
            let all = growth.parked.iter().enumerate();
            let sizes = all.map(|(place, parked)| (parked.bytes(), place));
            let fitting = sizes.filter(|(bytes, _)| (need..=most).contains(bytes));
            let parked = growth.parked.swap_remove(fitting.min()?.1);
            if self.device.reclaim(parked.as_ref(), storage, node.index()) {
                return Some(self.add_segment(growth, parked));
            }
            // The system took its memory.
            if self.return_parked_one(growth, parked) == 0 {
                return None;
            }
        }
    }

    /// Gives back what was put away, until `bytes` bytes are.
    pub(super) fn return_parked(&self, growth: &mut Growth, bytes: usize) -> usize {
        let mut returned = 0;
        for parked in std::mem::take(&mut growth.parked) {
            if returned < bytes {
                returned += self.return_parked_one(growth, parked);
            } else {
                growth.parked.push(parked);
            }
        }
        returned
    }

    /// Bytes that are put away.
    pub(super) fn parked_bytes(growth: &Growth) -> usize {
        growth.parked.iter().map(|parked| parked.bytes()).sum()
    }

    /// Gives one back; what the driver refuses stays where it is.
    fn return_parked_one(&self, growth: &mut Growth, parked: Box<dyn Segment>) -> usize {
        let bytes = parked.bytes();
        match self.device.release_parked(parked) {
            Ok(()) => {
                self.reserve.uncommit(bytes);
                bytes
            }
            Err(ReleaseError { segment, error }) => {
                tracing::warn!(bytes, %error, "a segment that was put away could not be returned; it is kept");
                growth.parked.push(segment);
                0
            }
        }
    }
}
