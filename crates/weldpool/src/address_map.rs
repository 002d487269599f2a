//! From any address inside a live buffer to its block, for callers that hand back bare pointers.

use std::collections::BTreeMap;

use crate::block::SegmentEntry;
use crate::buffer::Buffer;
use crate::device::StorageMode;
use crate::name::Name;
use crate::sync::{Arc, RwLock};

/// A live buffer, as the address map knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// Address of the buffer's first byte.
    pub address: usize,
    /// Bytes that were requested.
    pub bytes: usize,
    /// Bytes of the block behind them.
    pub block_bytes: usize,
    /// Name of the buffer.
    pub name: Name,
    /// Its storage mode.
    pub storage: StorageMode,
}

/// Segments by the host address of their first byte. Lookups are O(log n) in the segments and in
/// the live blocks of one segment.
#[derive(Debug, Default)]
pub(crate) struct AddressMap {
    segments: RwLock<BTreeMap<usize, Arc<SegmentEntry>>>,
}

impl AddressMap {
    pub(crate) fn insert(&self, entry: &Arc<SegmentEntry>) {
        if let Some(base) = entry.base.host_number() {
            self.segments.write().insert(base, Arc::clone(entry));
        }
    }

    pub(crate) fn remove(&self, entry: &SegmentEntry) {
        if let Some(base) = entry.base.host_number() {
            self.segments.write().remove(&base);
        }
    }

    /// The live buffer that contains `address`.
    pub(crate) fn find(&self, address: usize) -> Option<BlockInfo> {
        self.with_segment(address, |base, entry| {
            let live = entry.live.lock();
            let (&offset, record) = live.range(..=address - base).next_back()?;
            (address - base - offset < record.requested).then_some(BlockInfo {
                address: base + offset,
                bytes: record.requested,
                block_bytes: record.block_bytes,
                name: record.name,
                storage: entry.storage,
            })
        })
    }

    /// Takes the buffer whose bare address was handed out.
    pub(crate) fn attach(&self, address: usize) -> Option<Buffer> {
        self.with_segment(address, |base, entry| {
            let mut live = entry.live.lock();
            live.get_mut(&(address - base))?
                .detached
                .take()
                .map(|buffer| *buffer)
        })
    }

    /// All live buffers, in no order; walks.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Name, usize)) {
        for entry in self.segments.read().values() {
            for record in entry.live.lock().values() {
                visit(record.name, record.requested);
            }
        }
    }

    // The read lock is held throughout, so that no clone of the entry outlives the call: the arena
    // owns the last reference when it gives a segment back.
    fn with_segment<T>(
        &self,
        address: usize,
        visit: impl FnOnce(usize, &SegmentEntry) -> Option<T>,
    ) -> Option<T> {
        let segments = self.segments.read();
        let (&base, entry) = segments.range(..=address).next_back()?;
        if address - base >= entry.bytes {
            return None;
        }
        visit(base, entry)
    }
}
