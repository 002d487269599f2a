//! Caches of idle blocks, one per thread and pool, and one per thread and queue.
//!
//! A warm allocation or free ends here: a push or pop on a bin of this thread. Bins of blocks up to
//! [`OWN_BLOCK_BYTES_MAX`] belong to the thread alone, [`OWN_BYTES_MAX`] bytes of them; the larger ones
//! have a lock of their own, which nobody else wants unless memory is short.

#![allow(unsafe_code)]

mod bin;
mod shard;
mod sweep;
mod tally;

use std::cell::{Cell, RefCell};

use self::bin::Bin;
use self::shard::Gate;
pub(crate) use self::shard::{Shard, ThreadTotals, Totals};
pub(crate) use self::sweep::take_out_blocks;
pub(crate) use self::tally::TallySum;
use crate::block::{Block, CacheKey, ListId};
use crate::pool::{Pool, free_past_cache};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering};

/// Bytes of idle blocks that a thread keeps for itself alone, per pool or queue.
const OWN_BYTES_MAX: usize = 1 << 20;
/// Largest block that it does.
const OWN_BLOCK_BYTES_MAX: usize = 8 << 10;
/// Keys whose shards a thread finds at once.
const HOT: usize = 8;

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
        Self {
            slot,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
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

/// Runs `visit` on this thread's shard for `key`, if the warm path is open for it.
#[inline(always)]
fn warm<T>(key: CacheKey, visit: impl FnOnce(&Shard) -> T) -> Option<T> {
    let gate = SHARDS.with(|shards| shards[key.slot as usize % HOT].get());
    // SAFETY: the pointer is `CLOSED` or that of a shard which a cache of this thread owns; the cache
    // clears the pointer before it goes, and `visit` lets none go.
    let open = unsafe { &*gate }.open.load(Ordering::Relaxed);
    if open != key.id {
        return None;
    }
    // SAFETY: ids are never zero, so this is no `CLOSED`; the pointer was made from the shard's, whose
    // first field the gate is.
    let shard = unsafe { &*gate.cast::<Shard>() };
    Some(visit(shard))
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

/// Opens the warm path to this thread's cache for `key`, if another key had its place; true if so.
pub(crate) fn reopen(key: CacheKey) -> bool {
    let gate = || SHARDS.with(|shards| shards[key.slot as usize % HOT].get());
    let before = gate();
    with(key, |_| gate() != before).unwrap_or(false)
}

/// Charges an allocation that this thread's cache for `key` did not serve to the credit; true if the
/// credit does not suffice, so that it is to be a sample. There is no end to the credit then until it
/// is [renewed](renew_credit).
pub(crate) fn charge(key: CacheKey, requested: usize) -> bool {
    let due = with(key, |cache| {
        let totals = &cache.shard.totals;
        let left = totals.credit_after(requested as u64);
        totals.leave_credit(left.unwrap_or(u64::MAX));
        left.is_none()
    });
    due.unwrap_or(false)
}

/// Lets the caches of this thread serve until the next sample.
pub(crate) fn renew_credit(key: CacheKey, pool: &Pool) {
    with(key, |cache| pool.grant_credit(&cache.shard.totals));
}

#[inline]
fn add(counter: &AtomicUsize, amount: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

/// A block of the list from this thread's cache, counted as handed out.
#[inline(always)]
pub(crate) fn pop(key: CacheKey, list: ListId, requested: usize) -> Option<Block> {
    warm(key, |shard| {
        // SAFETY: the shard is this thread's.
        unsafe { shard.pop(list, requested) }
    })?
}

/// As [`pop`], though the warm path is closed, for calls that a recorder sees.
pub(crate) fn pop_recorded(key: CacheKey, list: ListId, requested: usize) -> Option<Block> {
    with(key, |cache| {
        // SAFETY: the cache is this thread's.
        unsafe { cache.shard.pop(list, requested) }
    })?
}

/// Puts a block whose free is counted into this thread's cache, though the warm path may be closed;
/// where there is no room, it comes back.
pub(crate) fn push_watched(key: CacheKey, block: Block) -> Option<Block> {
    let mut left = Some(block);
    with(key, |cache| {
        let bin = cache.shard.bins.make(left.as_ref()?.list().index())?;
        let block = left.take()?;
        let bytes = block.bytes();
        let shared = bytes > OWN_BLOCK_BYTES_MAX;
        // SAFETY: the cache is this thread's.
        unsafe { bin.open(shared) };
        let put = if shared {
            cache.shard.put_shared(bin, block, bytes)
        } else {
            cache.shard.put_own(bin, block, bytes)
        };
        left = put.err();
        Some(())
    });
    left
}

/// Puts a block into this thread's cache, counted as given back. Where there is no cache, or no room,
/// the pool takes it.
#[inline(always)]
pub(crate) fn push(key: CacheKey, block: Block) {
    let mut left = Some(block);
    warm(key, |shard| {
        let block = left.take()?;
        match shard.bins.get(block.list().index()) {
            Some(bin) if bin.is_own() => {
                let bytes = block.bytes();
                shard.count_free(bin, &block, bytes);
                if let Err(block) = shard.put_own(bin, block, bytes) {
                    free_past_cache(key, block, true);
                }
            }
            Some(bin) => shard.push_shared(bin, block),
            None => free_past_cache(key, block, false),
        }
        Some(())
    });
    if let Some(block) = left {
        free_past_cache(key, block, false);
    }
}

impl Shard {
    /// A block of the list, counted as handed out.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    #[inline(always)]
    unsafe fn pop(&self, list: ListId, requested: usize) -> Option<Block> {
        let bin = self.bins.get(list.index())?;
        let credit = self.totals.credit_after(requested as u64)?;
        if bin.is_own() {
            // SAFETY: the caller's promise.
            let block = unsafe { bin.pop_own() }?;
            let bytes = block.bytes();
            add(&self.own_bytes, bytes.wrapping_neg());
            self.totals.leave_credit(credit);
            self.count_allocation(bin, requested, bytes);
            Some(block)
        } else {
            self.pop_shared(bin, requested, credit)
        }
    }

    #[inline]
    fn count_allocation(&self, bin: &Bin, requested: usize, bytes: usize) {
        bin.tally.count_allocation(requested as u64);
        self.totals.count_allocation(requested as u64, bytes);
    }

    #[inline]
    fn count_free(&self, bin: &Bin, block: &Block, bytes: usize) {
        let requested = block.requested() as u64;
        bin.tally.count_free(requested);
        self.totals.count_free(requested, bytes);
    }

    // The paths of shared bins are functions of their own, so that the others have no calls to make
    // room for.

    #[inline(never)]
    fn pop_shared(&self, bin: &Bin, requested: usize, credit: u64) -> Option<Block> {
        let block = bin.pop_shared()?;
        let bytes = block.bytes();
        self.totals.leave_credit(credit);
        add(&self.lent_bytes, bytes.wrapping_neg());
        self.count_allocation(bin, requested, bytes);
        Some(block)
    }

    #[inline(never)]
    fn push_shared(&self, bin: &Bin, block: Block) {
        if !bin.is_shared() {
            free_past_cache(self.key(), block, false);
            return;
        }
        let bytes = block.bytes();
        self.count_free(bin, &block, bytes);
        if let Err(block) = self.put_shared(bin, block, bytes) {
            free_past_cache(self.key(), block, true);
        }
    }

    /// Puts a block into its bin, if there is room. Only for the thread that owns the shard.
    #[inline]
    fn put_own(&self, bin: &Bin, block: Block, bytes: usize) -> Result<(), Block> {
        let own = self.own_bytes.load(Ordering::Relaxed) + bytes;
        if own > OWN_BYTES_MAX {
            return Err(block);
        }
        let most = block.thread_max();
        // SAFETY: the caller is this thread.
        unsafe { bin.push_own(block, most) }?;
        self.own_bytes.store(own, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn put_shared(&self, bin: &Bin, block: Block, bytes: usize) -> Result<(), Block> {
        let lent = self.lent_bytes.load(Ordering::Relaxed);
        let there = lent.wrapping_sub(self.drained_bytes.load(Ordering::Relaxed));
        if there + bytes > self.totals.lent_bytes_max() {
            return Err(block);
        }
        let most = block.thread_max();
        bin.push_shared(block, most)?;
        self.lent_bytes
            .store(lent.wrapping_add(bytes), Ordering::Relaxed);
        Ok(())
    }

    /// Takes a block out of the account of what lies here.
    fn count_out(&self, bytes: usize) {
        let counter = if bytes <= OWN_BLOCK_BYTES_MAX {
            &self.own_bytes
        } else {
            &self.lent_bytes
        };
        add(counter, bytes.wrapping_neg());
    }

    /// Takes what others may take of the lists that are `wanted`.
    pub(crate) fn drain_lent(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        let before = drained.len();
        for (_, bin) in self.bins.used().filter(|(list, _)| wanted(*list)) {
            // SAFETY: not the owner.
            unsafe { bin.drain(false, drained) };
        }
        let bytes: usize = drained[before..].iter().map(Block::bytes).sum();
        self.drained_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes everything. Only for the thread that owns the shard.
    fn drain_all(&self, drained: &mut Vec<Block>) {
        let before = drained.len();
        for (_, bin) in self.bins.used() {
            // SAFETY: the caller is the owner.
            unsafe { bin.drain(true, drained) };
        }
        for block in &drained[before..] {
            self.count_out(block.bytes());
        }
    }
}

/// Takes what has to leave so that more blocks of the list can stay: half of the list if it is full, the
/// blocks that lay longest; else what the thread keeps of other lists, if that is why there is no room.
pub(crate) fn take_surplus(key: CacheKey, list: ListId) -> Vec<Block> {
    let surplus = with(key, |cache| {
        let shard = &cache.shard;
        let bin = shard.bins.get(list.index())?;
        // SAFETY: the cache is this thread's.
        let mut surplus = unsafe { bin.take_half() };
        if bin.is_own() && shard.own_bytes.load(Ordering::Relaxed) > OWN_BYTES_MAX / 2 {
            let others = shard
                .bins
                .used()
                .filter(|(other, _)| *other != list.index());
            for (_, other) in others.filter(|(_, other)| other.is_own()) {
                // SAFETY: the cache is this thread's.
                unsafe { other.drain(true, &mut surplus) };
            }
        }
        for block in &surplus {
            shard.count_out(block.bytes());
        }
        Some(surplus)
    });
    surplus.flatten().unwrap_or_default()
}

/// Adds blocks that came in a batch to this thread's cache; those without room come back.
pub(crate) fn refill(key: CacheKey, mut blocks: Vec<Block>) -> Vec<Block> {
    with(key, |cache| {
        if cache.shard.bypassed() {
            return;
        }
        while let Some(block) = blocks.pop() {
            let list = block.list().index();
            let Some(bin) = cache.shard.bins.make(list) else {
                blocks.push(block);
                break;
            };
            let bytes = block.bytes();
            let shared = bytes > OWN_BLOCK_BYTES_MAX;
            // SAFETY: the cache is this thread's.
            unsafe { bin.open(shared) };
            let put = if shared {
                cache.shard.put_shared(bin, block, bytes)
            } else {
                cache.shard.put_own(bin, block, bytes)
            };
            if let Err(block) = put {
                blocks.push(block);
                break;
            }
        }
    });
    blocks
}

/// What a call past the cache counts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Nothing,
    Allocation {
        requested: usize,
        block_bytes: usize,
    },
    Free {
        requested: usize,
        block_bytes: usize,
    },
}

impl ThreadCache {
    fn count(&self, list: ListId, count: Count) {
        let (tally, totals) = (self.shard.tally(list), &self.shard.totals);
        match count {
            Count::Nothing => {}
            Count::Allocation {
                requested,
                block_bytes,
            } => {
                tally.count_allocation(requested as u64);
                totals.count_allocation(requested as u64, block_bytes);
            }
            Count::Free {
                requested,
                block_bytes,
            } => {
                tally.count_free(requested as u64);
                totals.count_free(requested as u64, block_bytes);
            }
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

/// The counters of this thread for a pool, if one of its caches has them.
fn totals_of(pool: &Pool) -> Option<Arc<ThreadTotals>> {
    let found = CACHES.try_with(|caches| {
        let caches = caches.try_borrow().ok()?;
        let mut caches = caches.iter().flatten();
        let cache = caches.find(|cache| std::ptr::eq(Arc::as_ptr(&cache.pool), pool))?;
        Some(Arc::clone(&cache.shard.totals))
    });
    found.ok().flatten()
}

/// Counts for this thread, whose cache is made if there is none; for the pool while the thread is
/// ending.
pub(crate) fn count(pool: &Arc<Pool>, key: CacheKey, list: ListId, count: Count) {
    if with(key, |cache| cache.count(list, count)).is_some() {
        return;
    }
    let made = ThreadCache {
        key,
        pool: Arc::clone(pool),
        shard: pool.new_shard(key, totals_of(pool)),
    };
    made.count(list, count);
    let mut made = Some(Box::new(made));
    let _ended = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            let slot = key.slot as usize;
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

/// Takes everything out of this thread's caches of a pool.
pub(crate) fn drain_own(pool: &Pool, drained: &mut Vec<Block>) {
    let _ended = CACHES.try_with(|caches| {
        if let Ok(caches) = caches.try_borrow() {
            for cache in caches.iter().flatten() {
                if std::ptr::eq(Arc::as_ptr(&cache.pool), pool) {
                    cache.shard.drain_all(drained);
                }
            }
        }
    });
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
        let mut blocks = Vec::new();
        self.shard.drain_all(&mut blocks);
        self.pool.take_back_from_thread(blocks, &self.shard);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Allocator, Request};

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
