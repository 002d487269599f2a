//! Taking blocks back: from buffers, and from threads that end.

#![forbid(unsafe_code)]

use super::Pool;
use crate::arena::SMALL_BYTES_MAX;
use crate::block::{ArenaKind, Block, CacheKey, ListId};
use crate::in_flight::Use;
use crate::sync::{Arc, Ordering};
use crate::thread_cache::{self, Shard};

/// Where segments are exchanged, a freed block of this many bytes is worth a signal of its own.
const SIGNAL_BYTES: usize = 1 << 20;

impl Pool {
    /// Takes a block back from a buffer; `uses` are those that may not be over.
    pub(crate) fn free(self: &Arc<Self>, block: Block, uses: Vec<Use>) {
        block.take_back();
        if !uses.is_empty() {
            let moving = self.moving();
            let last = uses.last().map(|last| last.fence.queue().number);
            self.observe_free(&block, last.map(|queue| u64::from(queue) + 1));
            thread_cache::count_free(self, self.key, &block);
            // A segment of its own waits for whatever there is to wait for.
            let exposed = block.list() == ListId::EXPOSED;
            match self.orders.single_point(self.key, &uses) {
                Some(point) if !exposed => {
                    block.set_point(Some(point));
                    self.release(block);
                }
                _ => self.deferred.put(block, uses),
            }
            drop(moving);
            self.close_if_idle();
            return;
        }
        thread_cache::push(self.key, block);
    }

    /// Takes a block back for which a cache had no room.
    pub(super) fn free_cold(self: &Arc<Self>, key: CacheKey, block: Block) {
        // Work may still use it.
        let moving = block.point().map(|_| self.moving());
        self.observe_free(&block, None);
        thread_cache::count_free(self, key, &block);
        let pooled = block.list().is_some() && self.is_keeping();
        if pooled && self.is_foreign(&block) {
            self.send_home(block);
        } else if !pooled || !self.keeps(block.bytes()) {
            self.release(block);
        } else if let Some(block) = thread_cache::put(key, block) {
            // A full bin got room if it may; else it has to make some.
            self.make_room(key, block);
        }
        drop(moving);
        self.close_if_idle();
    }

    /// Keeps a block in the thread's cache in place of others.
    fn make_room(self: &Arc<Self>, key: CacheKey, block: Block) {
        let list = block.list();
        let surplus = thread_cache::take_surplus(key, list);
        let (mut batch, others): (Vec<_>, Vec<_>) =
            surplus.into_iter().partition(|block| block.list() == list);
        for block in others {
            self.release(block);
        }
        batch.extend(thread_cache::put(key, block));
        let ordered = batch.iter().any(|block| block.point().is_some());
        let rest = if ordered || !self.may_share(list) {
            batch
        } else {
            self.classes.put(list, batch)
        };
        for block in rest {
            self.release(block);
        }
    }

    /// Whether idle blocks of a list may lie with their class: within the limit on idle memory, which for small
    /// ones is one that somebody set; and large ones not while they keep free memory apart.
    pub(super) fn may_share(&self, list: ListId) -> bool {
        if self.classes.cached_max(list) == 0 {
            return false;
        }
        let small = self.classes.block_bytes(list.index()) <= SMALL_BYTES_MAX;
        if small && !self.cache_limit.is_meant() {
            return true;
        }
        (small || self.shelves_open()) && self.idles_within(self.cache_limit.bytes())
    }

    /// Gives a block back to its arena, and memory beyond the limit on idle memory back to the device.
    pub(super) fn release(&self, block: Block) {
        if self.closed.load(Ordering::Relaxed) {
            block.retire();
            return;
        }
        if block.list() == ListId::EXPOSED {
            self.release_exposed(block);
            return;
        }
        let contended = self.is_contended();
        let (arena, small) = self.arenas.of(&block);
        let point = self.orders.pending_point(&block);
        if contended
            && let Some(point) = point
            && let Some(queue) = self.orders.get(point.queue)
            && queue.signalled() < point.value
        {
            queue.note_freed(block.bytes());
        }
        if let Some(point) = point
            && block.bytes() >= SIGNAL_BYTES
            && arena.exchanges()
        {
            // Whoever exchanges its segment waits the shorter.
            self.orders.cover(point);
        }
        self.classes.count_returned(block.list(), block.bytes());
        self.note_returned(&block);
        let direct = block.list() == ListId::DIRECT;
        let freed = match block.arena() {
            ArenaKind::Small => match small.release(block, point, contended) {
                Some(span) => arena.release(span, None, contended),
                None => None,
            },
            ArenaKind::Large => arena.release(block, point, contended),
        };
        let Some(freed) = freed else {
            return;
        };
        if direct || !self.pooling.load(Ordering::Relaxed) {
            arena.trim_range(freed);
            return;
        }
        let most = self.cache_limit.bytes();
        if self.idle_bytes_at_most() <= most {
            return;
        }
        let idle = self.idle_bytes();
        if idle > most && freed.bytes as u64 > (idle - most) / 8 {
            let excess = usize::try_from(idle - most).unwrap_or(usize::MAX);
            // Not every further free is to call the driver.
            arena.trim_ranges(excess, &|point| self.orders.passed(point));
        }
    }

    /// What a thread leaves behind when it ends. No driver is called.
    pub(crate) fn take_back_from_thread(&self, blocks: Vec<Block>, shard: &Arc<Shard>) {
        {
            let mut shards = self.shards.lock();
            shards.retain(|one| !Arc::ptr_eq(one, shard));
            self.shared.absorb(&self.live_water, shard);
            self.share_out(&shards);
        }
        self.give_back(blocks);
    }

    /// Gives blocks back to their arenas without calling a driver.
    pub(super) fn give_back(&self, blocks: Vec<Block>) {
        let closed = self.closed.load(Ordering::Relaxed);
        let contended = self.is_contended();
        for block in blocks {
            if closed {
                block.retire();
                continue;
            }
            let (arena, small) = self.arenas.of(&block);
            let point = self.orders.pending_point(&block);
            self.classes.count_returned(block.list(), block.bytes());
            match block.arena() {
                ArenaKind::Small => {
                    if let Some(span) = small.release(block, point, contended) {
                        arena.release(span, None, contended);
                    }
                }
                ArenaKind::Large => {
                    arena.release(block, point, contended);
                }
            }
        }
    }
}
