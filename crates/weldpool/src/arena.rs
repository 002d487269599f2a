//! Arenas: segments obtained from the device, cut into ranges, joined again and given back.

use std::collections::BTreeMap;

use crate::address_map::AddressMap;
use crate::block::{ArenaKind, Block, Home, SegmentEntry};
use crate::config::Config;
use crate::device::{Device, Metered, ReleaseError, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::range_allocator::{Position, RangeAllocator};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Part of an arena's size by which it grows at least.
const GROWTH_DIVISOR: usize = 8;

/// All arenas of one allocator.
#[derive(Debug)]
pub(crate) struct Arenas {
    device: Arc<Metered>,
    addresses: AddressMap,
    state: Mutex<State>,
    /// Bytes held or about to be asked for, which the limit is checked against.
    committed: AtomicU64,
    reserved_bytes_max: Option<u64>,
    segment_bytes_min: usize,
    segment_bytes_max: usize,
    growths: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    ranges: [[RangeAllocator; ArenaKind::ALL.len()]; StorageMode::ALL.len()],
    entries: BTreeMap<u32, Arc<SegmentEntry>>,
    direct: usize,
    next_id: u32,
}

impl State {
    fn ranges(&mut self, storage: StorageMode, kind: ArenaKind) -> &mut RangeAllocator {
        &mut self.ranges[storage.index()][kind.index()]
    }

    fn new_id(&mut self) -> Result<u32> {
        let id = self.next_id;
        self.next_id = id.checked_add(1).ok_or_else(|| {
            Error::new(
                ErrorKind::LimitExceeded,
                "the allocator has used up its segment numbers",
            )
        })?;
        Ok(id)
    }

    fn cut(
        &mut self,
        storage: StorageMode,
        kind: ArenaKind,
        bytes: usize,
        alignment: usize,
    ) -> Option<(Arc<SegmentEntry>, usize)> {
        let position = self.ranges(storage, kind).allocate(bytes, alignment)?;
        let entry = Arc::clone(self.entries.get(&position.segment)?);
        Some((entry, position.offset))
    }
}

/// The arena that a request goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) storage: StorageMode,
    pub(crate) kind: ArenaKind,
    pub(crate) home: Home,
}

impl Place {
    fn block(self, (entry, offset): (Arc<SegmentEntry>, usize), bytes: usize) -> Block {
        Block {
            entry,
            offset,
            bytes,
            arena: self.kind,
            home: self.home,
        }
    }
}

impl Arenas {
    pub(crate) fn new(device: Arc<Metered>, config: &Config) -> Self {
        Self {
            device,
            addresses: AddressMap::default(),
            state: Mutex::default(),
            committed: AtomicU64::new(0),
            reserved_bytes_max: config.reserved_bytes_max,
            segment_bytes_min: config.segment_bytes_min,
            segment_bytes_max: config.segment_bytes_max,
            growths: AtomicU64::new(0),
        }
    }

    pub(crate) fn addresses(&self) -> &AddressMap {
        &self.addresses
    }

    pub(crate) fn device(&self) -> &Metered {
        &self.device
    }

    /// A block out of memory already held.
    pub(crate) fn allocate(&self, place: Place, bytes: usize, alignment: usize) -> Option<Block> {
        let cut = self
            .state
            .lock()
            .cut(place.storage, place.kind, bytes, alignment)?;
        Some(place.block(cut, bytes))
    }

    /// A block out of a new segment. The segment leaves room for more when the device has it.
    pub(crate) fn grow(&self, place: Place, bytes: usize, alignment: usize) -> Result<Block> {
        let least = self.segment_bytes_for(bytes, alignment)?;
        let held = self
            .state
            .lock()
            .ranges(place.storage, place.kind)
            .total_bytes();
        let room = (held / GROWTH_DIVISOR).clamp(self.segment_bytes_min, self.segment_bytes_max);
        let most = self.device.properties().segment_bytes_max;
        let wanted = self
            .round_to_granularity(room)
            .map_or(least, |room| room.min(most).max(least));
        self.make_way(place, least);
        let entry = match self.create(wanted, place.storage) {
            Err(error)
                if wanted > least
                    && matches!(
                        error.kind(),
                        ErrorKind::OutOfMemory | ErrorKind::LimitExceeded
                    ) =>
            {
                self.create(least, place.storage)?
            }
            result => result?,
        };
        let mut state = self.state.lock();
        let base = entry.base.number();
        state
            .ranges(place.storage, place.kind)
            .add_segment(entry.id, base, entry.bytes);
        state.entries.insert(entry.id, entry);
        let cut = state.cut(place.storage, place.kind, bytes, alignment);
        drop(state);
        self.growths.fetch_add(1, Ordering::Relaxed);
        // The segment was sized for this very request, so another thread would have to take it
        // between two statements under one lock.
        cut.map(|cut| place.block(cut, bytes)).ok_or_else(|| {
            Error::new(
                ErrorKind::OutOfMemory,
                "a new segment did not hold the request",
            )
        })
    }

    /// Gives empty segments of the arena back, up to the bytes that it is about to grow by: none of
    /// them holds the request, so beside the new segment they would stay idle for good. What is held
    /// does not shrink by this, so a workload that repeats itself comes to rest.
    fn make_way(&self, place: Place, bytes: usize) {
        let mut given_way = Vec::new();
        let mut state = self.state.lock();
        let mut empty: Vec<(usize, u32)> = state
            .ranges(place.storage, place.kind)
            .empty_segments()
            .into_iter()
            .filter_map(|id| Some((state.entries.get(&id)?.bytes, id)))
            .collect();
        empty.sort_unstable_by(|one, other| other.cmp(one));
        let mut left = bytes;
        for (size, id) in empty {
            if size <= left && state.ranges(place.storage, place.kind).remove_segment(id) {
                left -= size;
                given_way.extend(state.entries.remove(&id));
            }
        }
        drop(state);
        for entry in given_way {
            self.destroy(entry, place.kind);
        }
    }

    /// A block that is a segment of its own.
    pub(crate) fn direct(
        &self,
        storage: StorageMode,
        bytes: usize,
        alignment: usize,
    ) -> Result<Block> {
        let entry = self.create(self.segment_bytes_for(bytes, alignment)?, storage)?;
        self.state.lock().direct += 1;
        self.growths.fetch_add(1, Ordering::Relaxed);
        let base = entry.base.number();
        let offset = base.next_multiple_of(alignment) - base;
        Ok(Block {
            entry,
            offset,
            bytes,
            arena: ArenaKind::Large,
            home: Home::Direct,
        })
    }

    /// Takes a block back. With `trim`, a segment that is now empty goes back to the device.
    pub(crate) fn release(&self, block: Block, trim: bool) -> usize {
        if block.home == Home::Direct {
            let Block { entry, .. } = block;
            self.state.lock().direct -= 1;
            return self.destroy(entry, ArenaKind::Large);
        }
        let position: Position = block.position();
        let (storage, kind) = (block.entry.storage, block.arena);
        let Block { bytes, entry, .. } = block;
        drop(entry);
        let mut state = self.state.lock();
        let empty = state.ranges(storage, kind).release(position, bytes);
        if !(empty && trim) {
            return 0;
        }
        state.ranges(storage, kind).remove_segment(position.segment);
        let entry = state.entries.remove(&position.segment);
        drop(state);
        entry.map_or(0, |entry| self.destroy(entry, kind))
    }

    /// Gives every empty segment back to the device; returns their bytes.
    pub(crate) fn release_empty(&self) -> usize {
        let mut empty = Vec::new();
        let mut state = self.state.lock();
        for storage in StorageMode::ALL {
            for kind in ArenaKind::ALL {
                for id in state.ranges(storage, kind).empty_segments() {
                    if state.ranges(storage, kind).remove_segment(id)
                        && let Some(entry) = state.entries.remove(&id)
                    {
                        empty.push((entry, kind));
                    }
                }
            }
        }
        drop(state);
        empty
            .into_iter()
            .map(|(entry, kind)| self.destroy(entry, kind))
            .sum()
    }

    /// Free bytes and the largest free range over all arenas.
    pub(crate) fn free(&self) -> (usize, usize) {
        let state = self.state.lock();
        let arenas = || state.ranges.iter().flatten();
        (
            arenas().map(RangeAllocator::free_bytes).sum(),
            arenas()
                .map(RangeAllocator::largest_free)
                .max()
                .unwrap_or(0),
        )
    }

    /// Segments held, and how often one was obtained.
    pub(crate) fn segments(&self) -> (usize, u64) {
        let state = self.state.lock();
        (
            state.entries.len() + state.direct,
            self.growths.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn reserved_bytes_max(&self) -> Option<u64> {
        self.reserved_bytes_max
    }

    fn round_to_granularity(&self, bytes: usize) -> Option<usize> {
        bytes.checked_next_multiple_of(self.device.properties().granularity)
    }

    fn segment_bytes_for(&self, bytes: usize, alignment: usize) -> Result<usize> {
        let properties = self.device.properties();
        // A segment starts at a multiple of the granularity, so only more needs room to align.
        let slack = alignment.saturating_sub(properties.granularity);
        bytes
            .checked_add(slack)
            .and_then(|bytes| self.round_to_granularity(bytes))
            .filter(|&bytes| bytes <= properties.segment_bytes_max)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::LimitExceeded,
                    "the request with its alignment is larger than the device's largest segment",
                )
            })
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Arc<SegmentEntry>> {
        let limit = self.reserved_bytes_max.unwrap_or(u64::MAX);
        let added = bytes as u64;
        self.committed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |committed| {
                committed.checked_add(added).filter(|&sum| sum <= limit)
            })
            .map_err(|_| {
                Error::new(
                    ErrorKind::LimitExceeded,
                    "the limit on reserved memory is reached",
                )
            })?;
        let id = self.state.lock().new_id();
        let created = id.and_then(|id| Ok((id, self.device.create_segment(bytes, storage)?)));
        match created {
            Ok((id, segment)) => {
                let entry = Arc::new(SegmentEntry::new(id, storage, segment));
                self.addresses.insert(&entry);
                tracing::debug!(id, bytes, %storage, "segment obtained");
                Ok(entry)
            }
            Err(error) => {
                self.committed.fetch_sub(added, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Returns a segment to the device. If the device refuses, the segment stays in the arena as
    /// free memory, so that nothing is lost.
    fn destroy(&self, entry: Arc<SegmentEntry>, kind: ArenaKind) -> usize {
        self.addresses.remove(&entry);
        let (id, storage, bytes) = (entry.id, entry.storage, entry.bytes);
        let kept = match Arc::try_unwrap(entry) {
            Ok(entry) => match self.device.release_segment(entry.segment) {
                Ok(()) => {
                    self.committed.fetch_sub(bytes as u64, Ordering::Relaxed);
                    tracing::debug!(id, bytes, "segment returned");
                    return bytes;
                }
                Err(ReleaseError { segment, error }) => {
                    tracing::warn!(id, bytes, %error, "segment could not be returned; kept");
                    Arc::new(SegmentEntry::new(id, storage, segment))
                }
            },
            Err(shared) => shared,
        };
        self.addresses.insert(&kept);
        let mut state = self.state.lock();
        state
            .ranges(storage, kind)
            .add_segment(id, kept.base.number(), bytes);
        state.entries.insert(id, kept);
        0
    }
}
