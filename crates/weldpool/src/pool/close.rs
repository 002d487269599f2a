//! The end of a pool, once no handle and no buffer is left.

#![forbid(unsafe_code)]

use super::{POOLS, Pool};
use crate::sync::Ordering;
use crate::thread_cache;
use crate::wait::{Wait, left_out};

impl Pool {
    /// Called when the last handle goes.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.pooling.store(false, Ordering::Relaxed);
        self.update_bypass();
        let _bytes = self.clear();
        self.close_if_idle();
    }

    /// Gives everything back once no handle and no buffer is left.
    pub(super) fn close_if_idle(&self) {
        if !self.closing.load(Ordering::SeqCst)
            || self.closed.load(Ordering::SeqCst)
            || self.live_buffers() != 0
        {
            return;
        }
        if self.deferred_bytes() > 0 {
            // Blocks that work in flight still uses: their memory must outlive that work.
            self.wait(self.wait_max);
        }
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let passed = |point| self.orders.passed(point);
        if self.deferred_bytes() == 0 || left_out(Wait::Close) {
            for (arena, _) in self.arenas.iter() {
                arena.close(&passed);
            }
        } else {
            tracing::error!(
                pool = %self.name,
                bytes = self.deferred_bytes(),
                "work in flight never ended; its memory is kept for the life of the process"
            );
            for (arena, _) in self.arenas.iter() {
                arena.leak();
            }
            self.deferred.leak();
        }
        thread_cache::forget(self);
        let removed = POOLS
            .write()
            .as_mut()
            .and_then(|pools| pools.remove(&self.key.id));
        self.key.retire();
        drop(removed);
    }
}
