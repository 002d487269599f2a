//! The end of a pool, once no handle and no buffer is left.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::{POOLS, Pool};
use crate::block::Point;
use crate::sync::{AtomicUsize, Ordering, fence};
use crate::thread_cache;
use crate::wait::{Wait, left_out};

/// A thread has blocks in hand that are counted as free; see [`Pool::moving`].
#[must_use]
pub(crate) struct Moving<'a>(&'a AtomicUsize);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Pool {
    /// Keeps the pool from being closed between the moment when blocks are counted as free and that when
    /// they lie where their points are seen. Whoever drops it calls [`close_if_idle`](Self::close_if_idle).
    pub(crate) fn moving(&self) -> Moving<'_> {
        self.moving.fetch_add(1, Ordering::SeqCst);
        // Whoever sees what is counted from now on sees that it moves.
        fence(Ordering::Release);
        Moving(&self.moving)
    }

    /// Whether blocks lie somewhere that work in flight may still use.
    fn is_used_by_work(&self, points: &[Point]) -> bool {
        let passed = |point: &Point| self.orders.passed(*point);
        let kept = !points.iter().all(passed) && !left_out(Wait::CloseKept);
        self.deferred_bytes() > 0 || kept
    }

    /// The ends of the queues in whose order threads freed what they keep.
    fn points_in_caches(&self) -> Vec<Point> {
        let shards = self.shards.lock();
        let keeping = shards.iter().filter(|shard| shard.has_blocks());
        keeping
            .filter_map(|shard| self.orders.end_of(shard.key()))
            .collect()
    }

    /// Called when the last handle goes.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.pooling.store(false, Ordering::Relaxed);
        self.update_bypass();
        let _bytes = self.clear();
        self.close_if_idle();
    }

    /// Gives everything back once no handle and no buffer is left.
    pub(crate) fn close_if_idle(&self) {
        if !self.closing.load(Ordering::SeqCst)
            || self.closed.load(Ordering::SeqCst)
            || self.live_buffers() != 0
        {
            return;
        }
        fence(Ordering::Acquire);
        if self.moving.load(Ordering::SeqCst) != 0 {
            return;
        }
        let points = self.points_in_caches();
        if self.is_used_by_work(&points) {
            // The memory must outlive that work.
            let start = Instant::now();
            self.wait(self.wait_max);
            for point in &points {
                let left = self.wait_max.saturating_sub(start.elapsed());
                let _late = self.orders.wait(*point, left);
            }
        }
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let passed = |point| self.orders.passed(point);
        if !self.is_used_by_work(&points) || left_out(Wait::Close) {
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
