//! Serving a request from memory that is held already, and obtaining memory ahead of requests.

#![forbid(unsafe_code)]

use super::Pool;
use super::place::{Party, Place};
use crate::arena::FreeBytes;
use crate::block::{Block, CacheKey, ListId};
use crate::device::StorageMode;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{DEFAULT_ALIGNMENT, Request};
use crate::sync::{Arc, Ordering};

impl Pool {
    /// A block past this thread's cache from memory that is free, or idle in caches, on the request's node or else
    /// another. No memory is obtained, mapped or returned, and no work is waited for.
    pub(super) fn obtain_idle(
        self: &Arc<Self>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
    ) -> Option<Block> {
        self.note_domain(queue);
        if queue.is_none()
            && place.shared
            && let Some(block) = self.classes.take(place.list, place.node, 1).pop()
        {
            return Some(block);
        }
        let party = Party {
            key,
            queue,
            contended: self.is_contended(),
            live: 0,
            recorded: false,
        };
        let cut = || {
            // Of blocks cut along, some might find no room, and go back to the device.
            let here = Place {
                refill: false,
                ..place
            };
            let mut places = std::iter::once(here).chain(self.elsewhere(here));
            places.find_map(|place| {
                let (arena, _) = self.arenas.at(place.storage, place.node);
                self.cut_held(place, party, |want| arena.allocate_as_is(want))
            })
        };
        cut()
            .or_else(|| self.collect_idle().then(&cut)?)
            .or_else(|| {
                let drained = self.drain_caches(false) > 0;
                // Of what queues freed some may wait for a signal.
                drained.then(|| self.collect_idle());
                drained.then(&cut)?
            })
    }

    /// As [`collect`](Self::collect), and nothing goes back to the device.
    fn collect_idle(&self) -> bool {
        // What others reach goes back as a segment of its own, with the next `collect`.
        let over = self
            .deferred
            .collect(|block| block.list() != ListId::EXPOSED);
        let any = !over.is_empty();
        self.give_back(over);
        any | self.collect_pending(true)
    }

    /// Bytes of free memory in one piece that surely hold what a request is cut from.
    pub(crate) fn room_for(&self, request: &Request<'_>) -> Result<usize> {
        let place = self.place(request)?;
        let party = Party {
            key: self.key,
            queue: None,
            contended: false,
            live: 0,
            recorded: false,
        };
        let (_, small) = self.arenas.at(place.storage, place.node);
        let want = match place.is_small() {
            true => place.span(small, party),
            false => place.want(party),
        };
        let bytes = match want.alignment > DEFAULT_ALIGNMENT {
            true => want.bytes.saturating_add(want.alignment),
            false => want.bytes,
        };
        Ok(bytes)
    }

    /// Memory of a storage mode that is free for large blocks: all of it, and the largest range.
    pub(crate) fn free_of(&self, storage: StorageMode) -> FreeBytes {
        let arenas = self.arenas.of_storage(storage);
        arenas.fold(FreeBytes::default(), |sum, (arena, _)| {
            let free = arena.free();
            FreeBytes {
                bytes: sum.bytes + free.bytes,
                largest: sum.largest.max(free.largest),
                pending: sum.pending + free.pending,
            }
        })
    }

    /// Obtains at least `bytes` bytes and leaves them idle, on this thread's node or, when that is out, another.
    pub(crate) fn obtain_ahead(&self, bytes: usize, storage: StorageMode) -> Result<usize> {
        if bytes == 0 {
            return Ok(0);
        }
        self.check_storage(storage)?;
        if !self.pooling.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "nothing can be kept idle while pooling is off; see Allocator::set_pooling",
            ));
        }
        let (here, _) = self.arenas.here(storage);
        let mut first = None;
        for node in self.arenas.nearest(storage, here) {
            let (arena, _) = self.arenas.at(storage, node);
            match arena.extend(bytes) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                    first.get_or_insert(error);
                }
                extended => return extended,
            }
        }
        Err(first.unwrap_or_else(|| Error::new(ErrorKind::OutOfMemory, "no node has memory")))
    }
}
