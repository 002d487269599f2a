//! Caches of idle blocks, one per thread and pool, and one per thread and queue.
//!
//! A warm allocation or free ends here: a push or pop on a list of this thread. Lists of blocks up to
//! 64 KiB belong to the thread alone, up to [`OWN_BYTES_MAX`] of them; what is beyond, and everything
//! larger, lies on the thread's shelf, which others empty when memory is short.

#![forbid(unsafe_code)]

use std::cell::RefCell;

use crate::arena::SMALL_BYTES_MAX;
use crate::block::{Block, CacheKey, ListId};
use crate::pool::Pool;
use crate::shard::{Lists, Shard};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Bytes of idle blocks that a thread keeps for itself alone, per pool or queue.
const OWN_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static CACHES: RefCell<Vec<Option<Box<ThreadCache>>>> = const { RefCell::new(Vec::new()) };
}

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

/// The cache of this thread for one pool or queue.
#[derive(Debug)]
pub(crate) struct ThreadCache {
    key: CacheKey,
    pool: Arc<Pool>,
    shard: Arc<Shard>,
    own: Lists,
    own_bytes: usize,
}

/// Runs `visit` on this thread's cache for `key`, if there is one.
#[inline]
fn with<T>(key: CacheKey, visit: impl FnOnce(&mut ThreadCache) -> Option<T>) -> Option<T> {
    CACHES
        .try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let cache = caches.get_mut(key.slot as usize)?.as_mut()?;
            if cache.key.id != key.id {
                return None;
            }
            visit(cache)
        })
        .ok()
        .flatten()
}

/// A block of the list from this thread's cache, counted as handed out.
#[inline]
pub(crate) fn pop(key: CacheKey, list: ListId, requested: usize) -> Option<Block> {
    with(key, |cache| {
        if cache.shard.bypassed() {
            return None;
        }
        let block = match cache.own.get_mut(list).and_then(Vec::pop) {
            Some(block) => {
                cache.own_bytes -= block.bytes();
                block
            }
            None => {
                let mut shelf = cache.shard.shelf();
                let block = shelf.lists.get_mut(list)?.pop()?;
                shelf.bytes -= block.bytes();
                block
            }
        };
        cache.shard.count_allocation(list, requested, block.bytes());
        Some(block)
    })
}

/// Puts a block into this thread's cache, counted as given back. Where there is no cache, or no room,
/// the block comes back.
#[inline]
pub(crate) fn push(key: CacheKey, block: Block) -> Result<(), Pushed> {
    let mut block = Some(block);
    let mut counted = false;
    let done = with(key, |cache| {
        let one = block.take()?;
        let (list, bytes) = (one.list(), one.bytes());
        cache.shard.count_free(list, one.requested(), bytes);
        counted = true;
        if !cache.shard.bypassed() && list.is_some() {
            if bytes <= SMALL_BYTES_MAX && cache.own_bytes + bytes <= OWN_BYTES_MAX {
                let own = cache.own.make(list);
                if own.len() < one.thread_max() {
                    own.push(one);
                    cache.own_bytes += bytes;
                    return Some(());
                }
            }
            let mut shelf = cache.shard.shelf();
            if shelf.bytes + bytes <= cache.pool.shelf_bytes_max() {
                let blocks = shelf.lists.make(list);
                if blocks.len() < one.thread_max() {
                    blocks.push(one);
                    shelf.bytes += bytes;
                    return Some(());
                }
            }
        }
        block = Some(one);
        None
    });
    match (done, block) {
        (None, Some(block)) => Err(Pushed { block, counted }),
        _ => Ok(()),
    }
}

/// A block for which a cache had no room.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) block: Block,
    /// Whether the free was counted already.
    pub(crate) counted: bool,
}

/// Takes half of a full shelf list, the blocks that lay longest, to move them on in one batch.
pub(crate) fn take_half(key: CacheKey, list: ListId) -> Vec<Block> {
    with(key, |cache| {
        let mut shelf = cache.shard.shelf();
        let blocks = shelf.lists.get_mut(list)?;
        let half: Vec<Block> = blocks.drain(..blocks.len() / 2).collect();
        shelf.bytes -= half.iter().map(Block::bytes).sum::<usize>();
        Some(half)
    })
    .unwrap_or_default()
}

/// Adds blocks that came in a batch to this thread's own list; those without room come back.
pub(crate) fn refill(key: CacheKey, mut blocks: Vec<Block>) -> Vec<Block> {
    with(key, |cache| {
        while let Some(block) = blocks.last() {
            let bytes = block.bytes();
            let own = cache.own.make(block.list());
            if own.len() >= block.thread_max() || cache.own_bytes + bytes > OWN_BYTES_MAX {
                break;
            }
            own.extend(blocks.pop());
            cache.own_bytes += bytes;
        }
        Some(())
    });
    blocks
}

/// Counts on this thread's shard, which is made if there is none; on the pool's shared one while the
/// thread is ending.
pub(crate) fn count(pool: &Arc<Pool>, key: CacheKey, count: impl Fn(&Shard)) {
    let counted = with(key, |cache| {
        count(&cache.shard);
        Some(())
    });
    if counted.is_some() {
        return;
    }
    let made = CACHES.try_with(|caches| {
        let stale = {
            let Ok(mut caches) = caches.try_borrow_mut() else {
                return false;
            };
            let slot = key.slot as usize;
            if slot >= caches.len() {
                caches.resize_with(slot + 1, || None);
            }
            let shard = pool.new_shard();
            count(&shard);
            caches[slot].replace(Box::new(ThreadCache {
                key,
                pool: Arc::clone(pool),
                shard,
                own: Lists::default(),
                own_bytes: 0,
            }))
        };
        // Dropped outside the borrow: it gives its blocks back.
        drop(stale);
        true
    });
    if !made.unwrap_or(false) {
        count(pool.shared_shard());
    }
}

/// Takes everything out of this thread's own lists of all caches of a pool.
pub(crate) fn drain_own(pool: &Pool, drained: &mut Vec<Block>) {
    let _ended = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            for cache in caches.iter_mut().flatten() {
                if std::ptr::eq(Arc::as_ptr(&cache.pool), pool) {
                    cache.own.drain(drained);
                    cache.own_bytes = 0;
                }
            }
        }
    });
}

/// Removes this thread's caches of a pool, so that they no longer keep it alive.
pub(crate) fn forget(pool: &Pool) {
    let removed: Vec<_> = CACHES
        .try_with(|caches| {
            let Ok(mut caches) = caches.try_borrow_mut() else {
                return Vec::new();
            };
            let of_pool = |cache: &&mut Option<Box<ThreadCache>>| {
                let pool_of = |cache: &ThreadCache| Arc::as_ptr(&cache.pool);
                cache
                    .as_deref()
                    .map(pool_of)
                    .is_some_and(|one| std::ptr::eq(one, pool))
            };
            let removed = caches.iter_mut().filter(of_pool).map(Option::take);
            removed.collect()
        })
        .unwrap_or_default();
    drop(removed);
}

/// Removes this thread's cache for a key, which gives its blocks back.
pub(crate) fn remove(key: CacheKey) {
    let removed = CACHES.try_with(|caches| {
        let mut caches = caches.try_borrow_mut().ok()?;
        let slot = caches.get_mut(key.slot as usize)?;
        let mine = slot.as_ref().is_some_and(|cache| cache.key.id == key.id);
        if mine { slot.take() } else { None }
    });
    // Dropped outside the borrow.
    drop(removed);
}

impl Drop for ThreadCache {
    fn drop(&mut self) {
        let mut blocks = Vec::new();
        std::mem::take(&mut self.own).into_blocks(&mut blocks);
        self.shard.drain_shelf(&mut blocks);
        self.pool.take_back_from_thread(blocks, &self.shard);
    }
}
