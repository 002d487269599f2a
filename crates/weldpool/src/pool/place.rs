//! Where a request is served: storage, class and alignment.

#![forbid(unsafe_code)]

use super::Pool;
use crate::arena::{SMALL_BYTES_MAX, SmallArena, Want};
use crate::block::{CacheKey, ListId, Node};
use crate::device::{Exposure, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{DEFAULT_ALIGNMENT, Request};
use crate::size_class::SizeClass;

/// Bytes that one refill of a thread's list aims at, and most blocks of it.
const REFILL_BYTES: usize = 64 << 10;
const REFILL_BLOCKS_MAX: usize = 32;
/// Blocks that pass between threads at once, whatever their length.
const EXCHANGED_BLOCKS: usize = 16;

/// Where a request is served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) storage: StorageMode,
    /// The node whose memory is to serve it.
    pub(super) node: Node,
    pub(super) list: ListId,
    pub(super) thread_max: u8,
    pub(super) bytes: usize,
    pub(super) alignment: usize,
    /// Whether what is cut along with the block finds room in the thread's cache.
    pub(super) refill: bool,
    /// Whether idle blocks may lie with the class, for all threads.
    pub(super) shared: bool,
    /// Who else is to reach the memory, if it is to be a segment of its own.
    pub(super) exposure: Option<Exposure>,
}

/// For whom a request is served past the threads' caches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Party {
    /// Of the cache that keeps what is cut along with the block.
    pub(super) key: CacheKey,
    /// Number of the queue that will use the memory first.
    pub(super) queue: Option<u32>,
    /// Whether other queues, or the host, allocate too.
    pub(super) contended: bool,
    /// As [`Want::live`].
    pub(super) live: u64,
    /// As [`Want::recorded`].
    pub(super) recorded: bool,
}

impl Pool {
    pub(super) fn place(&self, request: &Request<'_>) -> Result<Place> {
        let properties = self.device.properties();
        request.validate(properties.segment_bytes_max)?;
        self.check_storage(request.storage)?;
        if request.needs.is_zeroed()
            && request.queue.is_none()
            && request.storage == StorageMode::Private
        {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "zeroed private storage needs a queue to zero it on; see Request::queue",
            ));
        }
        let alignment = request
            .alignment
            .max(self.alignment)
            .max(properties.alignment_min);
        let shown = request.needs.exposure();
        if let Some(exposure) = shown {
            self.check_offered(exposure, request.storage)?;
        }
        // Two copies are made equal as a whole, so nobody else's bytes may lie beside.
        let alone = request.storage == StorageMode::Managed && properties.managed_copies;
        let exposure = shown.or_else(|| alone.then(Exposure::default));
        let classes = self.classes.classes();
        // Blocks of a class are aligned to 256 bytes, no more.
        let class = classes
            .index_of(request.bytes)
            .filter(|_| alignment <= DEFAULT_ALIGNMENT && exposure.is_none());
        let node = if request.held_only {
            // What a thread that moved leaves behind might go back to the device.
            self.arenas.here(request.storage).0
        } else {
            self.here(request.storage)
        };
        let shape = class.map(|class| (class, self.shape(class)));
        Ok(match shape.filter(|(_, shape)| !shape.exact) {
            Some((class, shape)) => {
                let SizeClass {
                    bytes, cached_max, ..
                } = classes.as_slice()[class];
                Place {
                    storage: request.storage,
                    node,
                    list: self.classes.list(request.storage, class),
                    thread_max: shape.thread_max,
                    bytes,
                    alignment,
                    refill: shape.thread_max > 0,
                    shared: cached_max > 0 || shape.kept > 0,
                    exposure: None,
                }
            }
            None => Place {
                storage: request.storage,
                node,
                list: ListId::NONE,
                thread_max: 0,
                // Cannot overflow: the request is at most a segment's length.
                bytes: request.bytes.next_multiple_of(DEFAULT_ALIGNMENT),
                alignment,
                refill: false,
                shared: false,
                exposure,
            },
        })
    }
}

impl Pool {
    pub(crate) fn check_storage(&self, storage: StorageMode) -> Result<()> {
        let modes = &self.device.properties().storage_modes;
        if modes.contains(&storage) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "the device has no such storage mode; see DeviceProperties::storage_modes",
        ))
    }
}

impl Place {
    pub(super) fn is_small(&self) -> bool {
        self.bytes <= SMALL_BYTES_MAX && self.alignment <= SMALL_BYTES_MAX / 16
    }

    pub(super) fn refill_blocks(&self) -> usize {
        if self.refill {
            (REFILL_BYTES / self.bytes).clamp(1, REFILL_BLOCKS_MAX)
        } else {
            1
        }
    }

    /// Blocks to take at once of those that other threads freed.
    pub(super) fn exchanged_blocks(&self, shelves_open: bool) -> usize {
        if self.refill && shelves_open && self.bytes <= SMALL_BYTES_MAX {
            self.refill_blocks().max(EXCHANGED_BLOCKS)
        } else {
            1
        }
    }

    /// The block.
    pub(super) fn want(&self, party: Party) -> Want {
        Want {
            queue: party.queue,
            contended: party.contended,
            live: party.live,
            recorded: party.recorded,
            ..self.want_of(self.list)
        }
    }

    /// A block of new memory that nothing else shares.
    pub(super) fn want_direct(&self) -> Want {
        self.want_of(ListId::DIRECT)
    }

    /// A block of that list, for nobody in particular.
    fn want_of(&self, list: ListId) -> Want {
        Want {
            bytes: self.bytes,
            alignment: self.alignment,
            list,
            thread_max: self.thread_max,
            queue: None,
            contended: false,
            live: 0,
            recorded: false,
        }
    }

    /// The span to cut small blocks from.
    pub(super) fn span(&self, small: &SmallArena, party: Party) -> Want {
        Want {
            bytes: small.next_span_bytes().max(self.bytes + self.alignment),
            alignment: DEFAULT_ALIGNMENT,
            list: ListId::NONE,
            thread_max: 0,
            queue: party.queue,
            contended: party.contended,
            live: party.live,
            recorded: party.recorded,
        }
    }
}
