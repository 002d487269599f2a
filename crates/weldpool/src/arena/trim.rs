//! Giving memory back to the device: whole segments, or granules of virtual memory.

#![allow(unsafe_code)]

use super::mappings::Piece;
use super::park::Disposal;
use super::region::Backing;
use super::{Arena, Growth, Home};
use crate::block::Point;
use crate::device::{Mapped, ReleaseError, Segment};
use crate::kept;
use crate::profiling::SlowPath;
use crate::space::{Free, Range};

impl Arena {
    /// Returns at least `bytes` bytes of free memory to the device, as far as there are so many, and no more
    /// than whole granules, handles or segments need, without touching the memory: of ranges that can be divided
    /// the largest, of handles and segments the smallest that suffices. Says how many it were.
    pub(crate) fn trim(&self, bytes: usize, passed: &dyn Fn(Point) -> bool) -> usize {
        self.trim_by(bytes, passed, |missing| missing)
    }

    /// As [`trim`](Self::trim), but free ranges go back whole, so that the next trim is further away.
    pub(crate) fn trim_ranges(&self, bytes: usize, passed: &dyn Fn(Point) -> bool) -> usize {
        self.trim_by(bytes, passed, |_| usize::MAX)
    }

    /// `part` says how much of a range goes, given how much is missing.
    fn trim_by(
        &self,
        bytes: usize,
        passed: &dyn Fn(Point) -> bool,
        part: impl Fn(usize) -> usize,
    ) -> usize {
        let mut span = self.device.span(SlowPath::Trim, bytes);
        let returned = self.return_free(bytes, passed, part);
        span.set_bytes(returned);
        returned
    }

    fn return_free(
        &self,
        bytes: usize,
        passed: &dyn Fn(Point) -> bool,
        part: impl Fn(usize) -> usize,
    ) -> usize {
        let mut growth = self.growth.lock();
        let Some(properties) = self.virtual_memory else {
            return self.return_segments(&mut growth, bytes);
        };
        self.unmap_stale(&mut growth, passed);
        let mut returned = self.release_unmapped(&mut growth);
        if !properties.divisible {
            let more = bytes.saturating_sub(returned);
            return returned + self.return_handles(&mut growth, properties, more, None);
        }
        while returned < bytes {
            let Some((free, pieces)) = self.take_largest(&mut growth, part(bytes - returned))
            else {
                break;
            };
            match self.return_pieces(&mut growth, free, &pieces) {
                0 => break,
                more => returned += more,
            }
        }
        returned
    }

    /// Returns everything to the device, in use or not: no buffer of the allocator is left, and what
    /// threads still cache stands for nothing.
    pub(crate) fn close(&self) {
        let mut growth = self.growth.lock();
        growth.stale.clear();
        *self.state.lock() = self.empty_room();
        let everything = Range {
            start: 0,
            bytes: usize::MAX,
        };
        let pieces = growth.mappings.remove(everything);
        growth.unmapped.extend(pieces);
        let handles = growth.windows.take_all();
        growth.unmapped.extend(handles);
        for parked in std::mem::take(&mut growth.parked) {
            let bytes = parked.bytes();
            match self.device.release_parked(parked) {
                Ok(()) => self.reserve.uncommit(bytes),
                Err(ReleaseError { error, .. }) => {
                    tracing::error!(bytes, %error, "a segment that was put away could not be returned at the end");
                }
            }
        }
        for region in std::mem::take(&mut growth.regions).into_values() {
            match region.backing {
                Backing::Segment(segment) => {
                    let bytes = segment.bytes();
                    match self.release_segment(segment) {
                        Ok(()) => self.reserve.uncommit(bytes),
                        Err(ReleaseError { error, .. }) => {
                            tracing::error!(bytes, %error, "a segment could not be returned at the end");
                        }
                    }
                }
                // Dropping it unmaps everything in it.
                Backing::Addresses(range) => drop(range),
            }
        }
        self.release_unmapped(&mut growth);
    }

    /// Gives up everything without returning it, because work in flight may still use it.
    pub(crate) fn leak(&self) {
        let mut growth = self.growth.lock();
        let mapped = Mapped::new(growth.mappings.len());
        let (regions, stale) = (
            std::mem::take(&mut growth.regions),
            std::mem::take(&mut growth.stale),
        );
        // No work uses those, but for what the driver refuses.
        self.return_parked(&mut growth, usize::MAX);
        let parked = std::mem::take(&mut growth.parked);
        kept::keep((regions, stale, parked, mapped));
    }

    /// Returns what can be returned of a clean free range.
    pub(crate) fn trim_range(&self, range: Range) -> usize {
        let mut span = self.device.span(SlowPath::Trim, range.bytes);
        let returned = self.return_range(range);
        span.set_bytes(returned);
        returned
    }

    fn return_range(&self, range: Range) -> usize {
        let mut growth = self.growth.lock();
        let Some(properties) = self.virtual_memory else {
            return self
                .part_with_segment_at(&mut growth, range.start, Disposal::Return)
                .unwrap_or(0);
        };
        if !properties.divisible {
            return self.return_handles(&mut growth, properties, usize::MAX, Some(range));
        }
        let taken = {
            let mut room = self.state.lock();
            // Somebody may have taken it, or a part of it, meanwhile.
            let free = room.space.free_before(range.end());
            let free = free.filter(|free| free.point.is_none());
            let movable = free.and_then(|free| growth.mappings.movable(free.range));
            free.zip(movable).map(|(free, movable)| {
                room.space.cut(free.range.start, movable);
                let pieces = growth.mappings.remove(movable);
                (movable, pieces)
            })
        };
        taken.map_or(0, |(movable, pieces)| {
            self.return_pieces(&mut growth, movable, &pieces)
        })
    }

    /// Parts with the segment around a position, if it is empty.
    pub(super) fn part_with_segment_at(
        &self,
        growth: &mut Growth,
        position: usize,
        disposal: Disposal,
    ) -> Option<usize> {
        let (&start, region) = growth.regions.range(..=position).next_back()?;
        let whole = region.range();
        {
            let mut room = self.state.lock();
            let free = room.space.free_before(whole.end());
            free.filter(|free| free.range == whole && free.point.is_none())?;
            room.space.cut(start, whole);
            room.remove_region(whole);
        }
        let Backing::Segment(segment) = growth.regions.remove(&start)?.backing else {
            return None;
        };
        let segment = match disposal {
            Disposal::Return => segment,
            Disposal::Park { most } => match self.park(growth, segment, most) {
                Some(segment) => segment,
                None => return Some(whole.bytes),
            },
        };
        match self.release_segment(segment) {
            Ok(()) => {
                self.reserve.uncommit(whole.bytes);
                Some(whole.bytes)
            }
            Err(ReleaseError { segment, error }) => {
                tracing::warn!(bytes = whole.bytes, %error, "a segment could not be returned; it is kept");
                let range = self.add_segment(growth, segment);
                self.state.lock().space.add(range);
                Some(0)
            }
        }
    }

    fn release_segment(&self, segment: Box<dyn Segment>) -> Result<(), ReleaseError> {
        let Home { storage, node, .. } = self.home;
        self.device.release_segment(segment, storage, node.index())
    }

    /// Takes the largest free range out of the space, or as much of it as has at least `bytes` bytes.
    fn take_largest(&self, growth: &mut Growth, bytes: usize) -> Option<(Range, Vec<Piece>)> {
        let mut room = self.state.lock();
        let (free, movable) = room.space.largest_free_for(None).find_map(|free: Free| {
            let movable = growth.mappings.movable(free.range)?;
            Some((free, movable))
        })?;
        let taken = growth.mappings.head(movable, bytes);
        room.space.cut(free.range.start, taken);
        Some((taken, growth.mappings.remove(taken)))
    }

    /// Unmaps a range that was taken out of the space and returns its memory.
    fn return_pieces(&self, growth: &mut Growth, range: Range, pieces: &[Piece]) -> usize {
        if let Err(error) = self.unmap(growth, range) {
            tracing::warn!(bytes = range.bytes, %error, "memory could not be unmapped; it is kept");
            let mut position = range.start;
            for piece in pieces {
                growth.mappings.insert(position, *piece);
                position += piece.bytes;
            }
            self.state.lock().space.add(range);
            return 0;
        }
        growth.addresses.add(range);
        growth.unmapped.extend_from_slice(pieces);
        self.release_unmapped(growth)
    }

    /// Returns memory that nothing uses; what the driver refuses stays so. Where calls that failed mapped it, it
    /// is unmapped first: mapped memory would only seem to be returned.
    pub(super) fn release_unmapped(&self, growth: &mut Growth) -> usize {
        if growth.unmapped.is_empty() {
            return 0;
        }
        self.unmap_stale(growth, &|_| false);
        let Home { storage, node, .. } = self.home;
        let mut returned = 0;
        for piece in std::mem::take(&mut growth.unmapped) {
            let Piece { physical, bytes } = piece;
            // SAFETY: the piece is mapped nowhere but where the driver refused to unmap it, so nothing uses it.
            let released = unsafe {
                self.device
                    .release_physical(physical, bytes, storage, node.index())
            };
            match released {
                Ok(()) => {
                    self.reserve.uncommit(piece.bytes);
                    returned += piece.bytes;
                }
                Err(error) => {
                    tracing::warn!(bytes = piece.bytes, %error, "memory could not be returned; it is kept");
                    growth.unmapped.push(piece);
                }
            }
        }
        returned
    }
}
