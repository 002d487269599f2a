//! The end of a pool, once no handle and no buffer is left.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::{POOLS, Pool};
use crate::block::Point;
use crate::sync::{Arc, AtomicUsize, Ordering, fence};
use crate::thread_cache;
use crate::wait::{Wait, left_out};

/// Pools that have no handle any more and hold memory.
static CLOSING: AtomicUsize = AtomicUsize::new(0);
/// Requests past the caches, while there are such pools, of which one looks whether they can be closed.
const LOOK_EVERY: usize = 64;
static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// Looks after pools that somebody should have closed. A thread that was inside a free when the last handle
/// went may have put the last buffer into its cache, where whoever closed did not see it in time and nobody
/// looks any more. So each pool that is made or closed looks, and now and then a request past the caches, of
/// any pool. With no lock held.
pub(super) fn close_late_now() {
    if CLOSING.load(Ordering::Relaxed) == 0 {
        return;
    }
    let pools = POOLS.read();
    let closing = |pool: &&Arc<Pool>| pool.closing.load(Ordering::SeqCst);
    let late: Vec<Arc<Pool>> = pools.values().filter(closing).map(Arc::clone).collect();
    drop(pools);
    for pool in late {
        if pool.live_buffers() != 0 {
            continue;
        }
        pool.collect(true);
        // Whoever looks does not wait for work of others.
        if !pool.is_used_by_work(&pool.points_in_caches()) {
            pool.close_if_idle();
        }
    }
}

/// As [`close_late_now`], once in many calls.
#[inline]
pub(super) fn close_late() {
    let any = CLOSING.load(Ordering::Relaxed) != 0;
    if any
        && REQUESTS
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(LOOK_EVERY)
    {
        close_late_now();
    }
}

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

    /// Forgets queues that are of no use any more: all, once no memory waits for any.
    pub(crate) fn forget_queues(&self) {
        self.orders
            .forget_ended(self.given_back.load(Ordering::SeqCst));
    }

    /// Leaves the end to a thread of its own. Without one, whoever looks after late pools comes to it.
    fn close_elsewhere(&self) {
        if self.leaving.swap(true, Ordering::SeqCst) {
            return;
        }
        let Some(pool) = POOLS.read().get(&self.key.id).map(Arc::clone) else {
            return;
        };
        let close = std::thread::Builder::new()
            .name("weldpool-close".into())
            .spawn(move || {
                pool.leaving.store(false, Ordering::SeqCst);
                pool.close_if_idle();
            });
        if let Err(error) = close {
            self.leaving.store(false, Ordering::SeqCst);
            tracing::warn!(pool = %self.name, %error, "a pool is closed later");
        }
    }

    /// Called when the last handle goes.
    pub(crate) fn close(&self) {
        CLOSING.fetch_add(1, Ordering::Relaxed);
        self.closing.store(true, Ordering::SeqCst);
        self.pooling.store(false, Ordering::Relaxed);
        self.update_bypass();
        let _bytes = self.clear();
        self.close_if_idle();
        // Somebody who looks after late pools may be at it; when the last handle is gone, all is given back.
        if self.device.device().may_be_called() {
            drop(self.ending.lock());
            close_late_now();
        }
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
        if !self.device.device().may_be_called() {
            // A thread of the driver's, whose cache would keep the pool.
            thread_cache::forget(self);
            return self.close_elsewhere();
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
        let _ending = self.ending.lock();
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        if !self.is_used_by_work(&points) || left_out(Wait::Close) {
            for (arena, _) in self.arenas.iter() {
                arena.close();
            }
            self.exposed.close();
        } else {
            tracing::error!(
                pool = %self.name,
                bytes = self.deferred_bytes(),
                "work in flight never ended; its memory is kept for the life of the process"
            );
            for (arena, _) in self.arenas.iter() {
                arena.leak();
            }
            self.exposed.leak();
            self.deferred.leak();
        }
        self.close_means();
        // Not before: a queue that is forgotten counts as over, and whoever drops one would forget it.
        self.given_back.store(true, Ordering::SeqCst);
        self.forget_queues();
        thread_cache::forget(self);
        let removed = POOLS.write().remove(&self.key.id);
        self.key.retire();
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::Allocator;

    /// A thread that was inside its last free when the pool was closed, and then does nothing more, does not keep
    /// the pool's memory for as long as it lives.
    #[test]
    fn a_free_that_comes_too_late_keeps_no_memory() {
        let other = Allocator::host().unwrap();
        for by_requests in [false, true] {
            let allocator = Allocator::host().unwrap();
            let pool = Arc::clone(allocator.pool());
            let (allocated, is_allocated) = channel();
            let (close, is_closed) = channel::<()>();
            let (freed, is_freed) = channel();
            let (end, may_end) = channel::<()>();
            let handle = allocator.clone();
            let idle = thread::spawn(move || {
                // The first one opens the way for the second.
                drop(handle.allocate(1000).unwrap());
                let last = handle.allocate(1000).unwrap();
                drop(handle);
                allocated.send(()).unwrap();
                is_closed.recv().unwrap();
                drop(last);
                freed.send(()).unwrap();
                may_end.recv().unwrap();
            });
            is_allocated.recv().unwrap();
            drop(allocator);
            assert!(pool.reserved_bytes() > 0 && pool.live_buffers() == 1);
            // As if the thread had seen that its cache is open just before.
            for shard in pool.shards.lock().iter() {
                shard.set_bypass(false);
            }
            close.send(()).unwrap();
            is_freed.recv().unwrap();
            let mut held = Vec::new();
            if by_requests {
                for _ in 0..2 * LOOK_EVERY {
                    held.push(other.allocate(1 << 20).unwrap());
                }
            } else {
                drop(Allocator::host().unwrap());
            }
            // Somebody else may be about to close it.
            let start = Instant::now();
            while pool.reserved_bytes() > 0 {
                assert!(start.elapsed().as_secs() < 10, "by requests: {by_requests}");
                thread::yield_now();
            }
            end.send(()).unwrap();
            idle.join().unwrap();
        }
    }
}
