//! Memory that others reach too: other processes, or the device's peers. Each block is a segment of its
//! own, so that nobody sees more than was meant for them, and is never kept idle. Managed storage that is
//! [two copies](crate::device::DeviceProperties::managed_copies) is the same, reached by nobody else.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet};

use crate::address_map::{AddressMap, Writer};
use crate::arena::{self, Reserve};
use crate::binding::Base;
use crate::block::{ArenaKind, Block, CacheKey, Cut, ListId, Node, Record};
use crate::device::{Exposure, Imported, Metered, ReleaseError, Segment, StorageMode, Vouched};
use crate::error::{Error, ErrorKind, Result};
use crate::export::Exported;
use crate::kept;
use crate::profiling::SlowPath;
use crate::sync::{Arc, Mutex};

/// The exposed segments of a pool.
#[derive(Debug)]
pub(crate) struct ExposedMemory {
    key: CacheKey,
    device: Arc<Metered>,
    reserve: Arc<Reserve>,
    index: Arc<AddressMap>,
    /// Segments are created and released with it unlocked, exported with it locked.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the position of the block in each.
    segments: BTreeMap<usize, Held>,
    /// Their first addresses.
    starts: HashSet<usize>,
    /// What the device refused to take back.
    refused: Vec<Held>,
    index: Writer,
    next: usize,
}

/// A segment, and where it is counted.
#[derive(Debug)]
struct Held {
    segment: Box<dyn Segment>,
    storage: StorageMode,
    node: Node,
    /// Where in it the block begins.
    offset: usize,
    /// The request was for memory that can be exported.
    exportable: bool,
    /// Somebody else made it.
    imported: bool,
    /// It was for memory that the device's peers reach.
    peers: bool,
}

impl Held {
    fn start(&self) -> Option<usize> {
        Base::of_segment(self.segment.as_ref()).number()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) bytes: usize,
    pub(crate) alignment: usize,
    pub(crate) storage: StorageMode,
    pub(crate) node: Node,
    pub(crate) exposure: Exposure,
}

impl ExposedMemory {
    pub(crate) fn new(key: CacheKey, device: &Arc<Metered>, reserve: &Arc<Reserve>) -> Self {
        let index = arena::new_index();
        Self {
            key,
            device: Arc::clone(device),
            reserve: Arc::clone(reserve),
            index: Arc::clone(index.map()),
            state: Mutex::new(State {
                segments: BTreeMap::new(),
                starts: HashSet::new(),
                refused: Vec::new(),
                index,
                next: 0,
            }),
        }
    }

    /// A block in a new segment.
    pub(crate) fn create(&self, wanted: &Wanted) -> Result<Block> {
        let properties = self.device.properties();
        let surplus = wanted.alignment.saturating_sub(properties.granularity);
        let bytes = wanted.bytes.checked_add(surplus);
        let bytes = bytes
            .and_then(|bytes| bytes.checked_next_multiple_of(properties.granularity))
            .filter(|&bytes| bytes <= properties.segment_bytes_max)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::LimitExceeded,
                    "the request with its alignment is larger than the device's largest segment",
                )
            })?;
        let _span = self.device.span(SlowPath::Growth, wanted.bytes);
        self.reserve.commit(bytes)?;
        let Wanted {
            storage,
            node,
            exposure,
            ..
        } = *wanted;
        let created = self
            .device
            .create_exposed(bytes, storage, node.index(), exposure);
        let segment = created.inspect_err(|_| self.reserve.cancel(bytes))?;
        self.reserve.count_growth();
        let start = Base::of_segment(segment.as_ref()).number().unwrap_or(0);
        let held = Held {
            offset: start.next_multiple_of(wanted.alignment) - start,
            segment,
            storage,
            node,
            exportable: exposure.export.is_some(),
            imported: false,
            peers: exposure.peers,
        };
        if held.offset + wanted.bytes > bytes {
            self.put_away(held);
            return Err(Error::new(
                ErrorKind::System,
                "the device gave a segment that is not aligned as it promises",
            ));
        }
        self.cut(held)
    }

    /// A block over an exported buffer; `node` says where memory of a storage mode is counted.
    pub(crate) fn import(
        &self,
        vouched: Vouched<'_>,
        node: impl FnOnce(StorageMode) -> Node,
    ) -> Result<Block> {
        let exported = vouched.exported();
        if exported.object_bytes() > self.device.properties().segment_bytes_max {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the exported object is claimed to be larger than any segment of the device",
            ));
        }
        // The device holds the claimed length against the object, and obtains nothing. Only then it counts.
        let (Imported { segment, storage }, node) = self.device.import(vouched, node)?;
        let held = Held {
            segment,
            storage,
            node,
            offset: exported.offset(),
            exportable: false,
            imported: true,
            peers: false,
        };
        let bytes = held.segment.bytes();
        if let Err(error) = self.reserve.commit(bytes) {
            self.reserve.commit_held(bytes);
            self.put_away(held);
            return Err(error);
        }
        if held.offset + exported.len() > bytes {
            self.put_away(held);
            return Err(Error::new(
                ErrorKind::System,
                "the device opened less of an exported object than it was asked to",
            ));
        }
        self.cut(held)
    }

    /// The block of a segment. All of the segment is its, since nobody else can have the rest.
    fn cut(&self, held: Held) -> Result<Block> {
        let base = Base::of_segment(held.segment.as_ref());
        let mut state = self.state.lock();
        // A driver may give the same addresses when an object is opened twice.
        if base
            .number()
            .is_some_and(|start| !state.starts.insert(start))
        {
            drop(state);
            self.put_away(held);
            return Err(Error::new(
                ErrorKind::Busy,
                "the object is open in this allocator already, or work in flight still uses it; share the \
                 buffer that was imported",
            ));
        }
        let position = state.next;
        state.next += 1;
        let cut = Cut {
            pool: self.key,
            storage: held.storage,
            arena: ArenaKind::Large,
            node: held.node,
            list: ListId::EXPOSED,
            thread_max: 0,
            position,
            bytes: held.segment.bytes(),
        };
        let block = Block::new(cut, &base.place(held.offset));
        if let Some(address) = block.as_record().address() {
            state.index.insert(address, block.as_record());
        }
        state.segments.insert(position, held);
        Ok(block)
    }

    /// Whether queues of the device's peers reach a block.
    pub(crate) fn is_visible_to_peers(&self, block: &Block) -> bool {
        let state = self.state.lock();
        let held = state.segments.get(&block.position());
        held.is_some_and(|held| held.peers)
    }

    /// Returns the segment of a block that nobody uses.
    pub(crate) fn release(&self, block: Block) {
        let held = {
            let mut state = self.state.lock();
            if let Some(address) = block.as_record().address() {
                state.index.remove(address);
            }
            let held = state.segments.remove(&block.position());
            if let Some(start) = held.as_ref().and_then(Held::start) {
                state.starts.remove(&start);
            }
            held
        };
        block.retire();
        if let Some(held) = held {
            self.put_away(held);
        }
    }

    /// Returns a segment; one that the device refuses is kept, for [`return_refused`](Self::return_refused).
    fn put_away(&self, held: Held) -> usize {
        let Held {
            segment,
            storage,
            node,
            ..
        } = held;
        let bytes = segment.bytes();
        match self.device.release_segment(segment, storage, node.index()) {
            Ok(()) => {
                self.reserve.uncommit(bytes);
                bytes
            }
            Err(ReleaseError { segment, error }) => {
                tracing::warn!(bytes, %error, "an exposed segment could not be returned; it is kept");
                self.state.lock().refused.push(Held {
                    segment,
                    storage,
                    node,
                    ..held
                });
                0
            }
        }
    }

    /// Tries again to return what the device refused; says how many bytes went.
    pub(crate) fn return_refused(&self) -> usize {
        let refused = std::mem::take(&mut self.state.lock().refused);
        refused.into_iter().map(|held| self.put_away(held)).sum()
    }

    /// What stands for the buffer of a block in another process; `bytes` is its length.
    pub(crate) fn export(&self, block: &Block, bytes: usize) -> Result<Exported> {
        let state = self.state.lock();
        let held = (block.list() == ListId::EXPOSED)
            .then(|| state.segments.get(&block.position()))
            .flatten();
        if held.is_some_and(|held| held.imported) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "imported memory is not exported again; send on the descriptor or handle that was received",
            ));
        }
        let held = held.filter(|held| held.exportable).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the buffer was not requested to be exportable; see Request::exportable",
            )
        })?;
        let handle = self.device.export(held.segment.as_ref())?;
        Exported::from_parts(handle, held.segment.bytes(), held.offset, bytes)
    }

    /// The record of the block that contains an address, if there is one, else none or any. Takes no lock.
    pub(crate) fn find(&self, address: usize) -> Option<&'static Record> {
        self.index.find(address)
    }

    /// Segments held.
    pub(crate) fn len(&self) -> usize {
        let state = self.state.lock();
        state.segments.len() + state.refused.len()
    }

    /// Returns everything: no buffer of the allocator is left.
    pub(crate) fn close(&self) {
        let segments = std::mem::take(&mut self.state.lock().segments);
        for held in segments.into_values() {
            self.put_away(held);
        }
        self.return_refused();
        // Dropping returns them too, as far as that goes.
        let refused = std::mem::take(&mut self.state.lock().refused);
        drop(refused);
    }

    /// Gives up everything without returning it, because work in flight may still use it.
    pub(crate) fn leak(&self) {
        let mut state = self.state.lock();
        kept::keep(std::mem::take(&mut state.segments));
    }
}

impl Drop for State {
    fn drop(&mut self) {
        arena::end_index(&mut self.index);
    }
}
