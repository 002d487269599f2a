//! Handles that are free altogether, kept whole for large blocks or exchanged for such as a request needs.
//!
//! A block in a part of a free handle pins the rest of it to requests that fit there. So while driver time
//! allows, large requests spare handles that they would not fill: these are returned, and new ones made of
//! the request's size.

#![forbid(unsafe_code)]

use super::chain::{FREE_MAX, HANDLE_BYTES_MAX};
use super::windows::{FreeParts, Part};
use super::{Arena, Growth, Sparing, Want};
use crate::block::{Block, Point};
use crate::device::VirtualMemoryProperties;
use crate::profiling::SlowPath;
use crate::space::{Free, Range};

/// Handles are spared while this multiple of the driver time spent so far is affordable.
const SPARE_TIMES: u64 = 12;
/// Granules from which a request is large: rounded up to whole ones, it loses little.
const LARGE_GRANULES: usize = 16;
/// Handles that a request gets in exchange, so that the next one can use some of them.
const EXCHANGED_HANDLES: usize = 4;

/// A handle with the ranges that its bytes lie in.
pub(super) type Whole = (Part, Vec<Range>);

impl Arena {
    /// Whether large requests spare handles that are free altogether; `live` bytes will be with the request.
    pub(super) fn sparing_handles(
        &self,
        properties: VirtualMemoryProperties,
        live: u64,
    ) -> Sparing {
        if !self.reserve.affords(SPARE_TIMES * self.spent_ns(), live) {
            return Sparing::None;
        }
        Sparing::Handles {
            leaving: properties.granularity,
            from: LARGE_GRANULES * properties.granularity,
        }
    }

    /// A block in new handles and free parts around them, for which handles that are free altogether go
    /// back; none if there are too few of them, or the account of driver time has too little.
    pub(super) fn exchange_handles(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        slack: usize,
        passed: &dyn Fn(Point) -> bool,
    ) -> Option<Block> {
        let granularity = properties.granularity;
        let (chosen, most) = {
            let mut room = self.state.lock();
            let free = room.space.largest_free_for(want.queue).take(FREE_MAX);
            let free = FreeParts::new(&growth.windows, granularity, free.map(|free| free.range));
            let (front, back) = free.around_new(want.bytes, want.alignment, false);
            let held: usize = front.iter().chain(&back).map(|part| part.bytes).sum();
            let need = (want.bytes - held).next_multiple_of(granularity);
            let most = (need / EXCHANGED_HANDLES).next_multiple_of(granularity);
            let most = most.clamp(granularity, HANDLE_BYTES_MAX);
            let clean = room.space.clean_intervals();
            let clean = FreeParts::new(&growth.windows, granularity, clean);
            let parts = enough(clean.whole(), need.saturating_sub(slack))?;
            let cost = parts.len() as u64 * u64::from(properties.remap_ns)
                + need.div_ceil(most) as u64 * u64::from(properties.create_ns);
            if !self.reserve.affords(self.spent_ns() + cost, want.live) {
                return None;
            }
            let chosen = parts.into_iter().map(|part| (part, clean.ranges(part)));
            let chosen: Vec<Whole> = chosen.collect();
            for &range in chosen.iter().flat_map(|(_, ranges)| ranges) {
                room.space.cut_within(range);
            }
            (chosen, most)
        };
        let _span = self.device.span(SlowPath::Remap, want.bytes);
        self.release_handles(growth, chosen);
        self.add_around(growth, properties, want, most, false, passed)
            .ok()
    }

    /// What to wait for so that handles which other queues still use make a place for the request; none
    /// if there is one, or growing is within the slack, or nothing would help.
    pub(super) fn handles_after(
        &self,
        properties: VirtualMemoryProperties,
        want: &Want,
    ) -> Option<Point> {
        if properties.divisible
            || !self.reserve.is_sparing()
            || self.reserve.slack(want.live) >= want.bytes as u64
            || !self.reserve.affords(self.spent_ns(), want.live)
        {
            return None;
        }
        let growth = self.growth.lock();
        let room = self.state.lock();
        let others = room
            .space
            .pending_queues()
            .filter(|&(queue, _)| Some(queue) != want.queue);
        let (queue, value) = others.max_by_key(|&(queue, _)| room.space.pending_bytes_of(queue))?;
        let suffices = |free: Vec<Range>| {
            let bytes: usize = free.iter().map(|range| range.bytes).sum();
            let parts =
                || FreeParts::new(&growth.windows, properties.granularity, free.into_iter());
            bytes >= want.bytes && parts().find_chain(want.bytes, want.alignment).is_some()
        };
        let range = |free: Free| free.range;
        let now = room.space.largest_free_for(want.queue).map(range);
        let helps = !suffices(now.take(FREE_MAX).collect())
            && suffices(room.space.free_intervals().take(FREE_MAX).collect());
        helps.then_some(Point { queue, value })
    }
}

/// Few of the parts that have `bytes` together and little more: the smallest that suffices, or the largest
/// and so on.
fn enough(mut parts: Vec<Part>, bytes: usize) -> Option<Vec<Part>> {
    parts.sort_unstable_by_key(|part| part.bytes);
    let mut missing = bytes;
    let mut chosen = Vec::new();
    while missing > 0 {
        let part = take_next(&mut parts, missing, |part| part.bytes)?;
        missing = missing.saturating_sub(part.bytes);
        chosen.push(part);
    }
    Some(chosen)
}

/// Of parts in ascending order of their bytes, the smallest that has what is missing, else the largest. Taken so
/// one after the other, few parts go and none that the others made needless.
pub(super) fn take_next<T>(
    parts: &mut Vec<T>,
    missing: usize,
    bytes: impl Fn(&T) -> usize,
) -> Option<T> {
    let suffices = parts.partition_point(|part| bytes(part) < missing);
    let last = parts.len().checked_sub(1)?;
    Some(parts.remove(suffices.min(last)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::Physical;

    fn parts(lengths: &[usize]) -> Vec<Part> {
        let part = |(number, &bytes): (u64, &usize)| Part {
            handle: Physical::new(number),
            offset: 0,
            bytes,
        };
        (0..).zip(lengths).map(part).collect()
    }

    fn chosen(lengths: &[usize], bytes: usize) -> Option<Vec<usize>> {
        let chosen = enough(parts(lengths), bytes)?;
        Some(chosen.iter().map(|part| part.bytes).collect())
    }

    #[test]
    fn the_smallest_handle_that_suffices_goes_or_the_largest_and_one_more() {
        let lengths = [8, 2, 4];
        assert_eq!(chosen(&lengths, 0), Some(vec![]));
        assert_eq!(chosen(&lengths, 3), Some(vec![4]));
        assert_eq!(chosen(&lengths, 9), Some(vec![8, 2]));
        assert_eq!(chosen(&lengths, 14), Some(vec![8, 4, 2]));
        assert_eq!(chosen(&lengths, 15), None);
    }

    proptest! {
        #[test]
        fn they_suffice_and_none_of_them_is_needless(
            lengths in proptest::collection::vec(1usize..100, 0..20),
            bytes in 0usize..1000,
        ) {
            let all: usize = lengths.iter().sum();
            match chosen(&lengths, bytes) {
                Some(chosen) => {
                    let sum: usize = chosen.iter().sum();
                    prop_assert!(sum >= bytes);
                    for part in chosen {
                        prop_assert!(sum - part < bytes);
                    }
                }
                None => prop_assert!(all < bytes),
            }
        }
    }
}
