//! Caches of idle blocks, one per thread and pool, and one per thread and queue.
//!
//! A warm allocation or free ends here: a push or pop on a bin of this thread. Bins of blocks up to
//! [`OWN_BLOCK_BYTES_MAX`] belong to the thread alone, which has room for [`OWN_BYTES_MAX`] bytes of them;
//! the larger ones are [lent](lending) to it: others take them when memory is short.

#![allow(unsafe_code)]

mod bin;
mod bins;
mod lending;
mod shard;
mod tally;

use std::cell::{Cell, RefCell};

use self::bin::Bin;
use self::shard::Gate;
pub(crate) use self::shard::{Shard, UnlistedSum};
pub(crate) use self::tally::TallySum;
use crate::block::{Block, CacheKey, HOT, ListId};
use crate::pool::{Pool, free_past_cache};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Bytes of idle blocks that a thread keeps for itself alone, per pool or queue.
const OWN_BYTES_MAX: usize = 1 << 20;
/// Largest block that it does.
const OWN_BLOCK_BYTES_MAX: usize = 8 << 10;

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

/// Runs `visit` on this thread's shard for `key`, if the warm path is open for it.
#[inline(always)]
fn warm<T>(key: CacheKey, visit: impl FnOnce(&Shard) -> T) -> Option<T> {
    let gate = SHARDS.with(|shards| shards[key.id as usize % HOT].get());
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

/// A block of the list from this thread's cache, counted as handed out.
#[inline(always)]
pub(crate) fn pop(key: CacheKey, list: ListId, requested: usize) -> Option<Block> {
    warm(key, |shard| {
        // SAFETY: the shard is this thread's.
        unsafe { shard.pop(list, requested) }
    })?
}

/// Puts a block into this thread's cache, counted as given back. Where there is no cache, or no room,
/// the pool takes it.
#[inline(always)]
pub(crate) fn push(key: CacheKey, block: Block) {
    let mut left = Some(block);
    warm(key, |shard| {
        // SAFETY: the shard is this thread's.
        unsafe { shard.push(left.take()?) };
        Some(())
    });
    if let Some(block) = left {
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
            add(&shard.lent_bytes, block.bytes().wrapping_neg());
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

/// Adds blocks that came in a batch to this thread's cache; those without room come back.
pub(crate) fn refill(pool: &Pool, key: CacheKey, mut blocks: Vec<Block>) -> Vec<Block> {
    with(key, |cache| {
        if cache.shard.bypassed() {
            return;
        }
        let list = blocks.first().map(Block::list);
        while let Some(block) = blocks.pop() {
            if let Err(block) = cache.shard.put(block) {
                blocks.push(block);
                break;
            }
        }
        if let Some(list) = list {
            cache.shard.provide(pool, list);
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
        pool.live_water().take(&shard.headroom, requested);
        shard.count_allocation(pool, list, requested, block_bytes);
    });
}

/// Counts a free likewise.
pub(crate) fn count_free(pool: &Arc<Pool>, key: CacheKey, block: &Block) {
    counting(pool, key, |shard| {
        let requested = block.requested() as u64;
        shard.count_free(pool, block.list(), requested, block.bytes());
        shard.settle(pool);
    });
}

fn counting(pool: &Arc<Pool>, key: CacheKey, count: impl Fn(&Shard)) {
    if with(key, |cache| count(&cache.shard)).is_none() {
        let made = ThreadCache::new(pool, key);
        count(&made.shard);
        install(made);
    }
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

#[inline]
fn add(counter: &crate::sync::AtomicUsize, amount: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

/// What the counters are after an allocation.
struct Left {
    allocations: u64,
    headroom: u64,
}

impl Shard {
    /// A block of the list, counted as handed out.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    #[inline(always)]
    unsafe fn pop(&self, list: ListId, requested: usize) -> Option<Block> {
        let bin = self.bins.get(list);
        let Some(last) = bin.last_own() else {
            return if bin.is_lent() {
                self.pop_lent(bin, requested)
            } else {
                None
            };
        };
        let left = self.after_allocation(bin, requested)?;
        self.count(bin, left, requested);
        // SAFETY: the owner is inside of what is not lent.
        Some(unsafe { bin.take_own(last) })
    }

    // The paths of lent bins are functions of their own, so that the others have no calls to make room
    // for.

    #[inline(never)]
    fn pop_lent(&self, bin: &Bin, requested: usize) -> Option<Block> {
        let _inside = self.lending.enter()?;
        let last = bin.last_lent()?;
        let left = self.after_allocation(bin, requested)?;
        self.count(bin, left, requested);
        // SAFETY: this thread is the owner, and inside.
        let block = unsafe { bin.take_lent(last) };
        add(&self.lent_bytes, block.bytes().wrapping_neg());
        Some(block)
    }

    /// What an allocation leaves of the counters; nothing for a sample, or at a new peak.
    #[inline(always)]
    fn after_allocation(&self, bin: &Bin, requested: usize) -> Option<Left> {
        Some(Left {
            allocations: bin.tally.left_after_one()?,
            headroom: self.headroom.after(requested as u64)?,
        })
    }

    #[inline(always)]
    fn count(&self, bin: &Bin, left: Left, requested: usize) {
        bin.tally.leave(left.allocations);
        self.headroom.leave(left.headroom);
        bin.tally.allocate_bytes(requested as u64);
    }

    /// Puts a block into its bin, counted as given back; where there is no room, the pool takes it.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    #[inline(always)]
    unsafe fn push(&self, block: Block) {
        let bin = self.bins.get(block.list());
        let requested = block.requested() as u64;
        // SAFETY: the caller is the owner.
        match unsafe { bin.push_own(block) } {
            Ok(()) => self.count_pushed(bin, requested),
            Err(block) => self.push_elsewhere(bin, block),
        }
    }

    #[inline(always)]
    fn count_pushed(&self, bin: &Bin, requested: u64) {
        bin.tally.free_bytes(requested);
        self.headroom.put(requested);
    }

    #[inline(never)]
    fn push_elsewhere(&self, bin: &Bin, block: Block) {
        let left = if bin.is_lent() {
            self.push_lent(bin, block)
        } else {
            Err(block)
        };
        if let Err(block) = left {
            free_past_cache(self.key(), block);
        }
    }

    #[inline(always)]
    fn push_lent(&self, bin: &Bin, block: Block) -> Result<(), Block> {
        let (bytes, requested) = (block.bytes(), block.requested() as u64);
        let Some(_inside) = self.lending.enter() else {
            return Err(block);
        };
        let lent = self.lent_bytes.load(Ordering::Relaxed) + bytes;
        if lent > self.lent_bytes_max() || !block.is_kept() {
            return Err(block);
        }
        // SAFETY: this thread is the owner, and inside.
        unsafe { bin.push_lent(block) }?;
        self.count_pushed(bin, requested);
        self.lent_bytes.store(lent, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a block into its bin, which is opened and given room if need be. Only for the thread that
    /// owns the shard.
    fn put(&self, block: Block) -> Result<(), Block> {
        let Some(bin) = self.bins.make(block.list()).filter(|_| block.is_kept()) else {
            return Err(block);
        };
        let (bytes, most) = (block.bytes(), block.thread_max());
        let lent = bytes > OWN_BLOCK_BYTES_MAX;
        // SAFETY: the caller is the owner.
        unsafe { bin.open(bytes, most, lent) };
        let _held = self.lending.hold();
        if !lent {
            if !bin.has_room() {
                let own = self.own_room_bytes.load(Ordering::Relaxed);
                let grown = bin.grow(most, OWN_BYTES_MAX.saturating_sub(own));
                self.own_room_bytes.store(own + grown, Ordering::Relaxed);
            }
            // SAFETY: the owner is inside of its own bin.
            return unsafe { bin.push(block) };
        }
        let lent = self.lent_bytes.load(Ordering::Relaxed) + bytes;
        if lent > self.lent_bytes_max() {
            return Err(block);
        }
        // SAFETY: the owner has the right to what is lent.
        unsafe { bin.push(block) }?;
        self.lent_bytes.store(lent, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    unsafe fn take_surplus(&self, list: ListId) -> Option<Vec<Block>> {
        let bin = self.bins.get(list);
        let _held = self.lending.hold();
        if bin.is_lent() {
            // SAFETY: the owner has the right to what is lent.
            let surplus = unsafe { bin.take_half() };
            self.count_out(&surplus);
            return Some(surplus);
        }
        // SAFETY: the owner is inside of its own bin.
        let mut surplus = unsafe { bin.take_half() };
        let full = |shard: &Self| shard.own_room_bytes.load(Ordering::Relaxed) > OWN_BYTES_MAX / 2;
        if full(self) {
            let own = |(other, bin): &(usize, &Bin)| *other != list.index() && !bin.is_lent();
            // Room that nothing needs, and where that is not enough, room that something has.
            for (_, bin) in self.bins.used().filter(own) {
                self.shrink(bin);
            }
            for (_, bin) in self.bins.used().filter(own) {
                if full(self) {
                    // SAFETY: as above.
                    unsafe { bin.drain(&mut surplus) };
                    self.shrink(bin);
                }
            }
        }
        Some(surplus)
    }

    /// Takes room back that no block has, of one of the thread's own bins.
    fn shrink(&self, bin: &Bin) {
        add(&self.own_room_bytes, bin.shrink().wrapping_neg());
    }

    /// Takes as much of the peak's headroom as the blocks of a list that lie here need. For the owner.
    fn provide(&self, pool: &Pool, list: ListId) {
        let bytes = self.bins.get(list).bytes() as u64;
        pool.live_water().borrow(&self.headroom, bytes);
    }

    /// Leaves to other threads what headroom the blocks that lie here do not need. For the owner.
    fn settle(&self, pool: &Pool) {
        pool.live_water().settle(&self.headroom, self.bytes());
    }

    /// Takes blocks that were lent out of the account of what lies here. For whoever has the right.
    fn count_out(&self, blocks: &[Block]) {
        let bytes: usize = blocks.iter().map(Block::bytes).sum();
        add(&self.lent_bytes, bytes.wrapping_neg());
    }

    /// Takes what others may take of the lists that are `wanted`.
    pub(crate) fn drain_lent(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        if self.lent_bytes.load(Ordering::Relaxed) > 0 {
            let _closed = self.lending.close();
            // SAFETY: the right is ours until it is dropped.
            unsafe { self.drain_lent_here(wanted, drained) };
        }
    }

    /// # Safety
    ///
    /// The caller has the right to what is lent.
    unsafe fn drain_lent_here(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        let before = drained.len();
        let lent = self.bins.used().filter(|(_, bin)| bin.is_lent());
        for (_, bin) in lent.filter(|(list, _)| wanted(*list)) {
            // SAFETY: the caller's promise.
            unsafe { bin.drain(drained) };
        }
        self.count_out(&drained[before..]);
    }

    /// Takes everything.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    unsafe fn drain_all(&self, drained: &mut Vec<Block>) {
        let _held = self.lending.hold();
        for (_, bin) in self.bins.used().filter(|(_, bin)| !bin.is_lent()) {
            // SAFETY: the owner is inside of its own bin.
            unsafe { bin.drain(drained) };
            self.shrink(bin);
        }
        // SAFETY: the owner has the right to what is lent.
        unsafe { self.drain_lent_here(|_| true, drained) };
    }
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
