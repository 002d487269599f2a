//! How an arena gets more memory: from the device, or from its own holes.

use super::mappings::Piece;
use super::region::Region;
use super::remap::Donors;
use super::{Arena, Growth, Home, Want};
use crate::block::{Block, Point};
use crate::device::{Segment, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::profiling::SlowPath;
use crate::space::{Free, Range};

/// Address space reserved at once, as a multiple of what one request needs.
const ADDRESSES_PER_REQUEST: usize = 4;
/// Part of what is held by which virtual memory grows at least, while slack allows.
const GROWTH_DIVISOR: u64 = 256;
/// Free ranges that gaps are looked for beside.
pub(super) const BESIDE_MAX: usize = 64;
/// Most that virtual memory grows beyond a request.
const GROWTH_BYTES_MAX: usize = 32 << 20;

/// Where the memory of a block came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was held already.
    Held,
    /// The driver gave it now.
    Driver,
}

impl Arena {
    /// A block from memory that was not free in one piece: holes mapped together where that is
    /// possible and growing would exceed the slack, else new memory.
    pub(crate) fn grow(
        &self,
        want: &Want,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<(Block, Source)> {
        let _span = self.device.span(SlowPath::Growth, want.bytes);
        let mut growth = self.growth.lock();
        // Another thread may have grown meanwhile.
        let held = self.state.lock().allocate(want, self.sparing(want.live));
        if let Some(block) = held {
            return Ok((block, Source::Held));
        }
        match self.virtual_memory {
            Some(properties) => {
                self.segment_room(want)?;
                if properties.divisible {
                    self.grow_virtual(&mut growth, properties, want, passed)
                } else {
                    self.grow_by_handles(&mut growth, properties, want, passed)
                }
            }
            None => self.grow_by_segment(&mut growth, want),
        }
    }

    /// A block of new memory that is shared with nobody, to be [returned](Self::trim_range) when freed.
    pub(crate) fn direct(&self, want: &Want, passed: &dyn Fn(Point) -> bool) -> Result<Block> {
        let _span = self.device.span(SlowPath::Growth, want.bytes);
        let mut growth = self.growth.lock();
        let Some(properties) = self.virtual_memory else {
            let bytes = self.segment_room(want)?;
            let region = self.create_segment(&mut growth, bytes)?;
            return self.cut_new(region, want);
        };
        self.segment_room(want)?;
        if !properties.divisible {
            return self.direct_handle(&mut growth, properties, want);
        }
        let placement = self.place(&mut growth, want)?;
        let bytes = placement.bytes_to_map(properties);
        let pieces = self.create_pieces(&mut growth, properties, bytes, usize::MAX)?;
        self.map_placement(
            &mut growth,
            properties,
            want,
            placement,
            Vec::new(),
            pieces,
            passed,
        )
    }

    fn direct_handle(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
    ) -> Result<Block> {
        let bytes = want.bytes.next_multiple_of(properties.granularity);
        let pieces = self.create_pieces(growth, properties, bytes, usize::MAX)?;
        self.map_new(growth, properties, want, &pieces)
    }

    fn grow_virtual(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        want: &Want,
        passed: &dyn Fn(Point) -> bool,
    ) -> Result<(Block, Source)> {
        let placement = match self.place_beside_free(growth, want, properties) {
            Some(placement) => placement,
            None => self.place(growth, want)?,
        };
        let need = placement.bytes_to_map(properties);
        let slack = usize::try_from(self.reserve.slack(want.live)).unwrap_or(usize::MAX);
        let usual = match self.reserve.growth_bytes() {
            0 => usize::try_from(self.reserve.committed() / GROWTH_DIVISOR)
                .unwrap_or(GROWTH_BYTES_MAX)
                .min(GROWTH_BYTES_MAX)
                .next_multiple_of(properties.granularity),
            bytes => bytes.min(slack) & !(properties.granularity - 1),
        };
        let usual = usual.max(need).min(placement.gap.bytes);
        let donors = if slack >= need
            || Self::too_many_mappings(properties)
            // What is mapped nowhere comes first.
            || !growth.unmapped.is_empty()
        {
            Donors::default()
        } else {
            let affordable = self
                .reserve
                .affordable_pieces(properties.remap_ns, want.live);
            self.take_donors(growth, want, need, affordable)
        };
        let missing = need.saturating_sub(donors.bytes());
        let created = if missing == 0 {
            Ok(Vec::new())
        } else if donors.is_empty() && slack >= usual {
            self.create_pieces(growth, properties, usual, usize::MAX)
                .or_else(|_| self.create_pieces(growth, properties, need, usize::MAX))
        } else {
            self.create_pieces(growth, properties, missing, usize::MAX)
        };
        let (donors, created) = match created {
            Ok(created) => (donors, created),
            Err(error) => {
                // The device has no more, or must not give it: then every hole counts, if there may be as many
                // mappings.
                self.put_back_donors(growth, donors);
                let most = if Self::too_many_mappings(properties) {
                    0
                } else {
                    usize::MAX
                };
                let donors = self.take_donors(growth, want, need, most);
                if donors.bytes() < need {
                    self.put_back_donors(growth, donors);
                    self.put_back(placement.beside());
                    return Err(error);
                }
                (donors, Vec::new())
            }
        };
        let source = if created.is_empty() {
            Source::Held
        } else {
            Source::Driver
        };
        let block = self.map_placement(
            growth,
            properties,
            want,
            placement,
            donors.into_parts(),
            created,
            passed,
        )?;
        Ok((block, source))
    }

    /// Physical memory of at least `bytes` bytes: what is mapped nowhere, then new in pieces of at most `most`.
    pub(super) fn create_pieces(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        bytes: usize,
        most: usize,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut missing = bytes;
        while missing > 0
            && let Some(piece) = growth.unmapped.pop()
        {
            missing = missing.saturating_sub(piece.bytes);
            pieces.push(piece);
        }
        if missing == 0 {
            return Ok(pieces);
        }
        // All of it, so that the driver is not called for a part that would not be of use.
        if let Err(error) = self.reserve.commit(missing) {
            growth.unmapped.append(&mut pieces);
            return Err(error);
        }
        while missing > 0 {
            let bytes = missing.min(most & !(properties.granularity - 1));
            let Home { storage, node, .. } = self.home;
            match self.device.create_physical(bytes, storage, node.index()) {
                Ok(physical) => {
                    pieces.push(Piece { physical, bytes });
                    missing -= bytes;
                }
                Err(error) => {
                    self.reserve.cancel(missing);
                    growth.unmapped.append(&mut pieces);
                    return Err(error);
                }
            }
        }
        self.reserve.count_growth();
        Ok(pieces)
    }

    /// A place that begins in free memory before a gap in what is mapped, ends in free memory behind it, or
    /// both, such that the least is to be mapped; that memory is taken out of the space. Filling gaps keeps
    /// what is mapped together, so that neighbours can be joined.
    fn place_beside_free(
        &self,
        growth: &Growth,
        want: &Want,
        properties: VirtualMemoryProperties,
    ) -> Option<Placement> {
        if !growth.unmapped.is_empty() {
            // Unmapped pieces have sizes of their own.
            return None;
        }
        let mut room = self.state.lock();
        let space = &room.space;
        let gap = |free: Option<Free>| free.map(|gap| gap.range);
        let largest = space.largest_free_for(want.queue).take(BESIDE_MAX);
        let gaps = largest.flat_map(|free| {
            let before = growth.addresses.free_before(free.range.start);
            let after = growth.addresses.free_after(free.range.end());
            [gap(before), gap(after)]
        });
        // Where queues compete, what one of them uses should lie together: so much room is left for more.
        let gaps = gaps
            .flatten()
            .filter(|gap| !want.contended || gap.bytes <= want.bytes);
        let placement = gaps
            .chain(growth.top())
            .filter_map(|gap| {
                // A gap at the border of a region has no neighbour there.
                let at_border = |position| growth.regions.contains_key(&position);
                let usable = |free: &Free| {
                    free.point
                        .is_none_or(|point| Some(point.queue) == want.queue)
                };
                let tail = space.free_before(gap.start).filter(usable);
                let head = space.free_after(gap.end()).filter(usable);
                let tail = tail.filter(|_| !at_border(gap.start));
                let head = head.filter(|_| !at_border(gap.end()));
                Placement::beside_free(gap, tail, head, want)
            })
            .min_by_key(|placement| placement.bytes_to_map(properties))?;
        for free in placement.beside() {
            room.space.cut(free.range.start, free.range);
        }
        Some(placement)
    }

    /// A place in the largest gap in what is mapped, or in new address space.
    pub(super) fn place(&self, growth: &mut Growth, want: &Want) -> Result<Placement> {
        let place = |gap: Range| Placement::beside_free(gap, None, None, want);
        if let Some(placement) = growth.top().and_then(place) {
            return Ok(placement);
        }
        self.reserve_addresses(growth, want.bytes, want.alignment)?;
        growth.top().and_then(place).ok_or_else(Self::no_addresses)
    }

    pub(super) fn no_addresses() -> Error {
        Error::new(ErrorKind::OutOfMemory, "no address space is left")
    }

    /// New addresses, in which there is a place for so many bytes at whatever multiple of `alignment`.
    pub(super) fn reserve_addresses(
        &self,
        growth: &mut Growth,
        bytes: usize,
        alignment: usize,
    ) -> Result<()> {
        let Some(properties) = self.virtual_memory else {
            return Ok(());
        };
        let round = |bytes: usize| bytes & !(properties.granularity - 1);
        let most = round(properties.address_bytes_max);
        // Addresses that do not suffice would be kept for nothing, at every such request anew.
        let least = bytes
            .checked_add(alignment)
            .filter(|&least| least <= most)
            .ok_or_else(Self::no_addresses)?
            .saturating_mul(ADDRESSES_PER_REQUEST);
        let mut bytes = most;
        let range = loop {
            match self.device.reserve_addresses(bytes, self.home.storage) {
                Ok(range) => break range,
                // A limit on address space: less will do.
                Err(_) if bytes / 2 >= least => bytes = round(bytes / 2),
                Err(error) => return Err(error),
            }
        };
        let region = Region::of_addresses(range, growth.unaddressed);
        growth.unaddressed = growth.unaddressed.max(region.end()) + (1 << 30);
        growth.addresses.add_border(region.start);
        growth.addresses.add_border(region.end());
        growth.addresses.add(region.range());
        self.state.lock().add_region(region.range(), region.base);
        growth.regions.insert(region.start, region);
        Ok(())
    }

    /// Length of a segment that surely holds the block.
    pub(super) fn segment_room(&self, want: &Want) -> Result<usize> {
        let granularity = self.device.properties().granularity;
        self.whole(if want.alignment > granularity {
            want.bytes.checked_add(want.alignment - 1)
        } else {
            Some(want.bytes)
        })
    }

    /// So many bytes as a segment can have, unless the sum was beyond all numbers.
    pub(super) fn whole(&self, bytes: Option<usize>) -> Result<usize> {
        let properties = self.device.properties();
        bytes
            .and_then(|bytes| bytes.checked_next_multiple_of(properties.granularity))
            .filter(|&bytes| bytes <= properties.segment_bytes_max)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::LimitExceeded,
                    "the request with its alignment is larger than the device's largest segment",
                )
            })
    }

    pub(super) fn create_segment(&self, growth: &mut Growth, bytes: usize) -> Result<Range> {
        self.reserve.commit(bytes)?;
        let segment = self
            .device
            .create_segment(bytes, self.home.storage, self.home.node.index())
            .inspect_err(|_| self.reserve.cancel(bytes))?;
        self.reserve.count_growth();
        tracing::debug!(bytes, storage = %self.home.storage, "segment obtained");
        Ok(self.add_segment(growth, segment))
    }

    /// Adds a segment, with nothing free in it yet.
    pub(super) fn add_segment(&self, growth: &mut Growth, segment: Box<dyn Segment>) -> Range {
        let region = Region::of_segment(segment, growth.unaddressed);
        growth.unaddressed = growth.unaddressed.max(region.end()) + (1 << 30);
        let range = region.range();
        self.state.lock().add_region(range, region.base);
        growth.regions.insert(range.start, region);
        range
    }

    /// A block at the start of a new segment.
    pub(super) fn cut_new(&self, region: Range, want: &Want) -> Result<Block> {
        let mut room = self.state.lock();
        let free = room.space.add(region);
        let position = region
            .start
            .checked_next_multiple_of(want.alignment)
            .filter(|position| position + want.bytes <= region.end());
        match position {
            Some(position) => Ok(room.cut_block(free, position, want)),
            None => Err(Error::new(
                ErrorKind::System,
                "the device gave a segment that is not aligned as it promises",
            )),
        }
    }
}

/// The place of a block whose memory is not, or not all, mapped yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placement {
    /// Free memory before the gap that it begins in.
    pub(super) tail: Option<Free>,
    /// Addresses that nothing is mapped to; mapping begins at their start.
    pub(super) gap: Range,
    /// Free memory behind the gap that it ends in.
    head: Option<Free>,
    pub(super) position: usize,
    end: usize,
}

impl Placement {
    /// The place around a gap between free memory; none if it does not suffice, or the memory does alone.
    fn beside_free(
        gap: Range,
        tail: Option<Free>,
        head: Option<Free>,
        want: &Want,
    ) -> Option<Self> {
        let start = tail.map_or(gap.start, |tail| tail.range.start);
        let position = start.checked_next_multiple_of(want.alignment)?;
        let end = position.checked_add(want.bytes)?;
        let head = head.filter(|_| end > gap.end()).map(|head| Free {
            // The rest stays free for whom it was.
            range: Range {
                bytes: head.range.bytes.min(end - gap.end()),
                ..head.range
            },
            ..head
        });
        let last = head.map_or(gap.end(), |head| head.range.end());
        (end > gap.start && position < gap.end() && end <= last).then_some(Self {
            tail,
            gap,
            head,
            position,
            end,
        })
    }

    pub(super) fn bytes_to_map(&self, properties: VirtualMemoryProperties) -> usize {
        match self.head {
            Some(_) => self.gap.bytes,
            None => (self.end - self.gap.start).next_multiple_of(properties.granularity),
        }
    }

    /// The free memory around the gap.
    pub(super) fn beside(&self) -> impl Iterator<Item = Free> {
        self.tail.into_iter().chain(self.head)
    }

    /// Where the free memory will be that the block is cut from, once so much is mapped.
    pub(super) fn whole(&self, mapped: Range) -> Range {
        let start = self.tail.map_or(mapped.start, |tail| tail.range.start);
        let end = self.head.map_or(mapped.end(), |head| head.range.end());
        Range {
            start,
            bytes: end - start,
        }
    }
}

impl Growth {
    /// The largest unused stretch of addresses.
    pub(super) fn top(&self) -> Option<Range> {
        let largest = self.addresses.largest_clean().max(1);
        Some(self.addresses.find_clean(largest, 1)?.0)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::block::ListId;

    const fn free(start: usize, end: usize) -> Option<Free> {
        Some(Free {
            range: Range::between(start, end),
            point: None,
        })
    }

    /// Position, end of the head that is used, and bytes to map of a place around the gap from 100 to 200.
    fn place(
        tail: Option<Free>,
        head: Option<Free>,
        bytes: usize,
        alignment: usize,
    ) -> Option<(usize, Option<usize>, usize)> {
        let want = Want {
            bytes,
            alignment,
            list: ListId::NONE,
            thread_max: 0,
            queue: None,
            contended: false,
            live: 0,
            recorded: false,
        };
        let properties = VirtualMemoryProperties {
            granularity: 4,
            divisible: true,
            needs_access: false,
            mappings_max: None,
            address_bytes_max: 1 << 20,
            create_ns: 0,
            remap_ns: 0,
        };
        let placement = Placement::beside_free(Range::between(100, 200), tail, head, &want)?;
        let end = placement.head.map(|head| head.range.end());
        Some((placement.position, end, placement.bytes_to_map(properties)))
    }

    #[test]
    fn a_place_uses_what_is_free_before_and_behind_a_gap() {
        assert_eq!(place(None, None, 90, 1), Some((100, None, 92)));
        assert_eq!(place(free(60, 100), None, 90, 1), Some((60, None, 52)));
        // What lies behind is used as far as it is needed, and only then is the whole gap mapped.
        let head = free(200, 300);
        assert_eq!(place(free(60, 100), head, 130, 1), Some((60, None, 92)));
        assert_eq!(
            place(free(60, 100), head, 150, 1),
            Some((60, Some(210), 100))
        );
        assert_eq!(place(None, head, 150, 1), Some((100, Some(250), 100)));
    }

    #[test]
    fn a_place_that_does_not_suffice_or_needs_no_gap_is_none() {
        assert_eq!(place(None, None, 101, 1), None);
        assert_eq!(place(free(60, 100), free(200, 300), 241, 1), None);
        assert_eq!(place(free(60, 100), None, 40, 1), None, "the tail does");
        assert_eq!(place(None, None, usize::MAX, 1), None);
        // Aligned, it would begin behind the gap, or end behind what is free.
        assert_eq!(place(free(60, 100), free(200, 300), 20, 256), None);
        assert_eq!(place(free(60, 100), None, 90, 128), None);
        assert_eq!(place(free(60, 100), None, 70, 128), Some((128, None, 100)));
    }
}
