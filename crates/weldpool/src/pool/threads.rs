//! The threads' shards of a pool, and what they may keep.

#![forbid(unsafe_code)]

use super::Pool;
use crate::arena::SMALL_BYTES_MAX;
use crate::block::{CacheKey, ListId};
use crate::high_water::Headroom;
use crate::sync::{Arc, Ordering};
use crate::thread_cache::Shard;

impl Pool {
    /// A shard for a thread's cache.
    pub(crate) fn new_shard(&self, key: CacheKey) -> Arc<Shard> {
        let shard = Arc::new(Shard::new(
            key,
            self.classes.list_count(),
            &self.unused_bins,
        ));
        // Under the lock, so that a change meanwhile reaches the new shard too.
        let mut shards = self.shards.lock();
        shard.set_bypass(self.bypass());
        shards.push(Arc::clone(&shard));
        self.share_out(&shards);
        shard
    }

    /// Has `count` count for threads that are ending.
    pub(crate) fn count_shared(&self, count: impl Fn(&Shard)) {
        let _alone = self.shards.lock();
        count(&self.shared);
    }

    /// Counts requested bytes that are live from now on, for the thread that owns the shard; for one that is
    /// ending under the lock of the list.
    pub(crate) fn count_live(&self, shard: &Shard, requested: u64) {
        let water = &self.live_water;
        let counted = self.change_headroom(shard, |own| {
            let taken = water.try_take(own, requested);
            if !taken && self.is_shared(shard) {
                water.take(own, requested);
                return true;
            }
            taken
        });
        if !counted {
            self.claim_headroom(shard, requested);
            self.change_headroom(shard, |own| water.take(own, requested));
        }
    }

    /// Counts requested bytes that are live no longer; what headroom the thread has no use for is anybody's.
    pub(crate) fn count_dead(&self, shard: &Shard, requested: u64) {
        self.change_headroom(shard, |own| {
            own.put(requested);
            self.live_water.settle(own, shard.bytes());
        });
    }

    /// Takes as much of the peak's headroom as blocks that lie with a thread need.
    pub(crate) fn borrow_headroom(&self, shard: &Shard, bytes: u64) {
        self.change_headroom(shard, |own| self.live_water.borrow(own, bytes));
    }

    fn is_shared(&self, shard: &Shard) -> bool {
        std::ptr::eq(shard, &raw const self.shared)
    }

    /// Changes a thread's part of the headroom, which is returned first if others claimed it.
    fn change_headroom<T>(&self, shard: &Shard, change: impl Fn(&Headroom) -> T) -> T {
        loop {
            if let Some(changed) = shard.change_headroom(&change) {
                return changed;
            }
            // Under the lock, as whoever claims, adds up or switches the warm path.
            let _alone = self.shards.lock();
            shard.return_claim(&self.live_water);
            shard.set_bypass(self.bypass());
        }
    }

    /// Has other threads give up headroom that they have too much of, until so much is anybody's.
    fn claim_headroom(&self, shard: &Shard, wanted: u64) {
        let shards = self.shards.lock();
        for other in shards.iter() {
            if self.live_water.has_spare(wanted) {
                break;
            }
            if !std::ptr::eq(&raw const **other, shard) {
                other.claim_headroom(&self.live_water);
            }
        }
    }

    /// The usual length of requests of a list, of which this is one.
    pub(crate) fn usual_bytes(&self, list: ListId, requested: u64) -> u32 {
        self.classes.usual_bytes(list, requested)
    }

    /// Takes note of what one thread has live of a list, more than it said before; wraps.
    pub(crate) fn note_live(&self, list: ListId, more: u64) {
        self.classes.note_live(list, more);
    }

    /// Divides what may lie idle among the threads' caches.
    pub(super) fn share_out(&self, shards: &[Arc<Shard>]) {
        let all = self.cache_limit.bytes();
        let share = usize::try_from(all / shards.len().max(1) as u64).unwrap_or(usize::MAX);
        let little = self.small_is_little(shards);
        self.small_kept.store(little, Ordering::Relaxed);
        let (share, block) = if self.shelves_open() {
            (share, usize::MAX)
        } else {
            // Small blocks keep no more than their spans apart.
            let kept = if little {
                self.shelf_rules.small_bytes
            } else {
                0
            };
            (share.min(kept), SMALL_BYTES_MAX)
        };
        for shard in shards {
            shard.set_lent_max(share, block);
        }
    }

    /// Switches pooling; returns what it was.
    pub(crate) fn set_pooling(&self, on: bool) -> bool {
        let before = self.pooling.swap(on, Ordering::Relaxed);
        self.update_bypass();
        if before && !on {
            let _bytes = self.clear();
        }
        before
    }

    /// Whether threads must go past their caches.
    pub(super) fn bypass(&self) -> bool {
        !self.is_keeping() || self.observer.recording()
    }

    /// Whether freed blocks are kept for reuse.
    pub(super) fn is_keeping(&self) -> bool {
        self.pooling.load(Ordering::Relaxed) && !self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn update_bypass(&self) {
        let shards = self.shards.lock();
        let on = self.bypass();
        for shard in shards.iter() {
            shard.set_bypass(on);
        }
    }

    /// Sets the limit on what is held; returns what it was. Idle memory beyond it goes back.
    pub(crate) fn set_reserved_bytes_max(&self, bytes: Option<u64>) -> Option<u64> {
        let before = self.reserve.set_limit(bytes);
        let over = |limit| self.reserve.committed().saturating_sub(limit);
        let over = bytes.map_or(0, over);
        let over = over - self.release_parked(over);
        if over > 0 {
            self.collect(true);
            self.drain_caches(true);
            self.trim(usize::try_from(over).unwrap_or(usize::MAX));
        }
        before
    }

    /// Sets the limit on idle memory; returns what it was.
    pub(crate) fn set_cached_bytes_max(&self, bytes: u64) -> u64 {
        let before = self.cache_limit.set(bytes);
        self.share_out(&self.shards.lock());
        self.shed_idle();
        before
    }
}
