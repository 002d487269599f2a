//! The models of a placement sparse buffer's memory, and of the Metal 4 queue that maps it.
//!
//! The rules are those of the documentation of `newBufferWithLength:options:placementSparsePageSize:`,
//! `maxCompatiblePlacementSparsePageSize`, `MTL4CommandQueue` and `MTLResidencySet`. Work on a page to which nothing is
//! mapped is no fault in Metal, it reads zeroes (`MTLBufferSparseTier1`); nobody here wants those, so it is a broken rule.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::event::Event;
use super::heap::{Buffer, Heap, WeakBuffer, WeakHeap};
use super::labels::Labelled;
use super::metal::Metal;
use super::order::{Number, Read};
use super::residency::Set;
use crate::device::fake::address_space::Reach;
use crate::device::fake::queue::{self, Command, Core, Side};
use crate::device::fake::store::{State, Store};
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::metal::raw::{self, SparsePageSize, Tiles};
use crate::device::{Location, StorageMode};
use crate::error::Result;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Weak};

type Checked<T> = std::result::Result<T, Violation>;

/// What lies behind the addresses of a placement sparse buffer.
#[derive(Debug)]
pub(super) struct SparseMemory {
    address: u64,
    bytes: usize,
    storage: StorageMode,
    page: SparsePageSize,
    /// By the number of the page.
    tiles: Mutex<BTreeMap<usize, Tile>>,
}

/// A tile of a heap, mapped to a page.
#[derive(Debug)]
struct Tile {
    store: Weak<Store>,
    /// Where a residency set knows the heap to lie.
    heap: u64,
    /// Where the tile begins in the heap.
    at: usize,
    /// Number of the update that mapped it.
    update: Number,
}

impl SparseMemory {
    pub(super) fn new(
        address: u64,
        bytes: usize,
        storage: StorageMode,
        page: SparsePageSize,
    ) -> Self {
        Self {
            address,
            bytes,
            storage,
            page,
            tiles: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory under addresses of the buffer, if work of a queue may touch it.
    fn reach(&self, address: u64, bytes: usize, seen: &Seen) -> Checked<Vec<Reach>> {
        let page = self.page.bytes();
        let tiles = self.tiles.lock();
        let known = seen.mapped.load(Ordering::Relaxed);
        let mut reached: Vec<Reach> = Vec::with_capacity(1);
        let start = usize::try_from(address - self.address).unwrap_or(usize::MAX);
        let mut at = start;
        while at < start + bytes {
            let work = || {
                format!(
                    "work on {bytes} bytes at {address:#x} touches page {}",
                    at / page
                )
            };
            let Some(tile) = tiles.get(&(at / page)) else {
                return broken(Rule::Mapped, format!("{}, where nothing is mapped", work()));
            };
            if tile.update > known {
                return broken(
                    Rule::MappingAwaited,
                    format!("{} without a wait for the event behind its mapping", work()),
                );
            }
            let Some(store) = tile.store.upgrade() else {
                return broken(
                    Rule::NotReleased,
                    format!("{}, whose heap has ended", work()),
                );
            };
            if store.state() == State::Volatile {
                return broken(
                    Rule::NotVolatile,
                    format!("{}, whose heap is volatile or empty", work()),
                );
            }
            if !seen.holds(tile.heap) {
                return broken(
                    Rule::SparseResident,
                    format!("{}, whose heap is in no residency set of the queue", work()),
                );
            }
            let inside = at % page;
            let length = (page - inside).min(start + bytes - at);
            let offset = tile.at + inside;
            match reached.last_mut() {
                Some(last)
                    if Arc::ptr_eq(&last.store, &store) && last.offset + last.bytes == offset =>
                {
                    last.bytes += length;
                }
                _ => reached.push(Reach {
                    store,
                    offset,
                    bytes: length,
                }),
            }
            at += length;
        }
        Ok(reached)
    }

    fn map(&self, tiles: Tiles, heap: &Heap, heap_tile: usize, update: Number) {
        let mut mapped = self.tiles.lock();
        for number in 0..tiles.count {
            let tile = Tile {
                store: Arc::downgrade(heap.store()),
                heap: heap.address(),
                at: (heap_tile + number) * self.page.bytes(),
                update,
            };
            mapped.insert(tiles.first + number, tile);
        }
    }

    fn unmap(&self, tiles: Tiles) {
        let mut mapped = self.tiles.lock();
        mapped.retain(|page, _| !(tiles.first..tiles.first + tiles.count).contains(page));
    }
}

/// What the work of a command queue goes by.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The last mapping update that the pass which runs now is behind. A queue runs one after the other.
    mapped: AtomicU64,
    sets: Mutex<Vec<Set>>,
}

impl Seen {
    /// A pass begins, behind the mapping updates up to this one.
    pub(super) fn begin_pass(&self, mapped: Number) {
        self.mapped.store(mapped, Ordering::Relaxed);
    }

    pub(super) fn sets(&self) -> &Mutex<Vec<Set>> {
        &self.sets
    }

    fn holds(&self, allocation: u64) -> bool {
        let sets = self.sets.lock();
        sets.iter().any(|set| set.has_committed(allocation))
    }
}

/// The device's memory as the work of one queue finds it.
#[derive(Debug)]
pub(super) struct Seeing {
    pub(super) metal: Metal,
    pub(super) seen: Arc<Seen>,
}

impl Seeing {
    /// Takes note of what is wrong with work on a placement sparse buffer that runs now.
    pub(super) fn check_sparse(&self, address: u64, bytes: usize) {
        let sparse = self.metal.sparse_at(address);
        let reached = sparse.map(|sparse| sparse.reach(address, bytes, &self.seen));
        if let Some(Err(violation)) = reached {
            drop(self.metal.record(violation));
        }
    }
}

impl queue::Memory for Seeing {
    fn identify(&self, location: &Location, bytes: usize) -> Checked<Side> {
        self.metal.identify(location, bytes)
    }

    fn reach(&self, address: u64, bytes: usize) -> Checked<Vec<Reach>> {
        match self.metal.sparse_at(address) {
            Some(sparse) => sparse.reach(address, bytes, &self.seen),
            None => self.metal.reach(address, bytes),
        }
    }
}

/// A queue of Metal 4, as far as it maps.
#[derive(Debug)]
pub(in crate::device) struct MappingQueue {
    core: Arc<Core>,
    metal: Metal,
    /// What its next signal is behind; held for whatever it is given, so that all is in one order.
    given: Mutex<Read>,
    /// Known by its label alone.
    _label: Labelled,
}

impl Drop for MappingQueue {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl MappingQueue {
    pub(super) fn new(core: Arc<Core>, metal: Metal, label: &str) -> Self {
        let alive = metal.alive("mapping queue");
        alive.set(label);
        Self {
            core,
            metal,
            given: Mutex::default(),
            _label: alive,
        }
    }

    fn commit(&self, work: impl FnOnce() + Send + 'static) {
        let commands = vec![Command::Do(Box::new(work))];
        self.core.commit(commands, Box::new(|_| ()));
    }

    fn check(&self, kept: Checked<()>) -> Result<()> {
        kept.map_err(|violation| self.metal.record(violation))
    }

    /// Does something to a buffer's pages later, as the update of the next number; buffer and heap live until then.
    fn update(
        &self,
        buffer: &Buffer,
        tiles: Tiles,
        heap: Option<&Heap>,
        change: impl FnOnce(&SparseMemory, Option<&Heap>, Number) + Send + 'static,
    ) {
        let mut given = self.given.lock();
        let start = buffer.gpu_address() + (tiles.first * tiles.page.bytes()) as u64;
        let bytes = start..start + (tiles.count * tiles.page.bytes()) as u64;
        let (update, violation) = self.metal.order().update(bytes, &mut given);
        if let Some(violation) = violation {
            drop(self.metal.record(violation));
        }
        let weak: (WeakBuffer, Option<WeakHeap>) = (buffer.downgrade(), heap.map(Heap::downgrade));
        let metal = self.metal.clone();
        self.commit(move || {
            let heap = match weak.1.as_ref().map(WeakHeap::upgrade) {
                Some(None) => None,
                Some(some) => Some(some),
                None => Some(None),
            };
            match (weak.0.upgrade(), heap) {
                (Some(buffer), Some(heap)) => {
                    if let Some(sparse) = buffer.sparse() {
                        change(sparse, heap.as_ref(), update);
                    }
                }
                _ => drop(
                    metal.record(Violation {
                        rule: Rule::MappingKept,
                        text: "the buffer or the heap of a mapping update ended before it was done"
                            .into(),
                    }),
                ),
            }
        });
    }
}

/// The memory of a buffer whose tiles these are.
fn pages(buffer: &Buffer, tiles: Tiles) -> Checked<&Arc<SparseMemory>> {
    let Some(sparse) = buffer.sparse().filter(|sparse| sparse.page == tiles.page) else {
        return broken(
            Rule::SparsePages,
            format!("{tiles:?} are mapped in a buffer that is not sparse, or has other pages"),
        );
    };
    if !tiles.lie_inside(sparse.bytes) {
        return broken(
            Rule::InsideBuffer,
            format!("{tiles:?} are mapped in a buffer of {} bytes", sparse.bytes),
        );
    }
    Ok(sparse)
}

/// Whether tiles of a heap may be mapped in a buffer.
fn may_be_behind(sparse: &SparseMemory, heap: &Heap, tiles: Tiles) -> Checked<()> {
    if heap.compatible().is_none_or(|most| most < sparse.page) {
        return broken(
            Rule::SparsePages,
            format!(
                "pages of {} bytes on a heap whose compatible page is {:?}",
                sparse.page.bytes(),
                heap.compatible()
            ),
        );
    }
    if heap.storage_mode() != sparse.storage {
        return broken(
            Rule::SparseStorage,
            format!(
                "a heap of {} storage in a buffer of {} storage",
                heap.storage_mode(),
                sparse.storage
            ),
        );
    }
    if !tiles.lie_inside(heap.size()) {
        return broken(
            Rule::InsideHeap,
            format!("{tiles:?} of a heap of {} bytes are mapped", heap.size()),
        );
    }
    Ok(())
}

impl raw::MappingQueue for MappingQueue {
    type Metal = Metal;

    fn map(&self, buffer: &Buffer, tiles: Tiles, heap: &Heap, heap_tile: usize) -> Result<()> {
        self.metal
            .enter("updateBufferMappings:heap:operations:count:");
        let behind = Tiles {
            first: heap_tile,
            ..tiles
        };
        let kept = pages(buffer, tiles).and_then(|sparse| may_be_behind(sparse, heap, behind));
        self.check(kept)?;
        let bytes = (tiles.count * tiles.page.bytes()) as u64;
        self.metal.charge(self.metal.costs().map.ns(bytes));
        self.update(buffer, tiles, Some(heap), move |sparse, heap, update| {
            if let Some(heap) = heap {
                sparse.map(tiles, heap, heap_tile, update);
            }
        });
        Ok(())
    }

    fn unmap(&self, buffer: &Buffer, tiles: Tiles) -> Result<()> {
        self.metal
            .enter("updateBufferMappings:heap:operations:count:");
        self.check(pages(buffer, tiles).map(drop))?;
        let bytes = (tiles.count * tiles.page.bytes()) as u64;
        self.metal.charge(self.metal.costs().unmap.ns(bytes));
        self.update(buffer, tiles, None, move |sparse, _, _| sparse.unmap(tiles));
        Ok(())
    }

    fn signal(&self, event: &Event, value: u64) {
        self.metal.enter("signalEvent:value:");
        let given = self.given.lock();
        let mut order = self.metal.order();
        let signal = order.signal(event.object(), value, &given);
        drop(order);
        let event = event.clone();
        self.commit(move || event.raise(signal));
    }
}

#[cfg(test)]
mod tests;
