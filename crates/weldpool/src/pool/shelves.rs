//! Whether large blocks may lie in threads' caches; idle there, they keep free memory apart.

#![forbid(unsafe_code)]

use super::Pool;
use crate::arena::{Arena, SMALL_BYTES_MAX};
use crate::sync::{Arc, Ordering};
use crate::thread_cache::{OWN_BLOCK_BYTES_MAX, OWN_BYTES_MAX, Shard, TallySum};

/// Requests past the caches between two counts of all that was served.
const OPERATIONS_EVERY: u64 = 1024;
/// Times that caches may have to be emptied before that is taken for a habit of the workload.
const SHORTAGES_FREE: u64 = 8;

/// What is live is this many times what is little beside it.
const LITTLE: u64 = 256;

/// Whether so many bytes are little beside what is live.
pub(super) fn is_little(bytes: u64, live: u64) -> bool {
    bytes.saturating_mul(LITTLE) <= live
}

/// What a shortage, for which caches had to be emptied, does to them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShelfRules {
    /// Requests past the caches, for each shortage there was, during which large blocks are not cached.
    closed_for: u64,
    /// Most shortages that are counted for this.
    shortages_max: u64,
    /// Bytes of small blocks that a thread may keep meanwhile, beyond those that are its own, where that is
    /// [little](Pool::small_is_little).
    pub(super) small_bytes: usize,
}

impl ShelfRules {
    /// Where holes are remapped page by page, idle blocks are soon free memory of any shape; elsewhere each of
    /// them, and the span of a small one, breaks up what could be exchanged.
    pub(super) const fn new(divisible: bool) -> Self {
        if divisible {
            Self {
                closed_for: 256,
                shortages_max: 1,
                small_bytes: 2 << 20,
            }
        } else {
            Self {
                closed_for: 1 << 16,
                shortages_max: u64::MAX,
                small_bytes: 0,
            }
        }
    }
}

impl Pool {
    /// From time to time, tells the arenas how much was served, for which they may spend driver time.
    /// Returns the number of this request.
    pub(super) fn note_operations(&self) -> u64 {
        let obtained = self.obtained.fetch_add(1, Ordering::Relaxed);
        self.reopen_shelves(obtained);
        if obtained.is_multiple_of(OPERATIONS_EVERY) {
            let served = |list: &TallySum| list.allocations.wrapping_add(list.frees());
            self.reserve.note_operations(self.counted().sum(served));
        }
        obtained
    }

    /// Large blocks go past the threads' shelves for a while: idle there, they keep the free memory
    /// between them apart. The more often that cost something, the longer.
    /// A workload that only changes its sizes is short a few times.
    pub(super) fn close_shelves(&self) {
        let shortages = self.shortages.fetch_add(1, Ordering::Relaxed);
        if shortages < SHORTAGES_FREE {
            return;
        }
        self.close_shelves_after(shortages);
    }

    /// As [`close_shelves`](Self::close_shelves), where segments are exchanged, if there is free memory
    /// enough for a request but in no one piece: empty segments are spared as long.
    pub(super) fn note_fragmented(&self, arena: &Arena, bytes: usize) {
        let free = arena.free();
        if !arena.exchanges() || free.bytes + free.pending < bytes {
            return;
        }
        let shortages = self.shortages.fetch_add(1, Ordering::Relaxed) + 1;
        self.close_shelves_after(shortages);
    }

    fn close_shelves_after(&self, shortages: u64) {
        let ShelfRules {
            closed_for,
            shortages_max,
            ..
        } = self.shelf_rules;
        let requests = closed_for.saturating_mul(shortages.min(shortages_max));
        let reopen_at = self.obtained.load(Ordering::Relaxed) + requests;
        if self.reopen_at.swap(reopen_at, Ordering::Relaxed) == 0 {
            self.reserve.set_sparing(true);
            self.share_out(&self.shards.lock());
        }
    }

    /// Whether large blocks may lie in threads' caches.
    pub(super) fn shelves_open(&self) -> bool {
        self.reopen_at.load(Ordering::Relaxed) == 0
    }

    /// Whether blocks of so many bytes may lie in threads' caches.
    pub(super) fn keeps(&self, bytes: usize) -> bool {
        self.shelves_open()
            || bytes <= OWN_BLOCK_BYTES_MAX
            || bytes <= SMALL_BYTES_MAX && self.keeps_small()
    }

    /// Whether small blocks lie in caches whatever large ones do.
    pub(super) fn keeps_small(&self) -> bool {
        self.small_kept.load(Ordering::Relaxed)
    }

    /// Whether what threads may keep of small blocks is little beside what is live.
    pub(super) fn small_is_little(&self, shards: &[Arc<Shard>]) -> bool {
        let each = (OWN_BYTES_MAX + self.shelf_rules.small_bytes) as u64;
        let all = each.saturating_mul(shards.len() as u64);
        self.shelf_rules.small_bytes > 0 && is_little(all, self.live_bytes_in(shards))
    }

    pub(super) fn reopen_shelves(&self, obtained: u64) {
        let reopen_at = self.reopen_at.load(Ordering::Relaxed);
        if reopen_at != 0 && obtained >= reopen_at {
            self.reopen_at.store(0, Ordering::Relaxed);
            self.reserve.set_sparing(false);
            self.share_out(&self.shards.lock());
        }
    }
}
