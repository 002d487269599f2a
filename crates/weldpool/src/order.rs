//! Reuse in the order of the device's work: memory that was freed while submitted work may still use
//! it.
//!
//! Memory freed in the order of one queue carries a [`Point`] of it. The same queue may have it again
//! at once, because its work runs in order; everybody else only after the queue has passed the point. A
//! point need not be signalled when the memory is freed: it is when somebody else wants the memory.
//! Memory that work on several queues uses waits here until all of it is over.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::block::{Block, CacheKey, Point};
use crate::in_flight::Use;
use crate::kept;
use crate::queue::{Fence, QueueCore, note_refused_signal};
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, RwLock};
use crate::wait::{Wait, left_out};

/// The queues of one pool, by number. Numbers are not used again, so a point of a queue that is no
/// longer here has passed.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    queues: RwLock<HashMap<u32, Arc<QueueCore>>>,
    next: AtomicU32,
    /// There was a queue whose stream others know.
    adopted: AtomicBool,
}

impl Orders {
    /// Makes a queue known; `make` gets its number.
    pub(crate) fn add(&self, make: impl FnOnce(u32) -> QueueCore) -> Arc<QueueCore> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(make(number));
        if queue.is_adopted() {
            self.adopted.store(true, Ordering::Relaxed);
        }
        self.queues.write().insert(number, Arc::clone(&queue));
        queue
    }

    /// Whether there was ever a queue over a stream that others know, and may have record.
    pub(crate) fn any_adopted(&self) -> bool {
        self.adopted.load(Ordering::Relaxed)
    }

    /// Whether there was never a queue.
    pub(crate) fn is_empty(&self) -> bool {
        self.next.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<QueueCore>> {
        self.queues.read().get(&number).map(Arc::clone)
    }

    /// The present end of the queue whose caches have a key, if it is one that work may still run on.
    pub(crate) fn end_of(&self, key: CacheKey) -> Option<Point> {
        let queues = self.queues.read();
        let mut queues = queues.values();
        queues.find_map(|queue| queue.end_for(key))
    }

    /// Forgets queues whose owners are gone and whose work is over, or which no memory will wait for any more, as in a
    /// pool that is closed: a thread of such a queue may be what still keeps the pool.
    pub(crate) fn forget_ended(&self, closed: bool) {
        let abandoned: Vec<_> = {
            let queues = self.queues.read();
            let abandoned = queues.values().filter(|queue| queue.is_abandoned());
            abandoned.map(Arc::clone).collect()
        };
        // The driver is asked, and ends them, while nobody waits for the list.
        let ended = abandoned.iter().filter(|queue| queue.has_ended() || closed);
        let ended: Vec<u32> = ended.map(|queue| queue.number()).collect();
        if !ended.is_empty() {
            let mut queues = self.queues.write();
            queues.retain(|number, _| !ended.contains(number));
        }
    }

    /// Whether the work before a point is over. Work on a queue that is lost or gone will not run any
    /// more, so it counts as over.
    pub(crate) fn passed(&self, point: Point) -> bool {
        self.completed(point.queue) >= point.value
    }

    /// The point that a block given back has to wait for.
    pub(crate) fn pending_point(&self, block: &Block) -> Option<Point> {
        let point = block.point()?;
        (!self.passed(point) && !left_out(Wait::Free)).then_some(point)
    }

    /// The greatest value that a queue has passed.
    pub(crate) fn completed(&self, queue: u32) -> u64 {
        self.get(queue).map_or(u64::MAX, |queue| queue.completed())
    }

    /// Sees to it that a signal covers the point. If the driver refuses, the next one will.
    pub(crate) fn cover(&self, point: Point) {
        if let Some(queue) = self.get(point.queue)
            && let Err(error) = queue.cover(point.value)
        {
            note_refused_signal(&error);
        }
    }

    /// Waits until the work before a point is over, up to `timeout`; true if it is.
    pub(crate) fn wait(&self, point: Point, timeout: Duration) -> bool {
        self.cover(point);
        // A fence that fails or is late leaves its memory where it is.
        self.get(point.queue).is_none_or(|queue| {
            let waited = queue.timeline().wait(point.value, Some(timeout));
            waited.unwrap_or(false)
        })
    }

    /// The point that all of these uses are over at, if they are on one queue of the pool.
    pub(crate) fn single_point(&self, pool: CacheKey, uses: &[Use]) -> Option<Point> {
        let first = uses.first()?.fence.queue();
        let one = uses.iter().all(|used| used.fence.queue() == first);
        (one && first.pool == pool.id).then(|| Point {
            queue: first.number,
            value: uses
                .iter()
                .map(|used| used.fence.value())
                .max()
                .unwrap_or(0),
        })
    }
}

/// Blocks that wait for work on several queues.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    waiting: Mutex<Vec<Waiting>>,
    count: AtomicUsize,
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    block: Block,
    uses: Vec<Use>,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.uses.iter().all(Use::is_over) || left_out(Wait::SeveralQueues)
    }
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the blocks whose work is over; O(blocks that wait).
    pub(crate) fn over_bytes(&self) -> u64 {
        let waiting = self.waiting.lock();
        let over = waiting.iter().filter(|one| one.is_over());
        over.map(|one| one.block.bytes() as u64).sum()
    }

    pub(crate) fn put(&self, block: Block, uses: Vec<Use>) {
        self.bytes
            .fetch_add(block.bytes() as u64, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        waiting.push(Waiting { block, uses });
        self.count.store(waiting.len(), Ordering::Release);
    }

    /// Takes the blocks whose work is over, of those that are wanted.
    pub(crate) fn collect(&self, wanted: impl Fn(&Block) -> bool) -> Vec<Block> {
        let mut waiting = self.waiting.lock();
        let mut over = Vec::new();
        let mut index = 0;
        while index < waiting.len() {
            if wanted(&waiting[index].block) && waiting[index].is_over() {
                over.push(waiting.swap_remove(index).block);
            } else {
                index += 1;
            }
        }
        self.count.store(waiting.len(), Ordering::Release);
        let bytes: u64 = over.iter().map(|block| block.bytes() as u64).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        over
    }

    /// The last fence of each queue that blocks wait for now.
    fn fences(&self) -> Vec<Fence> {
        let mut last: Vec<Fence> = Vec::new();
        let waiting = self.waiting.lock();
        for used in waiting.iter().flat_map(|one| &one.uses) {
            match last
                .iter_mut()
                .find(|fence| fence.queue() == used.fence.queue())
            {
                Some(fence) if fence.value() < used.fence.value() => *fence = used.fence.clone(),
                Some(_) => {}
                None => last.push(used.fence.clone()),
            }
        }
        last
    }

    /// Sees to it that signals cover all that blocks wait for. Where the driver refuses one, the next signal will.
    pub(crate) fn cover(&self) {
        for fence in self.fences() {
            if let Err(error) = fence.cover() {
                note_refused_signal(&error);
            }
        }
    }

    /// Waits up to `timeout` in all for the work of every block that waits now.
    pub(crate) fn wait(&self, timeout: Duration) {
        let start = Instant::now();
        self.cover();
        for fence in self.fences() {
            let left = timeout.saturating_sub(start.elapsed());
            // A fence that fails or is late leaves its block where it is.
            let _late = fence.wait(Some(left));
        }
    }

    /// Gives up the blocks that still wait, without freeing the memory under them.
    pub(crate) fn leak(&self) {
        kept::keep(std::mem::take(&mut *self.waiting.lock()));
    }
}
