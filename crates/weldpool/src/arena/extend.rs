//! Memory obtained ahead of requests, and requests served without obtaining any.

#![forbid(unsafe_code)]

use super::grow::BESIDE_MAX;
use super::mappings::Piece;
use super::{Arena, Growth, Sparing, Want};
use crate::block::Block;
use crate::device::VirtualMemoryProperties;
use crate::error::Result;
use crate::profiling::SlowPath;
use crate::space::Range;

impl Arena {
    /// A block from memory that is free as it lies: nothing is mapped, and no lock is taken under which a driver
    /// is called. What others spare is used when nothing else fits.
    pub(crate) fn allocate_as_is(&self, want: &Want) -> Option<Block> {
        let sparing = self.sparing(want.live);
        let mut room = self.state.lock();
        [sparing, Sparing::None].into_iter().find_map(|sparing| {
            let own = want.queue.filter(|_| want.contended);
            let own = own.and_then(|queue| room.allocate_own(want, queue, sparing));
            own.or_else(|| room.allocate(want, sparing))
        })
    }

    /// Obtains at least `bytes` bytes, which are free then: next to free memory where memory can be mapped, else as
    /// one segment. Says how many they are. Calls the driver under `growth` alone.
    pub(crate) fn extend(&self, bytes: usize) -> Result<usize> {
        let bytes = self.whole(Some(bytes))?;
        let _span = self.device.span(SlowPath::Growth, bytes);
        let mut growth = self.growth.lock();
        let Some(properties) = self.virtual_memory else {
            let region = self.create_segment(&mut growth, bytes)?;
            self.state.lock().space.add(region);
            return Ok(region.bytes);
        };
        let pieces = self.create_pieces(&mut growth, properties, bytes, usize::MAX)?;
        match self.map_free(&mut growth, properties, &pieces) {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                growth.unmapped.extend(pieces);
                self.release_unmapped(&mut growth);
                Err(error)
            }
        }
    }

    /// Maps pieces that are mapped nowhere, and makes them free.
    fn map_free(
        &self,
        growth: &mut Growth,
        properties: VirtualMemoryProperties,
        pieces: &[Piece],
    ) -> Result<usize> {
        let bytes = pieces.iter().map(|piece| piece.bytes).sum();
        let start = match self.gap_behind_free(growth, bytes) {
            Some(start) => start,
            None => {
                self.reserve_addresses(growth, bytes, properties.granularity)?;
                self.gap_behind_free(growth, bytes)
                    .ok_or_else(Self::no_addresses)?
            }
        };
        let range = Range { start, bytes };
        self.map_pieces(growth, properties, range, pieces)?;
        let mut position = start;
        for piece in pieces {
            if properties.divisible {
                growth.mappings.insert(position, *piece);
            } else {
                growth.windows.add(position, *piece);
                self.state.lock().add_window(position, piece.bytes);
            }
            position += piece.bytes;
        }
        if !properties.divisible {
            growth.windows.enter(range);
        }
        self.state.lock().space.add(range);
        Ok(bytes)
    }

    /// Where addresses are unused for so many bytes: behind the largest free memory where that is possible, so that
    /// both are one.
    fn gap_behind_free(&self, growth: &Growth, bytes: usize) -> Option<usize> {
        let room = self.state.lock();
        let ends = room.space.largest_free_for(None).take(BESIDE_MAX);
        let mut gaps = ends.filter_map(|free| {
            let end = free.range.end();
            let gap = growth.addresses.free_after(end)?.range;
            // At the border of a region memory is not joined.
            (!growth.regions.contains_key(&end)).then_some(gap)
        });
        let fits = |gap: &Range| gap.bytes >= bytes;
        let gap = gaps.find(fits);
        gap.or_else(|| growth.top().filter(fits))
            .map(|gap| gap.start)
    }
}
