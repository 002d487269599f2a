//! Which node's memory serves a thread (NUMA), and how blocks come home to theirs.
//!
//! A request that a thread's cache does not serve is served from the memory of the thread's node. A free
//! that finds room in the thread's cache looks at no node, so a cache may hold memory of another node:
//! after memory ran out on its own, when others free here what they allocated elsewhere, and when the
//! thread has moved. Such blocks leave the cache as soon as it is noticed, which is when the thread is
//! found on another node, and when an allocation [past the warm path](Pool::take_near) would be served by one.

#![forbid(unsafe_code)]

use super::Pool;
use super::place::Place;
use crate::block::{Block, CacheKey, Node};
use crate::device::StorageMode;
use crate::error::{ErrorKind, Result};
use crate::sync::Ordering;
use crate::thread_cache;

/// Bytes between two allocations of a list that come past the warm path where none is sampled, and most that
/// one allocation counts for.
const LOOK_BYTES: usize = 8 << 20;
const LOOK_COUNTED_BYTES_MAX: usize = LOOK_BYTES / 64;

impl Pool {
    /// The node whose memory is to serve this thread. If the thread came from another, its caches leave
    /// that node's memory behind.
    pub(super) fn here(&self, storage: StorageMode) -> Node {
        let (node, moved) = self.arenas.here(storage);
        if moved {
            self.send_away(node);
        }
        node
    }

    /// Serves a request of a node from that node's memory or, when that is out, from another's, nearest
    /// first.
    pub(super) fn near<T>(
        &self,
        place: Place,
        mut serve: impl FnMut(Place) -> Result<T>,
    ) -> Result<T> {
        let first = match serve(place) {
            Err(error) if error.kind() == ErrorKind::OutOfMemory => error,
            served => return served,
        };
        for place in self.elsewhere(place) {
            match serve(place) {
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {}
                served => return served,
            }
        }
        Err(first)
    }

    /// The same request on the other nodes, nearest first, for one block alone.
    pub(super) fn elsewhere(&self, place: Place) -> impl Iterator<Item = Place> {
        let nodes = self.arenas.nearest(place.storage, place.node).skip(1);
        nodes.map(move |node| Place {
            node,
            refill: false,
            ..place
        })
    }

    /// A block from this thread's cache, not counted. One of another node is not served: it goes home, and
    /// so does what else of other nodes the thread's caches hold.
    pub(super) fn take_near(&self, key: CacheKey, place: Place) -> Option<Block> {
        let block = thread_cache::take(key, place.list)?;
        if block.node() == place.node {
            return Some(block);
        }
        self.send_home(block);
        self.send_away(place.node);
        thread_cache::take(key, place.list)
    }

    /// Allocations of a list before the next that comes past the warm path: a sample, or, where none are
    /// taken, one that somebody has to see for the nodes' sake.
    pub(super) fn draw(&self, block_bytes: usize) -> u64 {
        let sampler = &self.observer.sampler;
        if sampler.is_off() && self.arenas.node_count() > 1 {
            return (LOOK_BYTES / block_bytes.clamp(1, LOOK_COUNTED_BYTES_MAX)) as u64;
        }
        sampler.draw(block_bytes)
    }

    /// Whether a freed block is to go past the cache of this thread, because it is of another node.
    pub(super) fn is_foreign(&self, block: &Block) -> bool {
        self.arenas.are_spread(block.storage()) && block.node() != self.here(block.storage())
    }

    /// Empties this thread's caches of what is not of node `here`.
    fn send_away(&self, here: Node) {
        let foreign =
            |block: &Block| self.arenas.are_spread(block.storage()) && block.node() != here;
        for block in thread_cache::take_out_blocks(self, foreign) {
            self.send_home(block);
        }
    }

    /// Gives a block to where threads of its own node find it.
    pub(super) fn send_home(&self, block: Block) {
        self.arenas.count_returned(&block);
        let list = block.list();
        let central = list.is_some()
            && block.point().is_none()
            && self.pooling.load(Ordering::Relaxed)
            && self.may_share(list);
        let left = if central {
            self.classes.put(list, vec![block]).pop()
        } else {
            Some(block)
        };
        if let Some(block) = left {
            self.release(block);
        }
    }
}
