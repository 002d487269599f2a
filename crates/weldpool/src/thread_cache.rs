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
use crate::shard::Shard;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::tally::{GROUP, TallyGroup};

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
    groups: Vec<Option<Box<Group>>>,
    own_bytes: usize,
}

/// The blocks that the thread keeps for itself alone, and what it counted, of a group of lists.
#[derive(Debug)]
struct Group {
    own: [Vec<Block>; GROUP],
    tallies: Arc<TallyGroup>,
}

impl ThreadCache {
    #[inline]
    fn group(&mut self, list: ListId) -> Option<&mut Group> {
        self.groups.get_mut(list.index() / GROUP)?.as_deref_mut()
    }

    /// Makes the group of a list, which is one of the pool's.
    #[cold]
    fn make_group(&mut self, list: ListId) {
        let number = list.index() / GROUP;
        if number >= self.groups.len() {
            self.groups.resize_with(number + 1, || None);
        }
        let tallies = self.shard.tallies.group(number);
        let own = std::array::from_fn(|_| Vec::new());
        self.groups[number].get_or_insert_with(|| Box::new(Group { own, tallies }));
    }

    fn count_allocation(&mut self, list: ListId, requested: u64, block_bytes: usize) {
        self.shard.count_allocation(requested, block_bytes);
        if list.is_some() {
            self.make_group(list);
        }
        match self.group(list) {
            Some(group) => group.tallies[list.index() % GROUP].count_allocation(requested),
            None => self.shard.tallies.unlisted.count_allocation(requested),
        }
    }

    fn count_free(&mut self, list: ListId, requested: u64, block_bytes: usize) {
        self.shard.count_free(requested, block_bytes);
        if list.is_some() {
            self.make_group(list);
        }
        match self.group(list) {
            Some(group) => group.tallies[list.index() % GROUP].count_free(requested),
            None => self.shard.tallies.unlisted.count_free(requested),
        }
    }

    fn drain_own(&mut self, blocks: &mut Vec<Block>) {
        self.own_bytes = 0;
        for group in self.groups.iter_mut().flatten() {
            for list in &mut group.own {
                blocks.append(list);
            }
        }
    }
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
        let group = cache.groups.get_mut(list.index() / GROUP)?.as_deref_mut()?;
        let index = list.index() % GROUP;
        let block = match group.own[index].pop() {
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
        let requested = requested as u64;
        group.tallies[index].count_allocation(requested);
        cache.shard.count_allocation(requested, block.bytes());
        Some(block)
    })
}

/// Puts a block into this thread's cache, counted as given back. Where there is no cache, or no room,
/// the block comes back.
#[inline]
pub(crate) fn push(key: CacheKey, block: Block) -> Result<(), Pushed> {
    let mut left = Some(block);
    let mut counted = false;
    with(key, |cache| {
        let list = left.as_ref()?.list();
        let group = cache.groups.get_mut(list.index() / GROUP)?.as_deref_mut()?;
        let block = left.take()?;
        let (bytes, index) = (block.bytes(), list.index() % GROUP);
        let requested = block.requested() as u64;
        group.tallies[index].count_free(requested);
        cache.shard.count_free(requested, bytes);
        counted = true;
        if cache.shard.bypassed() {
            left = Some(block);
            return None;
        }
        if bytes <= SMALL_BYTES_MAX && cache.own_bytes + bytes <= OWN_BYTES_MAX {
            let own = &mut group.own[index];
            if own.len() < block.thread_max() {
                own.push(block);
                cache.own_bytes += bytes;
                return Some(());
            }
        }
        let mut shelf = cache.shard.shelf();
        if shelf.bytes + bytes <= cache.pool.shelf_bytes_max() {
            let blocks = shelf.lists.make(list);
            if blocks.len() < block.thread_max() {
                blocks.push(block);
                shelf.bytes += bytes;
                return Some(());
            }
        }
        left = Some(block);
        None
    });
    match left {
        None => Ok(()),
        Some(block) => Err(Pushed { block, counted }),
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
            let (list, bytes) = (block.list(), block.bytes());
            if cache.own_bytes + bytes > OWN_BYTES_MAX {
                break;
            }
            cache.make_group(list);
            let own = &mut cache.group(list)?.own[list.index() % GROUP];
            if own.len() >= block.thread_max() {
                break;
            }
            own.extend(blocks.pop());
            cache.own_bytes += bytes;
        }
        Some(())
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
    fn count(&mut self, list: ListId, count: Count) {
        match count {
            Count::Nothing => {}
            Count::Allocation {
                requested,
                block_bytes,
            } => self.count_allocation(list, requested as u64, block_bytes),
            Count::Free {
                requested,
                block_bytes,
            } => self.count_free(list, requested as u64, block_bytes),
        }
    }
}

/// Counts for this thread, whose cache is made if there is none; for the pool while the thread is
/// ending.
pub(crate) fn count(pool: &Arc<Pool>, key: CacheKey, list: ListId, count: Count) {
    let counted = with(key, |cache| {
        cache.count(list, count);
        Some(())
    });
    if counted.is_some() {
        return;
    }
    let mut made = ThreadCache {
        key,
        pool: Arc::clone(pool),
        shard: pool.new_shard(),
        groups: Vec::new(),
        own_bytes: 0,
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
        }
    });
    // The stale cache of the slot, or the new one of a thread that is ending: dropped outside the
    // borrow, either leaves its blocks and what it counted to the pool.
    drop(made);
}

/// Takes everything out of this thread's own lists of all caches of a pool.
pub(crate) fn drain_own(pool: &Pool, drained: &mut Vec<Block>) {
    let _ended = CACHES.try_with(|caches| {
        if let Ok(mut caches) = caches.try_borrow_mut() {
            for cache in caches.iter_mut().flatten() {
                if std::ptr::eq(Arc::as_ptr(&cache.pool), pool) {
                    cache.drain_own(drained);
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
        self.drain_own(&mut blocks);
        self.shard.drain_shelf(&mut blocks);
        self.pool.take_back_from_thread(blocks, &self.shard);
    }
}
