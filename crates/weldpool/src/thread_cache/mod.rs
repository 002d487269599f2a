//! Caches of idle blocks, one per thread and pool, and one per thread and queue.
//!
//! A warm allocation or free ends here: a push or pop on a bin of this thread. Bins of blocks up to
//! [`OWN_BLOCK_BYTES_MAX`] belong to the thread alone, which has room for [`OWN_BYTES_MAX`] bytes of them;
//! the larger ones are [lent](lending) to it: others take them when memory is short.

#![allow(unsafe_code)]

mod bin;
mod bins;
mod lending;
mod list_sums;
mod shard;
mod stock;
mod tally;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

pub(crate) use self::bins::Bins;
pub(crate) use self::list_sums::ListSums;
use self::shard::Gate;
pub(crate) use self::shard::{Shard, UnlistedSum, list_sums};
pub(crate) use self::tally::TallySum;
use crate::block::{Block, CacheKey, HOT, ListId};
use crate::pool::{Pool, free_past_cache};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Bytes of idle blocks that a thread keeps for itself alone, per pool or queue.
pub(crate) const OWN_BYTES_MAX: usize = 1 << 20;
/// Largest block that it does.
pub(crate) const OWN_BLOCK_BYTES_MAX: usize = 8 << 10;

thread_local! {
    static CACHES: RefCell<Vec<Option<Box<ThreadCache>>>> = const { RefCell::new(Vec::new()) };
    /// Shards by the slot of their key. A pointer is that of a cache in `CACHES`, which clears it when
    /// it goes, or of `CLOSED`.
    static SHARDS: [Cell<*const Gate>; HOT] = const { [const { Cell::new(&raw const CLOSED) }; HOT] };
}

/// Stands for no shard: no key has this id.
static CLOSED: Gate = Gate {
    open: AtomicU64::new(0),
};

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static SLOTS: Mutex<Slots> = Mutex::new(Slots {
    idle: Vec::new(),
    used: 0,
});

struct Slots {
    idle: Vec<u32>,
    used: u32,
}

impl CacheKey {
    /// A key that nobody has.
    pub(crate) fn new() -> Self {
        let mut slots = SLOTS.lock();
        let slot = slots.idle.pop().unwrap_or_else(|| {
            slots.used += 1;
            slots.used - 1
        });
        let number = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            slot,
            id: number * HOT as u64 + u64::from(slot) % HOT as u64,
        }
    }

    /// Gives up the slot. Caches that threads still have under the id are stale from now on.
    pub(crate) fn retire(self) {
        SLOTS.lock().idle.push(self.slot);
    }
}

/// The cache of this thread for one pool or queue. It stays in `CACHES` of its thread until it is
/// dropped.
#[derive(Debug)]
pub(crate) struct ThreadCache {
    key: CacheKey,
    pool: Arc<Pool>,
    shard: Arc<Shard>,
}

/// This thread's shard for `key`, if the warm path is open for it. It is there until this thread's cache
/// for the key goes.
#[inline(always)]
fn warm(key: CacheKey) -> Option<NonNull<Shard>> {
    let gate = SHARDS.with(|shards| shards[key.id as usize % HOT].get());
    // SAFETY: the pointer is `CLOSED` or that of a shard which a cache of this thread owns; the cache
    // clears the pointer before it goes.
    let open = unsafe { &*gate }.open.load(Ordering::Relaxed);
    // Ids are never zero, so this is no `CLOSED`; the pointer was made from the shard's, whose first field
    // the gate is.
    (open == key.id).then(|| NonNull::new(gate.cast_mut().cast()))?
}

/// Runs `visit` on this thread's cache for `key`, if there is one, and opens the warm path to it.
fn with<T>(key: CacheKey, visit: impl FnOnce(&ThreadCache) -> T) -> Option<T> {
    let visited = CACHES.try_with(|caches| {
        let caches = caches.try_borrow().ok()?;
        let cache = caches.get(key.slot as usize)?.as_ref()?;
        if cache.key.id != key.id {
            return None;
        }
        cache.show();
        Some(visit(cache))
    });
    visited.ok().flatten()
}

/// A block of the list from this thread's cache, counted as handed out.
#[inline(always)]
pub(crate) fn pop(key: CacheKey, list: ListId, requested: usize) -> Option<Block> {
    let shard = warm(key)?;
    // SAFETY: the shard is this thread's, and taking a block out lets no cache go.
    let shard = unsafe { shard.as_ref() };
    // SAFETY: the shard is this thread's.
    unsafe { shard.pop(list, requested) }
}

/// Puts a block into this thread's cache, counted as given back. Where there is no cache, or no room,
/// the pool takes it.
#[inline(always)]
pub(crate) fn push(key: CacheKey, block: Block) {
    let Some(shard) = warm(key) else {
        free_past_cache(key, block);
        return;
    };
    // SAFETY: the shard is this thread's, and putting a block there lets no cache go.
    let here = unsafe { shard.as_ref() };
    // SAFETY: the shard is this thread's.
    if let Err(block) = unsafe { here.push_own(block) } {
        push_elsewhere(shard, block);
    }
}

/// Puts a block into a bin that is lent; where it is not, or without room, the pool takes the block. A
/// function of its own, so that others have no calls to make room for.
#[inline(never)]
fn push_elsewhere(shard: NonNull<Shard>, block: Block) {
    // SAFETY: as in `push`.
    let here = unsafe { shard.as_ref() };
    // The pool may let this thread's cache go.
    let key = here.key();
    // SAFETY: as in `push`.
    if let Err(block) = unsafe { here.push_lent(block) } {
        free_past_cache(key, block);
    }
}

/// Makes sure that this thread has a cache for `key`, unless it is ending.
pub(crate) fn ensure(pool: &Arc<Pool>, key: CacheKey) {
    if with(key, |_| ()).is_none() {
        install(ThreadCache::new(pool, key));
    }
}

/// Whether the next allocation is to be a sample, which the warm path did not serve; `draw` says after
/// how many further ones of the list the next is. There is none where the thread has no cache.
pub(crate) fn charge(key: CacheKey, list: ListId, draw: impl Fn() -> u64) -> bool {
    with(key, |cache| cache.shard.tally(list).charge(draw)).unwrap_or(false)
}

/// A block of the list from this thread's cache, not counted, though the warm path may be closed.
pub(crate) fn take(key: CacheKey, list: ListId) -> Option<Block> {
    with(key, |cache| {
        let shard = &cache.shard;
        let bin = shard.bins.get(list);
        let _held = shard.lending.hold();
        // SAFETY: the cache is this thread's, which has the right to what is lent too.
        let block = unsafe { bin.pop() }?;
        if bin.is_lent() {
            shard.count_out(block.bytes());
        }
        Some(block)
    })?
}

/// Puts a block whose free is counted into this thread's cache, though the warm path may be closed;
/// where there is no room, it comes back.
pub(crate) fn put(key: CacheKey, block: Block) -> Option<Block> {
    let mut left = Some(block);
    with(key, |cache| {
        left = cache.shard.put(left.take()?).err();
        Some(())
    });
    left
}

/// Takes what has to leave so that more blocks of the list can stay: half of the list if it is full, the
/// blocks that lay longest; else what the thread keeps of other lists, if that is why there is no room.
pub(crate) fn take_surplus(key: CacheKey, list: ListId) -> Vec<Block> {
    let surplus = with(key, |cache| {
        // SAFETY: the cache is this thread's.
        unsafe { cache.shard.take_surplus(list) }
    });
    surplus.flatten().unwrap_or_default()
}

/// Adds blocks that came in a batch to this thread's cache, though the warm path may be closed; those without
/// room come back.
pub(crate) fn refill(pool: &Pool, key: CacheKey, mut blocks: Vec<Block>) -> Vec<Block> {
    with(key, |cache| {
        let list = blocks.first().map(Block::list);
        while let Some(block) = blocks.pop() {
            if let Err(block) = cache.shard.put(block) {
                blocks.push(block);
                break;
            }
        }
        if let Some(list) = list {
            pool.borrow_headroom(&cache.shard, cache.shard.list_bytes(list));
        }
    });
    blocks
}

/// Counts an allocation that the warm path does not, for this thread, whose cache is made if there is
/// none; for the pool while the thread is ending.
pub(crate) fn count_allocation(
    pool: &Arc<Pool>,
    key: CacheKey,
    list: ListId,
    requested: usize,
    block_bytes: usize,
) {
    counting(pool, key, |shard| {
        let requested = requested as u64;
        pool.count_live(shard, requested);
        shard.count_allocation(pool, list, requested, block_bytes);
    });
}

/// Counts a free likewise.
pub(crate) fn count_free(pool: &Arc<Pool>, key: CacheKey, block: &Block) {
    counting(pool, key, |shard| {
        let requested = block.requested() as u64;
        shard.count_free(pool, block.list(), requested, block.bytes());
        pool.count_dead(shard, requested);
    });
}

fn counting(pool: &Arc<Pool>, key: CacheKey, count: impl Fn(&Shard)) {
    if with(key, |cache| count(&cache.shard)).is_some() {
        return;
    }
    if CACHES.try_with(|_| ()).is_err() {
        // The thread is ending.
        pool.count_shared(count);
        return;
    }
    let made = ThreadCache::new(pool, key);
    count(&made.shard);
    install(made);
}

/// Takes everything out of this thread's caches of a pool.
pub(crate) fn drain_own(pool: &Pool, drained: &mut Vec<Block>) {
    let _ended = CACHES.try_with(|caches| {
        if let Ok(caches) = caches.try_borrow() {
            for cache in caches.iter().flatten() {
                if std::ptr::eq(Arc::as_ptr(&cache.pool), pool) {
                    // SAFETY: the cache is this thread's.
                    unsafe { cache.shard.drain_all(drained) };
                }
            }
        }
    });
}

/// Takes the blocks that are `unwanted` out of this thread's caches of a pool. The others keep their order.
pub(crate) fn take_out_blocks(pool: &Pool, unwanted: impl Fn(&Block) -> bool) -> Vec<Block> {
    let mut taken = Vec::new();
    let _ended = CACHES.try_with(|caches| {
        let Ok(caches) = caches.try_borrow() else {
            return;
        };
        for cache in caches.iter().flatten() {
            if !std::ptr::eq(Arc::as_ptr(&cache.pool), pool) {
                continue;
            }
            let mut drained = Vec::new();
            // SAFETY: the cache is this thread's.
            unsafe { cache.shard.drain_all(&mut drained) };
            // The last out was the first in.
            for block in drained.into_iter().rev() {
                let left = if unwanted(&block) {
                    Err(block)
                } else {
                    cache.shard.put(block)
                };
                taken.extend(left.err());
            }
        }
    });
    taken
}

impl ThreadCache {
    fn new(pool: &Arc<Pool>, key: CacheKey) -> Self {
        Self {
            key,
            pool: Arc::clone(pool),
            shard: pool.new_shard(key),
        }
    }

    /// Lets the warm path find the shard.
    fn show(&self) {
        let shard = Arc::as_ptr(&self.shard).cast::<Gate>();
        SHARDS.with(|shards| shards[self.key.slot as usize % HOT].set(shard));
    }

    /// Makes sure that the warm path does not find the shard.
    fn hide(&self) {
        let shard = Arc::as_ptr(&self.shard).cast::<Gate>();
        SHARDS.with(|shards| {
            let known = &shards[self.key.slot as usize % HOT];
            if known.get() == shard {
                known.set(&raw const CLOSED);
            }
        });
    }
}

/// Makes a cache this thread's; one of a thread that is ending leaves what it has to the pool.
fn install(made: ThreadCache) {
    let slot = made.key.slot as usize;
    let mut made = Some(Box::new(made));
    let _ended = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            if slot >= caches.len() {
                caches.resize_with(slot + 1, || None);
            }
            std::mem::swap(&mut caches[slot], &mut made);
            if let Some(cache) = &caches[slot] {
                cache.show();
            }
        }
    });
    // The stale cache of the slot, or the new one of a thread that is ending: dropped outside the
    // borrow, either leaves its blocks and what it counted to the pool.
    drop(made);
}

/// Removes this thread's caches of a pool, so that they no longer keep it alive.
pub(crate) fn forget(pool: &Pool) {
    take_out(|cache| std::ptr::eq(Arc::as_ptr(&cache.pool), pool));
}

/// Removes this thread's cache for a key, which gives its blocks back.
pub(crate) fn remove(key: CacheKey) {
    take_out(|cache| cache.key.id == key.id);
}

fn take_out(wanted: impl Fn(&ThreadCache) -> bool) {
    let removed = CACHES.try_with(|caches| {
        let Ok(mut caches) = caches.try_borrow_mut() else {
            return Vec::new();
        };
        let mine = |cache: &&mut Option<Box<ThreadCache>>| cache.as_deref().is_some_and(&wanted);
        caches.iter_mut().filter(mine).map(Option::take).collect()
    });
    // Dropped outside the borrow.
    drop(removed);
}

impl Drop for ThreadCache {
    fn drop(&mut self) {
        self.hide();
        {
            let _moving = self.pool.moving();
            let mut blocks = Vec::new();
            // SAFETY: a cache is dropped by its thread.
            unsafe { self.shard.drain_all(&mut blocks) };
            self.pool.take_back_from_thread(blocks, &self.shard);
        }
        // Its last free may have gone unseen by whoever closed the pool.
        self.pool.close_if_idle();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crate::device::NONE_LEFT;
    use crate::device::host::HostDevice;
    use crate::sync::Arc;
    use crate::{Allocator, Config, Request};

    /// Runs on a thread that gets no tables if `out`, and waits until the thread is gone.
    fn on_thread<T: Send + 'static>(out: bool, run: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(move || {
            NONE_LEFT.set(out);
            run()
        });
        thread.join().unwrap()
    }

    /// No buffer is lost or counted twice when a thread ends, wherever tables are out: memory stays as long as
    /// there is one, and no longer.
    #[test]
    fn threads_without_a_table_are_counted() {
        const SIZES: [usize; 3] = [1000, 100_000, 1 << 20];
        let requested: u64 = SIZES.iter().map(|&bytes| bytes as u64).sum();
        // It has the table that nobody uses.
        let _first = Allocator::host().unwrap();
        // Whether they are out when the allocator is built, memory is taken, and given back.
        let cases = (0..8).map(|bits| [1, 2, 4].map(|bit| bits & bit != 0));
        for [built, took, gave] in cases {
            let allocator = on_thread(built, || {
                let config = Config {
                    sample_interval_bytes: 0,
                    ..Config::default()
                };
                let device = Arc::new(HostDevice::new().unwrap());
                Allocator::builder(device).config(config).build().unwrap()
            });
            let allocate = |allocator: &Allocator| {
                let allocator = allocator.clone();
                on_thread(took, move || {
                    SIZES.map(|bytes| allocator.allocate(bytes).unwrap())
                })
            };
            let counted = |allocator: &Allocator| {
                let stats = allocator.stats();
                let classes = stats.classes.iter();
                let of_classes = classes.map(|class| u128::from(class.live_bytes)).sum();
                (stats.allocations, stats.frees, of_classes)
            };
            let case = format!("{built} {took} {gave}");
            let buffers = allocate(&allocator);
            assert_eq!(counted(&allocator), (3, 0, requested.into()), "{case}");
            on_thread(gave, move || drop(buffers));
            assert_eq!(counted(&allocator), (3, 3, 0), "{case}");
            assert_eq!(allocator.stats().block_bytes, 0, "{case}");
            let pool = Arc::clone(allocator.pool());
            let buffers = allocate(&allocator);
            drop(allocator);
            assert!(pool.reserved_bytes() > requested, "{case}");
            on_thread(gave, move || drop(buffers));
            assert_eq!(pool.reserved_bytes(), 0, "{case}");
        }
    }

    /// More keys than a thread finds at once: each still serves from its own cache.
    #[test]
    fn keys_that_share_a_place_keep_their_caches() {
        let allocator = Allocator::host().unwrap();
        let queues: Vec<_> = (0..3 * super::HOT)
            .map(|_| allocator.create_queue().unwrap())
            .collect();
        let request = |queue| allocator.allocate_with(&Request::new(1 << 20).queue(queue));
        let first: Vec<_> = queues.iter().map(|queue| request(queue).unwrap()).collect();
        let addresses: Vec<_> = first
            .iter()
            .map(|buffer| buffer.binding().host.unwrap())
            .collect();
        for (buffer, queue) in first.into_iter().zip(&queues) {
            buffer.free_on(queue);
        }
        let calls = allocator.stats().driver_calls;
        for _ in 0..3 {
            for (queue, address) in queues.iter().zip(&addresses) {
                let buffer = request(queue).unwrap();
                assert_eq!(buffer.binding().host.unwrap(), *address);
                buffer.free_on(queue);
            }
        }
        assert_eq!(allocator.stats().driver_calls, calls);
    }
}
