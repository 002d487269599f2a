//! How an arena gets more memory: from the device, or from its own holes.

use super::mappings::Piece;
use super::region::Region;
use super::remap::Donors;
use super::{Arena, Growth, Want};
use crate::block::{Block, Point};
use crate::device::{Segment, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::space::{Free, Range};

/// Address space reserved at once, as a multiple of what one request needs.
const ADDRESSES_PER_REQUEST: usize = 4;
/// Part of what is held by which virtual memory grows at least, while slack allows.
const GROWTH_DIVISOR: u64 = 256;
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
        let mut growth = self.growth.lock();
        // Another thread may have grown meanwhile.
        let held = self.state.lock().allocate(want, self.spare());
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
        let window = self.window(&mut growth, want, None)?;
        let bytes = window.bytes_to_map(properties);
        let pieces = self.create_pieces(&mut growth, properties, bytes, usize::MAX)?;
        self.map_window(
            &mut growth,
            properties,
            want,
            window,
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
        let tail = self.take_tail(growth, want);
        let window = self.window(growth, want, tail)?;
        let need = window.bytes_to_map(properties);
        let slack = usize::try_from(self.reserve.slack()).unwrap_or(usize::MAX);
        let usual = match self.reserve.growth_bytes() {
            0 => usize::try_from(self.reserve.committed() / GROWTH_DIVISOR)
                .unwrap_or(GROWTH_BYTES_MAX)
                .min(GROWTH_BYTES_MAX)
                .next_multiple_of(properties.granularity),
            bytes => bytes.min(slack) & !(properties.granularity - 1),
        };
        let usual = usual
            .max(need)
            .min(growth.top().map_or(need, |(_, bytes)| bytes));
        let donors = if slack >= need || self.too_many_mappings(growth, properties) {
            Donors::default()
        } else {
            self.take_donors(growth, want, need)
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
                // The device has no more, or must not give it: then every hole counts.
                self.put_back_donors(growth, donors);
                let donors = self.take_donors(growth, want, need);
                if donors.bytes() < need {
                    self.put_back_donors(growth, donors);
                    self.put_back(window.tail.into_iter());
                    return Err(error);
                }
                (donors, Vec::new())
            }
        };
        let source = if created.is_empty() {
            self.reserve.count_remap();
            Source::Held
        } else {
            Source::Driver
        };
        let block = self.map_window(
            growth,
            properties,
            want,
            window,
            donors.into_parts(),
            created,
            passed,
        )?;
        Ok((block, source))
    }

    /// Physical memory of at least `bytes` bytes: what lies spare, then new in pieces of at most `most`.
    pub(super) fn create_pieces(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        bytes: usize,
        most: usize,
    ) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut missing = bytes;
        let mut grown = false;
        while missing > 0 {
            if let Some(piece) = growth.spare.pop() {
                missing = missing.saturating_sub(piece.bytes);
                pieces.push(piece);
                continue;
            }
            let bytes = missing.min(most & !(properties.granularity - 1));
            let created = self.reserve.commit(bytes).and_then(|()| {
                self.device
                    .create_physical(bytes, self.home.storage, self.home.node.index())
                    .inspect_err(|_| self.reserve.uncommit(bytes))
            });
            match created {
                Ok(physical) => {
                    grown = true;
                    pieces.push(Piece { physical, bytes });
                    missing -= bytes;
                }
                Err(error) => {
                    growth.spare.append(&mut pieces);
                    return Err(error);
                }
            }
        }
        if grown {
            self.reserve.count_growth();
        }
        Ok(pieces)
    }

    /// The free range that ends where new memory would be mapped, if this request may use it.
    fn take_tail(&self, growth: &Growth, want: &Want) -> Option<Free> {
        let (top, _) = growth.top()?;
        if growth.regions.contains_key(&top) {
            // The top is the start of a region; what is before belongs to another.
            return None;
        }
        let mut room = self.state.lock();
        let tail = room.space.free_before(top).filter(|tail| {
            tail.point
                .is_none_or(|point| Some(point.queue) == want.queue)
        });
        // A thread may just have freed so much there that nothing needs to be mapped; that is no window.
        let tail = tail.filter(|tail| {
            let start = tail.range.start.checked_next_multiple_of(want.alignment);
            start.is_none_or(|start| start.saturating_add(want.bytes) > tail.range.end())
        })?;
        room.space.cut(tail.range.start, tail.range);
        Some(tail)
    }

    /// Where a block can be that begins in the tail, or at the top. On failure the tail is free again.
    pub(super) fn window(
        &self,
        growth: &mut Growth,
        want: &Want,
        tail: Option<Free>,
    ) -> Result<Window> {
        let place = |top: usize, tail: Option<Free>| {
            let start = tail.map_or(top, |tail| tail.range.start);
            let position = start.checked_next_multiple_of(want.alignment)?;
            let end = position.checked_add(want.bytes)?;
            Some(Window {
                tail,
                top,
                position,
                end,
            })
        };
        let fits = |window: &Window, bytes: usize| window.end - window.top <= bytes;
        if let Some((top, bytes)) = growth.top()
            && let Some(window) = place(top, tail).filter(|window| fits(window, bytes))
        {
            return Ok(window);
        }
        if let Some(tail) = tail {
            self.put_back(std::iter::once(tail));
        }
        self.reserve_addresses(growth, want.bytes, want.alignment)?;
        growth
            .top()
            .and_then(|(top, bytes)| place(top, None).filter(|window| fits(window, bytes)))
            .ok_or_else(|| Error::new(ErrorKind::OutOfMemory, "no address space is left"))
    }

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
        let least = bytes
            .checked_add(alignment)
            .and_then(|bytes| bytes.checked_mul(ADDRESSES_PER_REQUEST))
            .unwrap_or(properties.address_bytes_max);
        let mut bytes = round(properties.address_bytes_max);
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
        let properties = self.device.properties();
        let room = if want.alignment > properties.granularity {
            want.bytes.checked_add(want.alignment - 1)
        } else {
            Some(want.bytes)
        };
        room.and_then(|bytes| bytes.checked_next_multiple_of(properties.granularity))
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
            .inspect_err(|_| self.reserve.uncommit(bytes))?;
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
pub(super) struct Window {
    /// Free memory before the top that it begins in.
    pub(super) tail: Option<Free>,
    /// Where mapping starts.
    pub(super) top: usize,
    pub(super) position: usize,
    pub(super) end: usize,
}

impl Window {
    pub(super) fn bytes_to_map(&self, properties: VirtualMemoryProperties) -> usize {
        (self.end - self.top).next_multiple_of(properties.granularity)
    }
}

impl Growth {
    /// The largest unused stretch of addresses: its start and length.
    pub(super) fn top(&self) -> Option<(usize, usize)> {
        let stretch = self
            .addresses
            .find_clean(self.addresses.largest_clean().max(1), 1)?;
        Some((stretch.0.start, stretch.0.bytes))
    }
}
