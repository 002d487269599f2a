//! The pool of one device, composed: thread caches over class pools over arenas over the device.

#![forbid(unsafe_code)]

mod cache_limit;
mod observe;
mod recovery;
mod tuned;
mod upkeep;

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use self::cache_limit::CacheLimit;
use self::recovery::{Shortage, is_shortage};
use self::tuned::Tuned;

use crate::arena::{Arena, Reserve, SMALL_BYTES_MAX, SmallArena, Source, Want};
use crate::block::{self, ArenaKind, Block, CacheKey, ListId, Point, Sight};
use crate::buffer::Buffer;
use crate::class_pool::ClassPools;
use crate::config::{Config, LeakHandler};
use crate::device::{Device, Metered, StorageMode};
use crate::error::{Error, ErrorKind, PoolState, Result};
use crate::in_flight::Use;
use crate::name::Name;
use crate::observer::Observer;
use crate::order::{Deferred, Orders};
use crate::out_of_memory::{Callbacks, Ledger, OutOfMemoryCallback};
use crate::report::LeakReport;
use crate::request::{DEFAULT_ALIGNMENT, Request};
use crate::stats::{Counter, Stats};
use crate::strategy::{Asked, Choice, Strategy, Surroundings};
use crate::supervisor::Supervisor;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, OnceLock, Ordering, RwLock};
use crate::thread_cache::{self, Count, Shard, TallySum, ThreadTotals, Totals};
use crate::wait::{Wait, left_out};

/// Bytes that one refill of a thread's list aims at, and most blocks of it.
const REFILL_BYTES: usize = 64 << 10;
const REFILL_BLOCKS_MAX: usize = 32;
/// Requests past the caches after which queues with freed memory are signalled, so that it becomes
/// everybody's, and returnable, without anybody having to ask first.
const SIGNAL_EVERY: u64 = 16;
/// Requests past the caches between two counts of all that was served.
const OPERATIONS_EVERY: u64 = 1024;
/// Times that caches may have to be emptied before that is taken for a habit of the workload.
const SHORTAGES_FREE: u64 = 8;
/// Requests past the caches, for each time they had to be emptied, during which large blocks are not
/// cached: where holes are remapped page by page, and where that is dear or impossible.
const SHELVES_CLOSED_FOR: (u64, u64) = (64, 1 << 16);
/// Stands for the host among the domains whose requests compete.
const HOST_DOMAIN: u64 = 1 << 32;

/// Pools by their number, for buffers that are freed by a thread that has no cache yet. A pool is here
/// as long as a handle or a buffer of it exists.
static POOLS: RwLock<Option<HashMap<u64, Arc<Pool>>>> = RwLock::new(None);

/// The pool that a block belongs to.
pub(crate) fn pool_of(block: &Block) -> Option<Arc<Pool>> {
    let pools = POOLS.read();
    pools.as_ref()?.get(&block.pool().id).map(Arc::clone)
}

/// Takes a block back for which this thread's cache has no room; `counted` says whether the free was
/// counted.
#[cold]
pub(crate) fn free_past_cache(key: CacheKey, block: Block, counted: bool) {
    if let Some(pool) = pool_of(&block) {
        pool.free_cold(key, block, counted);
    }
}

/// The state of an allocator, kept alive by its handles, its buffers and the threads' caches.
#[derive(Debug)]
pub(crate) struct Pool {
    key: CacheKey,
    name: String,
    device: Arc<Metered>,
    arenas: [(Arena, SmallArena); StorageMode::ALL.len()],
    classes: ClassPools,
    orders: Orders,
    deferred: Deferred,
    reserve: Arc<Reserve>,
    pooling: AtomicBool,
    alignment: usize,
    /// Asked about each request where `chooses`.
    chooses: bool,
    strategy: Option<Arc<dyn Strategy>>,
    tuned: Tuned,
    cache_limit: CacheLimit,
    out_of_memory: Ledger,
    callbacks: Arc<Callbacks>,
    /// Keeps the configured callback registered.
    _on_out_of_memory: Option<OutOfMemoryCallback>,
    supervisor: OnceLock<Weak<Supervisor>>,
    wait_max: Duration,
    on_leak: Option<LeakHandler>,
    shards: Mutex<Vec<Arc<Shard>>>,
    /// Keeps what ended threads counted.
    shared: Shard,
    misses: AtomicU64,
    /// Requests served past the caches.
    obtained: AtomicU64,
    /// Times that caches had to be emptied for want of memory.
    shortages: AtomicU64,
    shelves_closed_for: u64,
    /// The value of `obtained` at which large blocks may lie on shelves again; 0 while they may.
    reopen_at: AtomicU64,
    failures: AtomicU64,
    /// The domain that was last served past the caches, and whether there was ever another.
    last_domain: AtomicU64,
    contended: AtomicBool,
    /// No handle is left.
    closing: AtomicBool,
    /// Everything was given back; blocks that threads still cache stand for nothing.
    closed: AtomicBool,
    /// Blocks of buffers whose owners keep only the address.
    detached: Mutex<HashMap<usize, Block>>,
    observer: Observer,
}

/// Where a request is served.
#[derive(Debug, Clone, Copy)]
struct Place {
    storage: StorageMode,
    list: ListId,
    thread_max: u8,
    bytes: usize,
    alignment: usize,
    /// Whether what is cut along with the block finds room in the thread's cache.
    refill: bool,
}

impl Pool {
    pub(crate) fn new(name: String, device: Arc<dyn Device>, config: Config) -> Result<Arc<Self>> {
        let device = Arc::new(Metered::new(device));
        let cached_bytes_max = match config.cached_bytes_max {
            Some(bytes) => bytes,
            None => device.budget()?.ceiling() / 4,
        };
        let reserve = Arc::new(Reserve::new(
            config.reserved_bytes_max,
            u64::from(config.slack_per_1024),
            u64::from(config.driver_ns_per_operation),
            (config.segment_bytes_min, config.segment_bytes_max),
        ));
        let divides = |&storage: &StorageMode| {
            let memory = device.virtual_memory(storage);
            memory.is_some_and(|memory| memory.divisible)
        };
        let divisible = device.properties().storage_modes.iter().any(divides);
        let key = CacheKey::new();
        let arena = |storage| {
            let arena = Arena::new(storage, key, Arc::clone(&device), Arc::clone(&reserve));
            (arena, SmallArena::new(storage, key))
        };
        let arenas = StorageMode::ALL.map(arena);
        let callbacks = Arc::<Callbacks>::default();
        let on_out_of_memory = match config.on_out_of_memory.clone() {
            Some(handler) => Some(callbacks.add(handler)?),
            None => None,
        };
        let chooses = config.strategy.as_ref().is_some_and(|one| one.chooses());
        let observer = Observer::new(&config);
        // Blocks of a class are aligned to 256 bytes, no more.
        let warm = config.alignment <= DEFAULT_ALIGNMENT && !chooses;
        let classes = ClassPools::new(config.classes, warm);
        let shared = Shard::new(key, classes.list_count(), Arc::default());
        let pool = Arc::new(Self {
            key,
            name,
            device,
            arenas,
            classes,
            orders: Orders::default(),
            deferred: Deferred::default(),
            reserve,
            pooling: AtomicBool::new(config.pooling),
            alignment: config.alignment,
            chooses,
            strategy: config.strategy,
            tuned: Tuned::default(),
            cache_limit: CacheLimit::new(cached_bytes_max),
            out_of_memory: Ledger::default(),
            callbacks,
            _on_out_of_memory: on_out_of_memory,
            supervisor: OnceLock::new(),
            wait_max: config.wait_max,
            on_leak: config.on_leak,
            shards: Mutex::new(Vec::new()),
            shared,
            misses: AtomicU64::new(0),
            obtained: AtomicU64::new(0),
            shortages: AtomicU64::new(0),
            shelves_closed_for: if divisible {
                SHELVES_CLOSED_FOR.0
            } else {
                SHELVES_CLOSED_FOR.1
            },
            reopen_at: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_domain: AtomicU64::new(0),
            contended: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            detached: Mutex::new(HashMap::new()),
            observer,
        });
        let mut pools = POOLS.write();
        pools
            .get_or_insert_default()
            .insert(key.id, Arc::clone(&pool));
        Ok(pool)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn key(&self) -> CacheKey {
        self.key
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        self.device.device()
    }

    pub(crate) fn orders(&self) -> &Orders {
        &self.orders
    }

    pub(crate) fn on_leak(&self) -> Option<&LeakHandler> {
        self.on_leak.as_ref()
    }

    pub(crate) fn classes(&self) -> &ClassPools {
        &self.classes
    }

    pub(crate) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.device.reserved().value
    }

    pub(crate) fn is_contended(&self) -> bool {
        self.contended.load(Ordering::Relaxed)
    }

    /// A shard for a thread's cache; `totals` are the thread's, if it has another cache of this pool.
    pub(crate) fn new_shard(&self, key: CacheKey, totals: Option<Arc<ThreadTotals>>) -> Arc<Shard> {
        let speaks = totals.is_none();
        let totals = totals.unwrap_or_default();
        let shard = Arc::new(Shard::new(key, self.classes.list_count(), totals));
        shard.set_speaks(speaks);
        if speaks {
            self.grant_credit(&shard.totals);
        }
        // Under the lock, so that a change meanwhile reaches the new shard too.
        let mut shards = self.shards.lock();
        shard.set_bypass(self.bypass());
        shards.push(Arc::clone(&shard));
        self.share_out(&shards);
        shard
    }

    /// Lets a thread's caches serve until the next sample.
    pub(crate) fn grant_credit(&self, totals: &ThreadTotals) {
        let sampler = &self.observer.sampler;
        totals.set_credit(sampler.credit(), sampler.counted_bytes_max());
    }

    /// Divides what may lie idle among the threads' caches.
    fn share_out(&self, shards: &[Arc<Shard>]) {
        let open = self.reopen_at.load(Ordering::Relaxed) == 0;
        let all = if open { self.cache_limit.bytes() } else { 0 };
        let share = usize::try_from(all / shards.len().max(1) as u64).unwrap_or(usize::MAX);
        for shard in shards {
            shard.totals.set_lent_bytes_max(share);
        }
    }

    /// A block from this thread's cache, handed out, if there is one for such a request.
    #[inline]
    pub(crate) fn take_warm(
        &self,
        key: CacheKey,
        storage: StorageMode,
        bytes: usize,
        name: Name,
    ) -> Option<Block> {
        let list = self.classes.warm_list(storage, bytes)?;
        let block = thread_cache::pop(key, list, bytes)?;
        block.hand_out(bytes, DEFAULT_ALIGNMENT, name);
        Some(block)
    }

    /// A buffer of shared storage without a name from this thread's cache.
    #[inline]
    pub(crate) fn allocate_plain(&self, bytes: usize) -> Option<Buffer> {
        self.take_warm(self.key, StorageMode::Shared, bytes, Name::default())
            .map(Buffer::new)
    }

    /// A buffer from this thread's cache, when the request needs nothing else.
    #[inline]
    pub(crate) fn allocate_warm(&self, request: &Request<'_>) -> Option<Buffer> {
        if request.zeroed || request.alignment > DEFAULT_ALIGNMENT {
            return None;
        }
        let key = match request.queue {
            None => self.key,
            Some(queue) => queue.core().key_in(self.key)?,
        };
        self.take_warm(key, request.storage, request.bytes, request.name)
            .map(Buffer::new)
    }

    /// A buffer, from wherever there is memory.
    pub(crate) fn allocate(self: &Arc<Self>, request: &Request<'_>) -> Result<Buffer> {
        let allocated = self.allocate_cold(request).and_then(|mut buffer| {
            if request.zeroed {
                match request.queue {
                    Some(queue) => drop(queue.fill(&mut buffer, 0)?),
                    None => buffer.write::<u8>()?.fill(0),
                }
            }
            Ok(buffer)
        });
        allocated.map_err(|error| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.observe_failure(error.kind());
            let error = error.for_request(request.bytes, request.name);
            match error.kind() {
                ErrorKind::OutOfMemory | ErrorKind::LimitExceeded => error.with_pool(self.state()),
                _ => error,
            }
        })
    }

    fn allocate_cold(self: &Arc<Self>, request: &Request<'_>) -> Result<Buffer> {
        let mut request = *request;
        let mut pooled = self.pooling.load(Ordering::Relaxed);
        if self.chooses
            && let Some(strategy) = &self.strategy
        {
            let Choice {
                pool,
                storage,
                alignment,
            } = strategy.choose(&Asked::of(&request), &Surroundings::of(self));
            pooled &= pool;
            request = request.storage(storage).alignment(alignment);
        }
        let place = self.place(&request)?;
        let queue = request.queue.map(|queue| queue.core());
        let key = match queue {
            None => self.key,
            Some(queue) => queue.key_in(self.key).ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidRequest,
                    "the queue belongs to another allocator",
                )
            })?,
        };
        let queue = queue.map(|queue| queue.number());
        let what = (request.bytes, request.name);
        // A recorder keeps the warm path closed, or the strategy chose after that was tried, or another
        // key had the cache's place.
        let cached = if !pooled {
            None
        } else if self.observer.recording() {
            thread_cache::pop_recorded(key, place.list, request.bytes)
        } else if thread_cache::reopen(key) || self.chooses {
            thread_cache::pop(key, place.list, request.bytes)
        } else {
            None
        };
        if let Some(mut block) = cached {
            self.observe_allocation(&mut block, what, stream_of(queue), None);
            block.hand_out(request.bytes, place.alignment, request.name);
            return Ok(Buffer::new(block));
        }
        let sampled = thread_cache::charge(key, request.bytes).then(Instant::now);
        if sampled.is_some() {
            // The cache let the request past only to be a sample, or has nothing for it.
            let popped = if pooled {
                thread_cache::pop(key, place.list, request.bytes)
            } else {
                None
            };
            thread_cache::renew_credit(key, self);
            if let Some(mut block) = popped {
                self.observe_allocation(&mut block, what, stream_of(queue), sampled);
                block.hand_out(request.bytes, place.alignment, request.name);
                return Ok(Buffer::new(block));
            }
        }
        let obtained = if pooled {
            self.obtain(place, key, queue)
        } else {
            self.obtain_direct(place)
        };
        let (mut block, source) = match obtained {
            Err(error) if is_shortage(&error) => {
                let shortage = Shortage {
                    request: &request,
                    place,
                    key,
                    queue,
                    direct: !pooled,
                };
                self.recover(&shortage, error)?
            }
            obtained => obtained?,
        };
        if source == Source::Driver {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(strategy) = &self.strategy {
            self.tune(strategy.as_ref());
        }
        let (list, bytes) = (block.list(), block.bytes());
        let count = Count::Allocation {
            requested: request.bytes,
            block_bytes: bytes,
        };
        thread_cache::count(self, key, list, count);
        self.observe_allocation(&mut block, what, stream_of(queue), sampled);
        block.hand_out(request.bytes, place.alignment, request.name);
        Ok(Buffer::new(block))
    }

    /// A block of new memory that nothing else shares.
    fn obtain_direct(&self, place: Place) -> Result<(Block, Source)> {
        let arena = &self.arenas[place.storage.index()].0;
        let want = place.want(ListId::DIRECT, None, false);
        let block = arena.direct(&want, &|point| self.orders.passed(point))?;
        Ok((block, Source::Driver))
    }

    fn place(&self, request: &Request<'_>) -> Result<Place> {
        let properties = self.device.properties();
        request.validate(properties.segment_bytes_max)?;
        if !properties.storage_modes.contains(&request.storage) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the device has no such storage mode; see DeviceProperties::storage_modes",
            ));
        }
        if request.zeroed && request.queue.is_none() && request.storage == StorageMode::Private {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "zeroed private storage needs a queue to zero it on; see Request::queue",
            ));
        }
        let alignment = request
            .alignment
            .max(self.alignment)
            .max(properties.alignment_min);
        let classes = self.classes.classes();
        // Blocks of a class are aligned to 256 bytes, no more.
        let class = classes
            .index_of(request.bytes)
            .filter(|_| alignment <= DEFAULT_ALIGNMENT);
        let refill = class.is_some() && !self.observer.recording();
        Ok(match class {
            Some(class) => Place {
                storage: request.storage,
                list: self.classes.list(request.storage, class),
                thread_max: self.tuned.thread_max(&classes.as_slice()[class]),
                bytes: classes.as_slice()[class].bytes,
                alignment,
                refill,
            },
            None => Place {
                storage: request.storage,
                list: ListId::NONE,
                thread_max: 0,
                // Cannot overflow: the request is at most a segment's length.
                bytes: request.bytes.next_multiple_of(DEFAULT_ALIGNMENT),
                alignment,
                refill,
            },
        })
    }

    /// A block past this thread's cache.
    fn obtain(
        self: &Arc<Self>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
    ) -> Result<(Block, Source)> {
        // A thread's first request makes its cache, so that a refill has where to go.
        thread_cache::count(self, key, ListId::NONE, Count::Nothing);
        let domain = queue.map_or(HOST_DOMAIN, u64::from) + 1;
        let last = self.last_domain.swap(domain, Ordering::Relaxed);
        if last != 0 && last != domain {
            self.contended.store(true, Ordering::Relaxed);
        }
        if queue.is_none() && place.list.is_some() && place.bytes <= SMALL_BYTES_MAX {
            let mut blocks = self.classes.take(place.list, place.refill_blocks());
            if let Some(block) = blocks.pop() {
                self.keep(key, blocks);
                return Ok((block, Source::Held));
            }
        }
        self.classes.count_miss(place.list);
        let signal = self.note_operations().is_multiple_of(SIGNAL_EVERY);
        let contended = self.is_contended();
        if contended || signal {
            self.collect(signal);
        }
        let held = |pool: &Arc<Self>| pool.obtain_held(place, key, queue, contended);
        if let Some(block) = held(self) {
            return Ok((block, Source::Held));
        }
        self.reserve
            .note_live(self.totals().live + place.bytes as u64);
        if self.collect(false)
            && let Some(block) = held(self)
        {
            return Ok((block, Source::Held));
        }
        if self.reserve.slack() < place.bytes as u64 {
            self.collect(true);
            // What lies in caches while shelves are closed is small, and scattered.
            if self.shelves_open() || place.is_small() {
                let drained = self.drain_caches(false);
                // Emptying caches that hold little, as those of a program that only grows, costs nothing.
                if drained > place.bytes / 8 {
                    self.close_shelves();
                }
            } else {
                self.close_shelves();
            }
            if let Some(block) = held(self) {
                return Ok((block, Source::Held));
            }
        }
        self.grow(place, key, queue, contended)
    }

    /// From time to time, tells the arenas how much was served, for which they may spend driver time.
    /// Returns the number of this request.
    fn note_operations(&self) -> u64 {
        let obtained = self.obtained.fetch_add(1, Ordering::Relaxed);
        self.reopen_shelves(obtained);
        if obtained.is_multiple_of(OPERATIONS_EVERY) {
            let lists = self.list_totals();
            let served = |list: &TallySum| list.allocations.wrapping_add(list.frees);
            let all = lists.iter().map(served).fold(0, u64::wrapping_add);
            self.reserve.note_operations(all);
        }
        obtained
    }

    /// Large blocks go past the threads' shelves for a while: idle there, they keep the free memory
    /// between them apart. The more often that cost something, the longer.
    /// A workload that only changes its sizes is short a few times.
    fn close_shelves(&self) {
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
    fn shelves_open(&self) -> bool {
        self.reopen_at.load(Ordering::Relaxed) == 0
    }

    fn reopen_shelves(&self, obtained: u64) {
        let reopen_at = self.reopen_at.load(Ordering::Relaxed);
        if reopen_at != 0 && obtained >= reopen_at {
            self.reopen_at.store(0, Ordering::Relaxed);
            self.share_out(&self.shards.lock());
        }
    }

    /// A block from memory that is free in an arena.
    fn obtain_held(
        self: &Arc<Self>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
        contended: bool,
    ) -> Option<Block> {
        let (arena, small) = &self.arenas[place.storage.index()];
        let want = place.want(place.list, queue, contended);
        if !place.is_small() {
            let block = arena.allocate(&want, &|point| self.orders.passed(point))?;
            self.classes.count_cut(place.list, place.bytes);
            return Some(block);
        }
        let mut more = Vec::new();
        let count = place.refill_blocks();
        let first = small.allocate(&want, count, &mut more).or_else(|| {
            let span = place.span(small, queue, contended);
            let span = arena.allocate(&span, &|point| self.orders.passed(point))?;
            small.add_span(span);
            small.allocate(&want, count, &mut more)
        })?;
        self.classes
            .count_cut(place.list, place.bytes * (more.len() + 1));
        self.keep(key, more);
        Some(first)
    }

    /// A block from more memory, or from holes mapped together.
    fn grow(
        self: &Arc<Self>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
        contended: bool,
    ) -> Result<(Block, Source)> {
        let (arena, small) = &self.arenas[place.storage.index()];
        let passed = |point| self.orders.passed(point);
        if !place.is_small() {
            let want = place.want(place.list, queue, contended);
            let grown = arena.grow(&want, &passed)?;
            self.classes.count_cut(place.list, place.bytes);
            return Ok(grown);
        }
        loop {
            let span = place.span(small, queue, contended);
            let (span, source) = arena.grow(&span, &passed)?;
            small.add_span(span);
            // Another thread may have used up the span already.
            if let Some(block) = self.obtain_held(place, key, queue, contended) {
                return Ok((block, source));
            }
        }
    }

    /// Puts a batch into this thread's list; what has no room goes back.
    fn keep(self: &Arc<Self>, key: CacheKey, blocks: Vec<Block>) {
        for block in thread_cache::refill(key, blocks) {
            self.release(block);
        }
    }

    /// Takes a block back from a buffer; `uses` are those that may not be over.
    pub(crate) fn free(self: &Arc<Self>, mut block: Block, uses: Vec<Use>) {
        block.take_back();
        if !uses.is_empty() {
            let last = uses.last().map(|last| last.fence.queue().number);
            self.observe_free(&mut block, last.map(|queue| u64::from(queue) + 1));
            self.count_free(self.key, &block);
            match self.orders.single_point(self.key, &uses) {
                Some(point) => {
                    block.set_point(Some(point));
                    self.release(block);
                }
                None => self.deferred.put(block, uses),
            }
            self.close_if_idle();
            return;
        }
        thread_cache::push(self.key, block);
    }

    fn count_free(self: &Arc<Self>, key: CacheKey, block: &Block) {
        let count = Count::Free {
            requested: block.requested(),
            block_bytes: block.bytes(),
        };
        thread_cache::count(self, key, block.list(), count);
    }

    /// Takes a block back for which a cache had no room.
    fn free_cold(self: &Arc<Self>, key: CacheKey, mut block: Block, counted: bool) {
        let list = block.list();
        if !counted {
            self.count_free(key, &block);
        }
        let sampled = self.observe_free(&mut block, None);
        let pooled = list.is_some()
            && self.pooling.load(Ordering::Relaxed)
            && !self.closing.load(Ordering::Relaxed);
        if pooled && (sampled || self.observer.recording()) {
            // But for being watched, it would lie in the thread's cache.
            if let Some(block) = thread_cache::push_watched(key, block) {
                self.release(block);
            }
        } else if pooled {
            // The first block of a thread makes its cache; a full one makes room.
            let surplus = thread_cache::take_surplus(key, list);
            let (mut batch, others): (Vec<_>, Vec<_>) =
                surplus.into_iter().partition(|block| block.list() == list);
            for block in others {
                self.release(block);
            }
            batch.extend(thread_cache::refill(key, vec![block]));
            let ordered = batch.iter().any(|block| block.point().is_some());
            let rest = if ordered {
                batch
            } else {
                self.classes.put(list, batch)
            };
            for block in rest {
                self.release(block);
            }
        } else {
            self.release(block);
        }
        self.close_if_idle();
    }

    /// Gives a block back to its arena, and memory beyond the limit on idle memory back to the device.
    fn release(&self, block: Block) {
        if self.closed.load(Ordering::Relaxed) {
            block.retire();
            return;
        }
        let contended = self.is_contended();
        let (arena, small) = &self.arenas[block.storage().index()];
        let point = self.orders.pending_point(&block);
        if contended
            && let Some(point) = point
            && let Some(queue) = self.orders.get(point.queue)
            && queue.signalled() < point.value
        {
            queue.note_freed(block.bytes());
        }
        self.classes.count_returned(block.list(), block.bytes());
        let direct = block.list() == ListId::DIRECT;
        let freed = match block.arena() {
            ArenaKind::Small => match small.release(block, point, contended) {
                Some(span) => arena.release(span, None, contended),
                None => None,
            },
            ArenaKind::Large => arena.release(block, point, contended),
        };
        let Some(freed) = freed else {
            return;
        };
        if direct || !self.pooling.load(Ordering::Relaxed) {
            arena.trim_range(freed);
            return;
        }
        let idle = self.idle_bytes();
        let most = self.cache_limit.bytes();
        if idle > most && freed.bytes as u64 > (idle - most) / 8 {
            let excess = usize::try_from(idle - most).unwrap_or(usize::MAX);
            arena.trim(excess, &|point| self.orders.passed(point));
        }
    }

    /// What a thread leaves behind when it ends. No driver is called.
    pub(crate) fn take_back_from_thread(&self, blocks: Vec<Block>, shard: &Arc<Shard>) {
        {
            let mut shards = self.shards.lock();
            shards.retain(|one| !Arc::ptr_eq(one, shard));
            self.shared.absorb_lists(shard);
            if shard.speaks() {
                let heir = |one: &&Arc<Shard>| Arc::ptr_eq(&one.totals, &shard.totals);
                match shards.iter().find(heir) {
                    Some(heir) => heir.set_speaks(true),
                    None => self.shared.totals.absorb(&shard.totals),
                }
            }
            self.share_out(&shards);
        }
        self.give_back(blocks);
        // Its last free may have gone unseen by whoever closed the pool.
        self.close_if_idle();
    }

    /// Gives blocks back to their arenas without calling a driver.
    fn give_back(&self, blocks: Vec<Block>) {
        let closed = self.closed.load(Ordering::Relaxed);
        let contended = self.is_contended();
        for block in blocks {
            if closed {
                block.retire();
                continue;
            }
            let (arena, small) = &self.arenas[block.storage().index()];
            let point = self.orders.pending_point(&block);
            self.classes.count_returned(block.list(), block.bytes());
            match block.arena() {
                ArenaKind::Small => {
                    if let Some(span) = small.release(block, point, contended) {
                        arena.release(span, None, contended);
                    }
                }
                ArenaKind::Large => {
                    arena.release(block, point, contended);
                }
            }
        }
    }

    /// Empties what threads cache, as far as it can be taken from them, and the class pools, into the
    /// arenas; unless `all`, each class keeps as many blocks as it started with. Returns the bytes.
    fn drain_caches(&self, all: bool) -> usize {
        let mut drained = Vec::new();
        thread_cache::drain_own(self, &mut drained);
        let shards = self.shards.lock().clone();
        for shard in shards {
            shard.drain_lent(|_| true, &mut drained);
        }
        self.classes.drain(&mut drained);
        if !all {
            drained = self.classes.keep_initial(drained);
        }
        let bytes = drained.iter().map(Block::bytes).sum();
        self.give_back(drained);
        self.release_empty_spans();
        bytes
    }

    /// Gives spans without a small block back to their arenas.
    fn release_empty_spans(&self) {
        for (arena, small) in &self.arenas {
            for span in small.take_empty() {
                arena.release(span, None, self.is_contended());
            }
        }
    }

    /// Makes memory free whose work is over; with `signal`, marks the queues that have pending memory
    /// which no signal covers yet. True if there was any.
    fn collect(&self, signal: bool) -> bool {
        let mut any = false;
        if !self.deferred.is_empty() {
            for block in self.deferred.collect() {
                any = true;
                self.release(block);
            }
        }
        if self.orders.is_empty() {
            return any;
        }
        let mut queues = Vec::new();
        for (arena, small) in &self.arenas {
            arena.pending_queues(&mut queues);
            small.pending_queues(&mut queues);
        }
        queues.sort_unstable();
        queues.reverse();
        queues.dedup_by_key(|(queue, _)| *queue);
        self.orders.forget_ended();
        for (queue, value) in queues {
            if signal {
                self.orders.cover(Point { queue, value });
            }
            let completed = match self.orders.completed(queue) {
                _ if left_out(Wait::Collect) => u64::MAX,
                completed => completed,
            };
            for (arena, small) in &self.arenas {
                any |= arena.pass(queue, completed);
                any |= small.pass(queue, completed);
            }
        }
        any
    }

    /// Waits up to `timeout` in all for the work that pending memory waits for.
    fn wait(&self, timeout: Duration) {
        let start = Instant::now();
        self.deferred.wait(timeout);
        let mut queues = Vec::new();
        for (arena, small) in &self.arenas {
            arena.pending_queues(&mut queues);
            small.pending_queues(&mut queues);
        }
        for (queue, value) in queues {
            let left = timeout.saturating_sub(start.elapsed());
            self.orders.wait(Point { queue, value }, left);
        }
        self.collect(true);
    }

    /// Returns all idle memory to the device; says how many bytes.
    pub(crate) fn clear(&self) -> usize {
        self.collect(true);
        self.drain_caches(true);
        self.trim(usize::MAX)
    }

    /// Switches pooling; returns what it was.
    pub(crate) fn set_pooling(&self, on: bool) -> bool {
        let before = self.pooling.swap(on, Ordering::Relaxed);
        self.update_bypass();
        if before && !on {
            let _bytes = self.clear();
        }
        before
    }

    /// Whether threads must go past their caches.
    fn bypass(&self) -> bool {
        !self.pooling.load(Ordering::Relaxed)
            || self.closing.load(Ordering::Relaxed)
            || self.observer.recording()
    }

    fn update_bypass(&self) {
        let shards = self.shards.lock();
        let on = self.bypass();
        for shard in shards.iter() {
            shard.set_bypass(on);
        }
    }

    /// Sets the limit on idle memory; returns what it was.
    pub(crate) fn set_cached_bytes_max(&self, bytes: u64) -> u64 {
        let before = self.cache_limit.set(bytes);
        self.share_out(&self.shards.lock());
        self.shed_idle();
        before
    }

    /// Those asked when memory is out.
    pub(crate) fn callbacks(&self) -> &Arc<Callbacks> {
        &self.callbacks
    }

    /// Makes known who watches over the pool.
    pub(crate) fn supervise(&self, supervisor: &Arc<Supervisor>) {
        // A pool has one for its life.
        let _second = self.supervisor.set(Arc::downgrade(supervisor));
    }

    fn supervisor(&self) -> Option<Arc<Supervisor>> {
        self.supervisor.get()?.upgrade()
    }

    /// Keeps a buffer's block while its owner has only the address.
    pub(crate) fn detach(&self, block: Block) {
        block.set_detached(true);
        if let Some(address) = block.host() {
            self.detached.lock().insert(address.as_ptr().addr(), block);
        }
    }

    /// The buffer that was given up at an address.
    pub(crate) fn attach(&self, address: usize) -> Option<Buffer> {
        let block = self.detached.lock().remove(&address)?;
        block.set_detached(false);
        Some(Buffer::new(block))
    }

    /// The live buffer that contains an address.
    pub(crate) fn find(&self, address: usize) -> Option<Sight> {
        let mut arenas = self.arenas.iter();
        arenas.find_map(|(arena, small)| small.find(address).or_else(|| arena.find(address)))
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
    fn close_if_idle(&self) {
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
            for (arena, _) in &self.arenas {
                arena.close(&passed);
            }
        } else {
            tracing::error!(
                pool = %self.name,
                bytes = self.deferred_bytes(),
                "work in flight never ended; its memory is kept for the life of the process"
            );
            for (arena, _) in &self.arenas {
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

    /// Forgets what building the allocator counted; nothing is live then.
    pub(crate) fn reset_counters(&self) {
        for shard in self.shards.lock().iter() {
            shard.reset();
        }
        self.classes.reset();
        self.misses.store(0, Ordering::Relaxed);
        self.shortages.store(0, Ordering::Relaxed);
        self.reopen_at.store(0, Ordering::Relaxed);
    }

    /// What was counted per list, and last for blocks without one.
    fn list_totals(&self) -> Vec<TallySum> {
        let mut lists = vec![TallySum::default(); self.classes.list_count() + 1];
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        for shard in shards.iter() {
            shard.add_lists_to(&mut lists);
        }
        self.shared.add_lists_to(&mut lists);
        lists
    }

    /// Buffers that users hold.
    fn live_buffers(&self) -> u64 {
        let lists = self.list_totals();
        let live = lists
            .iter()
            .map(|list| list.allocations.wrapping_sub(list.frees));
        live.fold(0, u64::wrapping_add)
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        // Until all is added, so that no thread that ends is counted twice.
        let shards = self.shards.lock();
        for shard in shards.iter().filter(|shard| shard.speaks()) {
            shard.totals.add_to(&mut totals);
        }
        self.shared.totals.add_to(&mut totals);
        totals
    }

    fn idle_bytes(&self) -> u64 {
        let used = self.totals().block_bytes + self.deferred_bytes();
        self.device.reserved().value.saturating_sub(used)
    }

    fn deferred_bytes(&self) -> u64 {
        let pending =
            |(arena, small): &(Arena, SmallArena)| arena.free().pending + small.free().pending;
        let arenas: usize = self.arenas.iter().map(pending).sum();
        self.deferred.bytes() + arenas as u64
    }

    fn state(&self) -> PoolState {
        PoolState {
            live: self.totals().live,
            cached: self.idle_bytes(),
            reserved: self.device.reserved().value,
            limit: self.reserve.limit(),
            largest_free: self.largest_free() as u64,
        }
    }

    fn largest_free(&self) -> usize {
        let arenas = self.arenas.iter();
        arenas
            .map(|(arena, _)| arena.free().largest)
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn stats(&self) -> Stats {
        let totals = self.totals();
        let lists = self.list_totals();
        let sum = |value: fn(&TallySum) -> u64| lists.iter().map(value).fold(0, u64::wrapping_add);
        let allocations = sum(|list| list.allocations);
        let (driver_calls, driver_failures) = self.device.calls();
        let (driver_real_ns, driver_charged_ns) = self.device.times_ns();
        let reserved = self.device.reserved();
        let misses = self.misses.load(Ordering::Relaxed);
        let free: usize = self
            .arenas
            .iter()
            .map(|(arena, small)| arena.free().bytes + small.free().bytes)
            .sum();
        let deferred_bytes = self.deferred_bytes();
        Stats {
            live: Counter {
                value: totals.live,
                peak: totals.live_peak.max(totals.live),
                total: sum(|list| list.allocated_bytes),
            },
            reserved,
            limit: self.reserve.limit(),
            block_bytes: totals.block_bytes,
            cached_bytes: reserved
                .value
                .saturating_sub(totals.block_bytes + deferred_bytes),
            deferred_bytes,
            allocations,
            frees: sum(|list| list.frees),
            hits: allocations.saturating_sub(misses),
            misses,
            growths: self.reserve.growths(),
            remaps: self.reserve.remaps(),
            failures: self.failures.load(Ordering::Relaxed),
            memory_failures: self.observer.memory_failures.load(Ordering::Relaxed),
            driver_calls,
            driver_failures,
            driver_ns: driver_real_ns + driver_charged_ns,
            driver_charged_ns,
            segments: self.arenas.iter().map(|(arena, _)| arena.pieces()).sum(),
            free_bytes: free as u64,
            largest_free: self.largest_free(),
            classes: self.classes.stats(&lists),
            out_of_memory: self.out_of_memory.read(),
            pressure: self.usage().map_or(0.0, |usage| usage.ratio()),
            ..Stats::default()
        }
    }

    pub(crate) fn live_report(&self) -> LeakReport {
        let mut report = LeakReport::new(&self.name);
        block::for_each_live(self.key, |sight| report.add(sight.name, sight.requested));
        report.sorted(&self.observer.sampler.live())
    }
}

/// The number of a queue's stream in records; zero is the host's.
fn stream_of(queue: Option<u32>) -> u64 {
    queue.map_or(0, |queue| u64::from(queue) + 1)
}

impl Place {
    fn is_small(&self) -> bool {
        self.bytes <= SMALL_BYTES_MAX && self.alignment <= SMALL_BYTES_MAX / 16
    }

    fn refill_blocks(&self) -> usize {
        if self.refill {
            (REFILL_BYTES / self.bytes).clamp(1, REFILL_BLOCKS_MAX)
        } else {
            1
        }
    }

    fn want(&self, list: ListId, queue: Option<u32>, contended: bool) -> Want {
        Want {
            bytes: self.bytes,
            alignment: self.alignment,
            list,
            thread_max: self.thread_max,
            queue,
            contended,
        }
    }

    /// The span to cut small blocks from.
    fn span(&self, small: &SmallArena, queue: Option<u32>, contended: bool) -> Want {
        Want {
            bytes: small.next_span_bytes().max(self.bytes + self.alignment),
            alignment: DEFAULT_ALIGNMENT,
            list: ListId::NONE,
            thread_max: 0,
            queue,
            contended,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut drained = Vec::new();
        self.classes.drain(&mut drained);
        for block in drained {
            block.retire();
        }
    }
}
