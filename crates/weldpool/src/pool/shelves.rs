//! Whether large blocks may lie in threads' caches; idle there, they keep free memory apart.

#![forbid(unsafe_code)]

use super::Pool;
use crate::sync::Ordering;
use crate::thread_cache::TallySum;

/// Requests past the caches between two counts of all that was served.
const OPERATIONS_EVERY: u64 = 1024;
/// Times that caches may have to be emptied before that is taken for a habit of the workload.
const SHORTAGES_FREE: u64 = 8;

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
        let reopen_at = self.obtained.load(Ordering::Relaxed) + self.shelves_closed_for * shortages;
        if self.reopen_at.swap(reopen_at, Ordering::Relaxed) == 0 {
            self.share_out(&self.shards.lock());
        }
    }

    /// Whether large blocks may lie in threads' caches.
    pub(super) fn shelves_open(&self) -> bool {
        self.reopen_at.load(Ordering::Relaxed) == 0
    }

    pub(super) fn reopen_shelves(&self, obtained: u64) {
        let reopen_at = self.reopen_at.load(Ordering::Relaxed);
        if reopen_at != 0 && obtained >= reopen_at {
            self.reopen_at.store(0, Ordering::Relaxed);
            self.share_out(&self.shards.lock());
        }
    }
}
