//! Mapping memory where it is wanted: the free granules of holes, or new memory, as one placement.

#![allow(unsafe_code)]

use super::grow::Placement;
use super::mappings::{Piece, joined};
use super::{Arena, Growth, Stale, Want};
use crate::block::{Block, Point};
use crate::device::{AddressRange, Mapped, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::profiling::SlowPath;
use crate::space::{Free, Range};
use crate::wait::{Wait, left_out};

/// Holes looked at for one remap, and pieces moved by it.
const DONORS_MAX: usize = 4096;

/// Requests from which a queue's own pending memory is mapped together for them, and of how many pieces at
/// most: a call each.
const OWN_BYTES_MIN: usize = 1 << 20;
const OWN_PIECES_MAX: usize = 8;

/// Free memory taken out of the space, to be mapped elsewhere.
#[derive(Debug, Default)]
pub(super) struct Donors {
    parts: Vec<Donor>,
}

/// One of them: where it is now, and what lies behind it.
#[derive(Debug)]
pub(super) struct Donor {
    free: Free,
    pieces: Vec<Piece>,
}

impl Donors {
    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.free.range.bytes).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub(super) fn into_parts(self) -> Vec<Donor> {
        self.parts
    }
}

/// Whose free memory is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The queue's own pending memory alone.
    Own,
    OwnThenClean,
}

impl Arena {
    /// Takes granules out of holes until there are `need` bytes, the queue's own pending memory first,
    /// few large pieces rather than many small ones, at most `pieces_max`. May take less.
    pub(super) fn take_donors(
        &self,
        growth: &mut Growth,
        want: &Want,
        need: usize,
        pieces_max: usize,
    ) -> Donors {
        self.take_donors_of(growth, want, need, pieces_max, Whose::OwnThenClean)
    }

    fn take_donors_of(
        &self,
        growth: &mut Growth,
        want: &Want,
        need: usize,
        mut pieces_max: usize,
        whose: Whose,
    ) -> Donors {
        if pieces_max == 0 {
            return Donors::default();
        }
        let mut room = self.state.lock();
        let mut own = Vec::new();
        let mut clean = Vec::new();
        let mut found = 0;
        let few_pieces = self.reserve.few_pieces();
        for free in room.space.largest_free_for(want.queue).take(DONORS_MAX) {
            if (found >= need && !few_pieces) || (whose == Whose::Own && free.point.is_none()) {
                break;
            }
            if let Some(movable) = growth.mappings.movable(free.range) {
                found += movable.bytes;
                let list = if free.point.is_some() {
                    &mut own
                } else {
                    &mut clean
                };
                list.push((movable, free));
            }
        }
        let pieces = |list: &[(Range, Free)]| -> usize {
            list.iter()
                .map(|(movable, _)| growth.mappings.pieces_in(*movable))
                .sum()
        };
        if whose == Whose::Own && (found < need || pieces(&own) > pieces_max) {
            return Donors::default();
        }
        // Of large holes few are needed; of such in few pieces few calls are.
        let worth = |movable: Range| match few_pieces {
            true => movable.bytes / (growth.mappings.pieces_in(movable) + 1),
            false => movable.bytes,
        };
        for list in [&mut own, &mut clean] {
            list.sort_by_cached_key(|(movable, _)| std::cmp::Reverse(worth(*movable)));
        }
        let mut donors = Donors::default();
        let mut missing = need;
        for (movable, free) in own.into_iter().chain(clean) {
            if missing == 0 {
                break;
            }
            let head = growth.mappings.head(movable, missing);
            let pieces = growth.mappings.pieces_in(head);
            if pieces > pieces_max {
                self.reserve.pause_remapping();
                break;
            }
            pieces_max -= pieces;
            // An interval is cut once, so it still starts where it did.
            let point = room.space.cut(free.range.start, head);
            missing = missing.saturating_sub(head.bytes);
            donors.parts.push(Donor {
                free: Free { range: head, point },
                pieces: growth.mappings.remove(head),
            });
        }
        donors
    }

    /// A block from what is pending on the request's queue, mapped together, where that saves clean memory
    /// which others can use and there is little of.
    pub(super) fn remap_own(&self, want: &Want, passed: &dyn Fn(Point) -> bool) -> Option<Block> {
        let properties = self.virtual_memory.filter(|one| one.divisible)?;
        let scarce = self.reserve.slack(want.live) < want.bytes as u64;
        if !scarce || want.bytes < OWN_BYTES_MIN || want.recorded {
            return None;
        }
        if self.state.lock().space.pending_bytes_of(want.queue?) < want.bytes {
            return None;
        }
        let mut growth = self.growth.lock();
        if Self::too_many_mappings(properties) {
            return None;
        }
        let placement = self.place(&mut growth, want).ok()?;
        let need = placement.bytes_to_map(properties);
        let affordable = self
            .reserve
            .affordable_pieces(properties.remap_ns, want.live);
        let most = affordable.min(OWN_PIECES_MAX);
        let donors = self.take_donors_of(&mut growth, want, need, most, Whose::Own);
        if donors.is_empty() {
            return None;
        }
        let (parts, created) = (donors.into_parts(), Vec::new());
        self.map_placement(
            &mut growth,
            properties,
            want,
            placement,
            parts,
            created,
            passed,
        )
        .ok()
    }

    /// Whether memory in several places can be mapped together.
    pub(crate) fn maps_memory(&self) -> bool {
        self.virtual_memory.is_some()
    }

    /// Whether a queue's own memory may be mapped together before more is obtained.
    pub(crate) fn remaps_own(&self) -> bool {
        self.virtual_memory.is_some_and(|one| one.divisible)
    }

    /// What to wait for so that memory which other queues still use can be mapped together for the request;
    /// none if what is free suffices, or growing is within the slack, or nothing would help.
    pub(crate) fn others_after(&self, want: &Want) -> Option<Point> {
        if self.reserve.slack(want.live) >= want.bytes as u64 {
            return None;
        }
        let divisible = self.virtual_memory.is_some_and(|memory| memory.divisible);
        let room = self.state.lock();
        let space = &room.space;
        let own = want.queue.map_or(0, |queue| space.pending_bytes_of(queue));
        let missing = want.bytes.saturating_sub(space.clean_bytes() + own);
        if missing == 0 || space.pending_bytes() - own < missing {
            return None;
        }
        let queues = space.pending_queues().map(|(queue, _)| queue);
        let others = queues.filter(|&queue| Some(queue) != want.queue);
        // In a pause what lies in several places would not be mapped together.
        let apart = divisible && self.reserve.pauses_remapping();
        let helps = |queue| {
            let value = match apart {
                true => space.value_that_joins(queue, want.bytes),
                false => space.value_that_frees(queue, missing),
            };
            Some((queue, value?))
        };
        let others = others.filter_map(helps);
        let (queue, value) = others.max_by_key(|&(queue, _)| space.pending_bytes_of(queue))?;
        Some(Point { queue, value })
    }

    pub(super) fn put_back_donors(&self, growth: &mut Growth, donors: Donors) {
        for donor in &donors.parts {
            restore(growth, donor);
        }
        self.put_back(donors.parts.iter().map(|donor| donor.free));
    }

    /// Returns free memory that was taken out of the space.
    pub(super) fn put_back(&self, free: impl Iterator<Item = Free>) {
        let mut room = self.state.lock();
        for free in free {
            room.space.add_pending(free.range, free.point);
        }
    }

    /// Whether the process should not have more mappings.
    pub(super) fn too_many_mappings(properties: VirtualMemoryProperties) -> bool {
        let most = properties.mappings_max.unwrap_or(usize::MAX);
        // Between two mappings the system counts the gap as another.
        2 * Mapped::in_process() >= most
    }

    /// Maps the donors and then the new pieces in the placement's gap, and cuts the block from them and the free
    /// memory beside it. On failure everything is free again, or unmapped.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one placement, used once"
    )]
    pub(super) fn map_placement(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        placement: Placement,
        donors: Vec<Donor>,
        created: Vec<Piece>,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<Block> {
        // Without donors it is new memory alone.
        let _span = (!donors.is_empty()).then(|| self.device.span(SlowPath::Remap, want.bytes));
        let pieces = donors.iter().flat_map(|donor| &donor.pieces);
        let pieces = joined(pieces.chain(&created).copied().collect());
        let mapped = Range {
            start: placement.gap.start,
            bytes: pieces.iter().map(|piece| piece.bytes).sum(),
        };
        let done = if mapped.bytes <= placement.gap.bytes {
            self.map_pieces(growth, properties, mapped, &pieces)
        } else {
            Err(Self::no_addresses())
        };
        if let Err(error) = done {
            growth.unmapped.extend(created);
            for donor in &donors {
                restore(growth, donor);
            }
            let free = donors.iter().map(|donor| donor.free);
            self.put_back(free.chain(placement.beside()));
            return Err(error);
        }
        let moved = donors.iter().map(|donor| donor.pieces.len()).sum();
        self.reserve.charge_remap(moved, properties.remap_ns);
        if !donors.is_empty() {
            self.reserve.count_remap();
        }
        let mut position = mapped.start;
        for piece in &pieces {
            growth.mappings.insert(position, *piece);
            position += piece.bytes;
        }
        let beside = placement.beside().map(|free| free.point);
        let donated = donors.iter().map(|donor| donor.free.point);
        let point = beside.chain(donated).flatten().reduce(Point::later);
        for donor in &donors {
            growth.stale.push(Stale {
                range: donor.free.range,
                point: donor.free.point,
                mapped: Mapped::new(donor.pieces.len()),
            });
        }
        let whole = placement.whole(mapped);
        let block = {
            let mut room = self.state.lock();
            let point = point.filter(|_| !left_out(Wait::Remap));
            let free = room.space.add_pending(whole, point);
            room.cut_block(free, placement.position, want)
        };
        let waiting = growth.stale.len();
        if waiting > self.reserve.moved_ranges_max() || Self::too_many_mappings(properties) {
            self.unmap_stale(growth, passed);
        }
        Ok(block)
    }

    /// Maps pieces one after the other over `at`, which is unused; all or none.
    pub(super) fn map_pieces(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        at: Range,
        pieces: &[Piece],
    ) -> Result<()> {
        let mut position = at.start;
        let mut mapped = 0;
        let mut result = Ok(());
        let (start, range) = growth.addresses_at(at.start)?;
        for piece in pieces {
            let offset = position - start;
            // SAFETY: the addresses are unused, or they would not be in `growth.addresses`. Memory that
            // is mapped elsewhere too is free there and out of the space, so nobody gets it twice.
            result = unsafe { self.device.map(range, offset, piece.physical, piece.bytes) };
            if result.is_err() {
                break;
            }
            position += piece.bytes;
            mapped += usize::from(properties.divisible);
        }
        if result.is_ok() && properties.needs_access {
            result = self.device.allow_access(range, at.start - start, at.bytes);
        }
        let used = Range {
            start: at.start,
            bytes: position - at.start,
        };
        if used.bytes > 0 {
            growth.addresses.cut_within(used);
        }
        if result.is_err() && used.bytes > 0 {
            growth.stale.push(Stale {
                range: used,
                point: None,
                mapped: Mapped::new(mapped),
            });
        }
        result
    }

    /// Unmaps the addresses whose memory is mapped elsewhere by now, as far as no work can still use
    /// them; what the driver refuses is tried again next time.
    pub(super) fn unmap_stale(&self, growth: &mut Growth, passed: &dyn Fn(Point) -> bool) {
        let mut stale = std::mem::take(&mut growth.stale);
        let over = |point: Option<Point>| point.is_none_or(passed) || left_out(Wait::Unmap);
        stale.sort_unstable_by_key(|stale| stale.range.start);
        // A call for all that lies side by side in the same addresses.
        stale.dedup_by(|next, last| {
            let side_by_side = last.range.end() == next.range.start
                && !growth.regions.contains_key(&next.range.start)
                && over(last.point)
                && over(next.point);
            if side_by_side {
                last.range.bytes += next.range.bytes;
                last.point = None;
                last.mapped.add(&mut next.mapped);
            }
            side_by_side
        });
        for stale in stale {
            if over(stale.point) && self.unmap(growth, stale.range).is_ok() {
                growth.addresses.add(stale.range);
            } else {
                growth.stale.push(stale);
            }
        }
    }

    /// Unmaps addresses that nothing uses.
    pub(super) fn unmap(&self, growth: &Growth, range: Range) -> Result<()> {
        let (start, addresses) = growth.addresses_at(range.start)?;
        // SAFETY: the caller took the range out of the space, or never put it in.
        unsafe {
            self.device
                .unmap(addresses, range.start - start, range.bytes)
        }
    }
}

impl Growth {
    /// The reserved addresses around a position, and where they start.
    fn addresses_at(&self, position: usize) -> Result<(usize, &dyn AddressRange)> {
        let region = self.regions.range(..=position).next_back();
        let addresses = region.and_then(|(&start, region)| Some((start, region.addresses()?)));
        addresses.ok_or_else(|| {
            Error::new(
                ErrorKind::System,
                "a position lies in no reserved addresses; please report it",
            )
        })
    }
}

/// Takes note again of the pieces behind a donor, which stays where it is.
fn restore(growth: &mut Growth, donor: &Donor) {
    let mut position = donor.free.range.start;
    for piece in &donor.pieces {
        growth.mappings.insert(position, *piece);
        position += piece.bytes;
    }
}
