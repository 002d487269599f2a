//! Memory in whole segments, where there is no virtual memory to map holes together with.
//!
//! A hole in a segment can only be filled, an empty segment can be exchanged for one of another size. So
//! while driver time allows, each large request gets a segment of its own size, and a segment that is
//! empty is spared by requests that are much smaller.

#![forbid(unsafe_code)]

use super::exchange::take_next;
use super::park::Disposal;
use super::{Arena, Growth, Source, Sparing, Want};
use crate::block::{Block, Point};
use crate::error::Result;
use crate::profiling::SlowPath;
use crate::space::Range;

/// Part of what is held by which an arena of segments grows at least, when exchanging is too dear.
const SEGMENT_DIVISOR: u64 = 64;
/// Requests of this part of the largest usual segment and above get a segment of their own size then.
const OWN_SEGMENT_DIVISOR: usize = 8;
/// Driver time for exchanging segments, in multiples of what an operation may cost elsewhere: there is
/// no cheaper way to use a hole.
const EXCHANGE_TIMES: u64 = 16;
/// An empty segment is spared if a request would leave this part of the greatest sum of requested bytes.
const LEFT_OF_PEAK_DIVISOR: u64 = 16384;
/// And at least as many bytes.
const SPARE_BYTES_MIN: usize = 256 << 10;

impl Arena {
    /// The empty segments that requests leave alone at present; `live` bytes will be with the request.
    pub(super) fn sparing(&self, live: u64) -> Sparing {
        if let Some(properties) = self.virtual_memory {
            return if properties.divisible {
                Sparing::None
            } else {
                self.sparing_handles(properties, live)
            };
        }
        if !self.reserve.is_sparing() || !self.affords_exchange(live) {
            return Sparing::None;
        }
        let leaving = self.reserve.peak_with(live) / LEFT_OF_PEAK_DIVISOR;
        let leaving = usize::try_from(leaving).unwrap_or(usize::MAX);
        Sparing::Larger {
            than: self.reserve.segment_bytes_min(),
            leaving: leaving.max(SPARE_BYTES_MIN),
        }
    }

    /// Whether empty segments are exchanged for others.
    pub(crate) fn exchanges(&self) -> bool {
        self.virtual_memory.is_none()
    }

    fn affords_exchange(&self, live: u64) -> bool {
        self.reserve.affords(self.spent_ns() / EXCHANGE_TIMES, live)
    }

    /// What to wait for so that enough segments become empty to be exchanged for one that holds the
    /// request; none if they are, or growing is within the slack, or nothing would help.
    pub(crate) fn exchange_after(&self, want: &Want) -> Option<Point> {
        if let Some(properties) = self.virtual_memory {
            return self.handles_after(properties, want);
        }
        if !self.reserve.is_sparing() || !self.affords_exchange(want.live) {
            return None;
        }
        let need = self.segment_room(want).ok()? as u64;
        let slack = self.reserve.slack(want.live);
        let growth = self.growth.lock();
        let room = self.state.lock();
        let mut empty = Self::parked_bytes(&growth) as u64;
        let mut awaited: Vec<(u64, Point, u64)> = Vec::new();
        for region in growth.regions.values() {
            let bytes = region.bytes as u64;
            let Some(points) = room.space.awaited(region.range()) else {
                continue;
            };
            match points.into_iter().max_by_key(|point| point.value) {
                None => empty += bytes,
                Some(point) => awaited.push((point.value, point, bytes)),
            }
        }
        if slack + empty >= need {
            return None;
        }
        let all: u64 = awaited.iter().map(|&(.., bytes)| bytes).sum();
        if slack + empty + all < need {
            return None;
        }
        let first = awaited.into_iter().min_by_key(|&(value, ..)| value);
        first.map(|(_, point, _)| point)
    }

    /// A block in a segment that was put away, or in a new one, for which empty ones make way; where they do not suffice,
    /// in an empty one that was spared.
    pub(super) fn grow_by_segment(
        &self,
        growth: &mut Growth,
        want: &Want,
    ) -> Result<(Block, Source)> {
        let need = self.segment_room(want)?;
        let (least, most) = (
            self.reserve.segment_bytes_min(),
            self.reserve.segment_bytes_max(),
        );
        let granularity = self.device.properties().granularity;
        let exact = self.affords_exchange(want.live);
        let usual = if exact {
            need.max(least.next_multiple_of(granularity))
        } else if need >= most / OWN_SEGMENT_DIVISOR {
            need
        } else {
            usize::try_from(self.reserve.committed() / SEGMENT_DIVISOR)
                .unwrap_or(most)
                .clamp(least, most)
                .max(need)
                .next_multiple_of(granularity)
        };
        if let Some(region) = self.take_parked(growth, need, usual) {
            return Ok((self.cut_new(region, want)?, Source::Held));
        }
        let slack = usize::try_from(self.reserve.slack(want.live)).unwrap_or(usize::MAX);
        let missing = usual.saturating_sub(slack);
        let missing = missing.saturating_sub(self.return_parked(growth, missing));
        if missing > 0 {
            if exact && self.empty_bytes(growth) < missing {
                let held = self.state.lock().allocate(want, Sparing::None);
                if let Some(block) = held {
                    return Ok((block, Source::Held));
                }
            }
            let empty = self.empty_segments(growth);
            let span = || self.device.span(SlowPath::Remap, want.bytes);
            let _span = (!empty.is_empty()).then(span);
            self.dispose_of(growth, empty, missing, Disposal::Return);
        }
        match self.create_segment_of(growth, need, usual) {
            Ok(region) => Ok((self.cut_new(region, want)?, Source::Driver)),
            // What was spared is better than nothing.
            Err(error) => {
                let held = self.state.lock().allocate(want, Sparing::None);
                held.map(|block| (block, Source::Held)).ok_or(error)
            }
        }
    }

    /// A segment of the usual size, or of half of that and so on, as little as is needed where there is no more.
    fn create_segment_of(&self, growth: &mut Growth, need: usize, usual: usize) -> Result<Range> {
        let granularity = self.device.properties().granularity;
        let mut bytes = usual;
        loop {
            match self.create_segment(growth, bytes) {
                Err(_) if bytes > need => {
                    bytes = (bytes / 2).next_multiple_of(granularity).max(need);
                }
                Err(_) if self.return_parked(growth, usize::MAX) > 0 => {}
                created => return created,
            }
        }
    }

    fn empty_bytes(&self, growth: &Growth) -> usize {
        let empty = self.empty_segments(growth);
        empty.iter().map(|range| range.bytes).sum()
    }

    /// Segments in which nothing is used or waits, by size.
    pub(super) fn empty_segments(&self, growth: &Growth) -> Vec<Range> {
        let whole = |free: &Range| {
            let region = growth.regions.get(&free.start);
            region.is_some_and(|region| region.bytes == free.bytes)
        };
        let room = self.state.lock();
        let mut empty: Vec<Range> = room.space.clean_intervals().filter(whole).collect();
        empty.sort_by_key(|range| range.bytes);
        empty
    }

    /// Returns empty segments until `bytes` are given back: the smallest one that suffices, or the
    /// largest there is, and so on. All is what was put away, too.
    pub(super) fn return_segments(&self, growth: &mut Growth, bytes: usize) -> usize {
        let empty = self.empty_segments(growth);
        let returned = self.dispose_of(growth, empty, bytes, Disposal::Return);
        match bytes {
            usize::MAX => returned + self.return_parked(growth, usize::MAX),
            _ => returned,
        }
    }

    /// Parts with empty segments until `bytes` bytes are gone.
    pub(super) fn dispose_of(
        &self,
        growth: &mut Growth,
        mut empty: Vec<Range>,
        bytes: usize,
        disposal: Disposal,
    ) -> usize {
        let mut gone = 0;
        while gone < bytes
            && let Some(range) = take_next(&mut empty, bytes - gone, |range| range.bytes)
        {
            gone += self
                .part_with_segment_at(growth, range.start, disposal)
                .unwrap_or(0);
        }
        gone
    }
}
