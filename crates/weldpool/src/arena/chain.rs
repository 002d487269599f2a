//! Memory from handles that can only be mapped whole: free parts joined in windows that exist, parts
//! of several handles mapped side by side, or new handles among them.

#![forbid(unsafe_code)]

use super::exchange::{Whole, take_next};
use super::mappings::Piece;
use super::windows::{FreeParts, Part};
use super::{Arena, Growth, Source, Sparing, Want};
use crate::block::{Block, Point};
use crate::device::VirtualMemoryProperties;
use crate::error::Result;
use crate::profiling::SlowPath;
use crate::space::{Free, Range};
use crate::wait::{Wait, left_out};

/// Free ranges looked at for one request.
pub(super) const FREE_MAX: usize = 4096;
/// New handles are at most the greatest sum of requested bytes by the divisor of the first line whose
/// multiple of the driver time spent so far is affordable.
const HANDLE_DIVISORS: [(u64, u64); 2] = [(4, 512), (2, 128)];
/// The divisor when none is.
const HANDLE_DIVISOR_POOR: u64 = 4;
/// Largest new handle; beyond it the driver's cost grows with the size.
pub(super) const HANDLE_BYTES_MAX: usize = 512 << 20;
/// Part of the greatest sum of requested bytes by which handles are added at least, while slack allows.
const USUAL_DIVISOR: u64 = 256;
/// Windows that may be mapped for each handle, and besides, before idle ones are unmapped.
const WINDOWS_PER_HANDLE: usize = 4;
const WINDOWS_BESIDES: usize = 64;

/// Which parts may be mapped side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chained {
    /// If the account of driver time has enough, and no handle that is free altogether is broken into.
    Sparing,
    /// If the account of driver time has enough.
    Thrifty,
    AtAnyCost,
}

/// Free parts that were taken out of the space for one block.
#[derive(Debug, Default)]
struct Chosen {
    parts: Vec<Part>,
    /// Where the parts lay.
    cut: Vec<Free>,
}

impl Arena {
    /// As [`grow`](Self::grow), for handles that cannot be divided.
    pub(super) fn grow_by_handles(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<(Block, Source)> {
        self.gather(growth, properties, want);
        let which = self.sparing_handles(properties, want.live);
        let sparing = matches!(which, Sparing::Handles { from, .. } if want.bytes >= from);
        if let Some(block) = self.join_mapped(growth, properties, want, sparing) {
            return Ok((block, Source::Held));
        }
        let need = want.bytes.next_multiple_of(properties.granularity);
        let slack = usize::try_from(self.reserve.slack(want.live)).unwrap_or(usize::MAX);
        if slack < need {
            if sparing {
                if let Some(block) =
                    self.map_chain(growth, properties, want, Chained::Sparing, passed)
                {
                    return Ok((block, Source::Held));
                }
                let exchanged = self.exchange_handles(growth, properties, want, slack, passed);
                if let Some(block) = exchanged {
                    return Ok((block, Source::Driver));
                }
            }
            let mut held = self.map_chain(growth, properties, want, Chained::Thrifty, passed);
            if sparing {
                // What was spared is better than more.
                held = held
                    .or_else(|| self.state.lock().allocate(want, Sparing::None))
                    .or_else(|| self.join_mapped(growth, properties, want, false));
            }
            if let Some(block) = held {
                return Ok((block, Source::Held));
            }
        }
        match self.add_handles(growth, properties, want, slack, passed) {
            Ok(block) => Ok((block, Source::Driver)),
            Err(error) => {
                let held = self.map_chain(growth, properties, want, Chained::AtAnyCost, passed);
                if held.is_none() {
                    // What was obtained was not enough.
                    self.release_unmapped(growth);
                }
                held.map(|block| (block, Source::Held)).ok_or(error)
            }
        }
    }

    /// Brings the free parts of each handle together in one of its windows. No driver is called.
    fn gather(&self, growth: &mut Growth, properties: VirtualMemoryProperties, want: &Want) {
        let mut room = self.state.lock();
        let moves = {
            let free = room.space.largest_free_for(want.queue).take(FREE_MAX);
            let free = free.map(|free| free.range);
            FreeParts::new(&growth.windows, properties.granularity, free).gathered()
        };
        for (from, to) in moves {
            let point = room.space.cut_within(from);
            growth.windows.leave(from, point);
            let to = Range {
                start: to,
                bytes: from.bytes,
            };
            growth.windows.enter(to);
            if want.contended {
                room.space.add_pending(to, point);
            } else {
                room.space.add_joined(to, point);
            }
        }
    }

    /// A block from free parts that lie side by side in windows that exist. No driver is called.
    fn join_mapped(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        sparing: bool,
    ) -> Option<Block> {
        let mut at = 0;
        let regions = &growth.regions;
        let chosen = self.choose(growth, properties, want, |free| {
            let border = |position: usize| regions.contains_key(&position);
            let (position, parts) = free.find_mapped(want.bytes, want.alignment, border)?;
            if sparing && free.broken(&parts) >= properties.granularity {
                return None;
            }
            at = position;
            Some(parts)
        })?;
        Some(self.place_block(growth, want, at, chosen, 0))
    }

    /// A block from parts of several handles, mapped side by side.
    fn map_chain(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        chained: Chained,
        passed: &dyn Fn(Point) -> bool,
    ) -> Option<Block> {
        let chosen = self.choose(growth, properties, want, |free| {
            let parts = free.find_chain(want.bytes, want.alignment)?;
            if chained == Chained::Sparing && free.broken(&parts) >= properties.granularity {
                return None;
            }
            let cost = parts.len() as u64 * u64::from(properties.remap_ns);
            let affordable = || self.reserve.affords(self.spent_ns() + cost, want.live);
            (chained == Chained::AtAnyCost || affordable()).then_some(parts)
        })?;
        let _span = self.device.span(SlowPath::Remap, want.bytes);
        let block = self.map_parts(growth, properties, want, chosen, &[], 0);
        if block.is_ok() {
            self.reserve.count_remap();
        }
        self.unmap_idle(growth, passed);
        block.ok()
    }

    /// A block that ends in new memory, or begins and ends in free parts with new memory between.
    fn add_handles(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        slack: usize,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<Block> {
        let need = want.bytes.next_multiple_of(properties.granularity);
        let most = self.handle_bytes_max(properties, want.live);
        let room = slack & !(properties.granularity - 1);
        let usual = usize::try_from(self.reserve.peak_with(want.live) / USUAL_DIVISOR)
            .unwrap_or(most)
            .min(most)
            .clamp(need, need.max(room.min(most)));
        let usual = usual & !(properties.granularity - 1);
        if slack >= need {
            // Handles that the request takes exactly, so that they are free altogether when it is.
            let exact = need.div_ceil(need.div_ceil(most));
            let exact = exact.next_multiple_of(properties.granularity);
            let pieces = self
                .create_pieces(growth, properties, usual, exact.max(usual.min(most)))
                .or_else(|_| self.create_pieces(growth, properties, need, exact))?;
            return self.map_new(growth, properties, want, &pieces);
        }
        self.add_around(growth, properties, want, most, true, passed)
    }

    /// A block of free parts, whole handles among them if asked for, with new handles of at most `most`
    /// bytes between.
    pub(super) fn add_around(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        most: usize,
        with_whole: bool,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<Block> {
        let mut back = None;
        let chosen = self.choose(growth, properties, want, |free| {
            let (front, after) = free.around_new(want.bytes, want.alignment, with_whole);
            back = after;
            Some(front.into_iter().chain(after).collect())
        });
        let mut chosen = chosen.unwrap_or_default();
        let held: usize = chosen.parts.iter().map(|part| part.bytes).sum();
        let missing = (want.bytes - held).next_multiple_of(properties.granularity);
        let pieces = match self.create_pieces(growth, properties, missing, most) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.put_back(chosen.cut.into_iter());
                return Err(error);
            }
        };
        let created: usize = pieces.iter().map(|piece| piece.bytes).sum();
        // What is new is used whole, so less of the back may be needed, or none.
        let mut behind = 0;
        if back.is_some()
            && let Some(mut part) = chosen.parts.pop()
        {
            let needed = (want.bytes + part.bytes - held).saturating_sub(created);
            self.shorten_last(&mut chosen, part, needed);
            if needed > 0 {
                part.bytes = needed;
                chosen.parts.push(part);
                behind = 1;
            }
        }
        let block = self.map_parts(growth, properties, want, chosen, &pieces, behind);
        self.unmap_idle(growth, passed);
        block
    }

    /// A block of new handles alone.
    pub(super) fn map_new(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        created: &[Piece],
    ) -> Result<Block> {
        self.map_parts(growth, properties, want, Chosen::default(), created, 0)
    }

    /// Puts back what lies behind the first `needed` bytes of the last part.
    fn shorten_last(&self, chosen: &mut Chosen, part: Part, needed: usize) {
        let mut excess = part.bytes - needed;
        while excess > 0
            && let Some(mut free) = chosen.cut.pop()
        {
            let less = excess.min(free.range.bytes);
            excess -= less;
            free.range.bytes -= less;
            let rest = Free {
                range: Range {
                    start: free.range.end(),
                    bytes: less,
                },
                point: free.point,
            };
            self.put_back(std::iter::once(rest));
            if free.range.bytes > 0 {
                chosen.cut.push(free);
            }
        }
    }

    /// Largest new handle at present, for a request with which `live` bytes will be.
    fn handle_bytes_max(&self, properties: VirtualMemoryProperties, live: u64) -> usize {
        // Some is left for mapping them together.
        let spent = self.spent_ns();
        let affordable = |&&(times, _): &&(u64, u64)| self.reserve.affords(times * spent, live);
        let divisor = HANDLE_DIVISORS.iter().find(affordable);
        let divisor = divisor.map_or(HANDLE_DIVISOR_POOR, |&(_, divisor)| divisor);
        let bytes = self.reserve.peak_with(live) / divisor;
        usize::try_from(bytes)
            .unwrap_or(HANDLE_BYTES_MAX)
            .min(HANDLE_BYTES_MAX)
            .next_power_of_two()
            .max(properties.granularity)
    }

    /// Takes the parts that `find` names out of the space.
    fn choose(
        &self,
        growth: &Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        find: impl FnOnce(&FreeParts<'_>) -> Option<Vec<Part>>,
    ) -> Option<Chosen> {
        let mut room = self.state.lock();
        let free = room.space.largest_free_for(want.queue).take(FREE_MAX);
        let free = free.map(|free| free.range);
        let free = FreeParts::new(&growth.windows, properties.granularity, free);
        let parts = find(&free)?;
        let ranges: Vec<Range> = parts.iter().flat_map(|&part| free.ranges(part)).collect();
        let cut = ranges.into_iter().map(|range| Free {
            range,
            point: room.space.cut_within(range),
        });
        let cut = cut.collect();
        Some(Chosen { parts, cut })
    }

    /// Maps the handles of the parts, and new ones before the last `behind` parts, side by side, unless
    /// they lie so already, and cuts the block. On failure the parts are free again and the new handles
    /// unmapped.
    fn map_parts(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        chosen: Chosen,
        created: &[Piece],
        behind: usize,
    ) -> Result<Block> {
        let whole = |part: &Part| Piece {
            physical: part.handle,
            bytes: growth.windows.bytes_of(part.handle),
        };
        let (front, back) = chosen.parts.split_at(chosen.parts.len() - behind);
        let pieces: Vec<Piece> = front
            .iter()
            .map(whole)
            .chain(created.iter().copied())
            .chain(back.iter().map(whole))
            .collect();
        let offset = chosen.parts.first().map_or(0, |part| part.offset);
        let offset = if front.is_empty() { 0 } else { offset };
        let handles = pieces.iter().map(|piece| piece.physical);
        let known = growth.windows.find_run(handles).filter(|&start| {
            let end = start + pieces.iter().map(|piece| piece.bytes).sum::<usize>();
            growth.regions.range(start + 1..end).next().is_none()
                && (start + offset).is_multiple_of(want.alignment)
        });
        let start = match known {
            Some(start) => start,
            None => match self.map_handles(growth, properties, want, &pieces) {
                Ok(start) => start,
                Err(error) => {
                    growth.unmapped.extend_from_slice(created);
                    self.put_back(chosen.cut.into_iter());
                    return Err(error);
                }
            },
        };
        let new: usize = created.iter().map(|piece| piece.bytes).sum();
        Ok(self.place_block(growth, want, start + offset, chosen, new))
    }

    /// Maps handles side by side where nothing is yet; all or none.
    fn map_handles(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        pieces: &[Piece],
    ) -> Result<usize> {
        let bytes: usize = pieces.iter().map(|piece| piece.bytes).sum();
        let alignment = want.alignment.max(properties.granularity);
        let place = |growth: &Growth| {
            let top = growth.top()?;
            // A gap before, so that a small block does not begin in one handle and end in the next.
            let start = top.start + properties.granularity;
            let start = start.checked_next_multiple_of(alignment)?;
            (start.checked_add(bytes)? <= top.end()).then_some(start)
        };
        let start = match place(growth) {
            Some(start) => start,
            None => {
                let room = bytes.saturating_add(properties.granularity);
                self.reserve_addresses(growth, room, alignment)?;
                place(growth).ok_or_else(Self::no_addresses)?
            }
        };
        self.map_pieces(growth, properties, Range { start, bytes }, pieces)?;
        let mut position = start;
        for piece in pieces {
            growth.windows.add(position, *piece);
            self.state.lock().add_window(position, piece.bytes);
            position += piece.bytes;
        }
        Ok(start)
    }

    /// Cuts the block at `start`, where all the memory it needs is mapped: the parts that were chosen,
    /// and `new` bytes of new handles, of which what it does not need becomes free.
    fn place_block(
        &self,
        growth: &mut Growth,
        want: &Want,
        start: usize,
        chosen: Chosen,
        new: usize,
    ) -> Block {
        let held: usize = chosen.cut.iter().map(|free| free.range.bytes).sum();
        let whole = Range {
            start,
            bytes: want.bytes,
        };
        for free in &chosen.cut {
            growth.windows.leave(free.range, free.point);
        }
        let all = Range {
            start,
            bytes: held + new,
        };
        growth.windows.enter(all);
        let points = chosen.cut.iter().filter_map(|free| free.point);
        let point = points.max_by_key(|point| point.value);
        let point = point.filter(|_| !left_out(Wait::Remap));
        let mut room = self.state.lock();
        let free = room.space.add_pending(whole, point);
        let block = room.cut_block(free, start, want);
        if all.bytes > whole.bytes {
            room.space.add(Range {
                start: whole.end(),
                bytes: all.bytes - whole.bytes,
            });
        }
        block
    }

    /// Unmaps windows that hold nothing, the oldest first, when there are many.
    fn unmap_idle(&self, growth: &mut Growth, passed: &dyn Fn(Point) -> bool) {
        self.unmap_stale(growth, passed);
        let most = growth.windows.handle_count() * WINDOWS_PER_HANDLE + WINDOWS_BESIDES;
        if growth.windows.window_count() <= most {
            return;
        }
        let idle = growth.windows.idle(passed);
        for &range in &idle[..idle.len().div_ceil(2)] {
            if let Err(error) = self.unmap(growth, range) {
                tracing::warn!(bytes = range.bytes, %error, "memory could not be unmapped; it stays mapped");
                return;
            }
            growth.windows.remove(range.start);
            self.state.lock().remove_window(range.start);
            growth.addresses.add(range);
        }
    }

    /// Returns handles that are free altogether, those with a byte in `within` if that is given, until `bytes`
    /// are given back: the smallest one that suffices, or the largest there is, and so on. Says how many it
    /// were.
    ///
    /// No work can use any of their windows: a byte that left one while work might still use it took the point
    /// along, and is clean only behind that.
    pub(super) fn return_handles(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        bytes: usize,
        within: Option<Range>,
    ) -> usize {
        let chosen: Vec<Whole> = {
            let mut room = self.state.lock();
            let free = room.space.clean_intervals();
            let free = FreeParts::new(&growth.windows, properties.granularity, free);
            let touches = |range: &Range| {
                within.is_none_or(|within| range.start < within.end() && within.start < range.end())
            };
            let whole = free
                .whole()
                .into_iter()
                .map(|part| (part, free.ranges(part)));
            let mut whole: Vec<Whole> = whole
                .filter(|(_, ranges)| ranges.iter().any(touches))
                .collect();
            whole.sort_unstable_by_key(|(part, _)| part.bytes);
            let mut missing = bytes;
            let mut chosen = Vec::new();
            while missing > 0
                && let Some(one) = take_next(&mut whole, missing, |(part, _)| part.bytes)
            {
                missing = missing.saturating_sub(one.0.bytes);
                chosen.push(one);
            }
            for &range in chosen.iter().flat_map(|(_, ranges)| ranges) {
                room.space.cut_within(range);
            }
            chosen
        };
        self.release_handles(growth, chosen)
    }

    /// Returns handles of which the ranges were taken out of the space; says how many bytes went back.
    pub(super) fn release_handles(&self, growth: &mut Growth, handles: Vec<Whole>) -> usize {
        for (part, ranges) in handles {
            for range in ranges {
                growth.windows.leave(range, None);
            }
            self.unmap_handle(growth, part);
        }
        self.release_unmapped(growth)
    }

    /// Unmaps a handle whose bytes were all taken out of the space; it is unmapped memory then. If the driver
    /// refuses, it is free again in a window that is left.
    fn unmap_handle(&self, growth: &mut Growth, handle: Part) {
        for start in growth.windows.windows_of(handle.handle).to_vec() {
            let range = Range {
                start,
                bytes: handle.bytes,
            };
            if let Err(error) = self.unmap(growth, range) {
                tracing::warn!(bytes = range.bytes, %error, "memory could not be unmapped; it is kept");
                growth.windows.enter(range);
                self.state.lock().space.add(range);
                return;
            }
            growth.addresses.add(range);
            let last = growth.windows.remove(start);
            self.state.lock().remove_window(start);
            growth.unmapped.extend(last);
        }
    }
}
