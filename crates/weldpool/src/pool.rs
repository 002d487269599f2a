//! The pool of one device, composed: thread caches over class pools over arenas over the device.

#![forbid(unsafe_code)]

mod addresses;
mod allocate;
mod arenas;
mod cache_limit;
mod close;
mod copies;
mod expose;
mod figures;
mod free;
mod held;
mod idle;
mod nodes;
mod observe;
mod place;
mod recovery;
mod shelves;
mod threads;
mod tuned;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use self::arenas::Arenas;
use self::cache_limit::CacheLimit;
use self::shelves::ShelfRules;
use self::tuned::Tuned;
use crate::arena::Reserve;
use crate::block::{Block, CacheKey};
use crate::class_pool::ClassPools;
use crate::config::{Config, LeakHandler};
use crate::device::{Device, Metered, StorageMode, ZeroedPages};
use crate::error::Result;
use crate::exposed::ExposedMemory;
use crate::high_water::HighWater;
use crate::observer::Observer;
use crate::order::{Deferred, Orders};
use crate::out_of_memory::{Callbacks, Ledger, OutOfMemoryCallback};
use crate::profiling::{SlowPath, Span};
use crate::registered::{Adoptions, Ranges};
use crate::request::DEFAULT_ALIGNMENT;
use crate::strategy::Strategy;
use crate::supervisor::Supervisor;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, RwLock};
use crate::thread_cache::{Bins, Shard};
use crate::transfer::Means;

/// Pools by their number, for buffers that are freed by a thread that has no cache yet. A pool is here
/// as long as a handle or a buffer of it exists.
static POOLS: RwLock<BTreeMap<u64, Arc<Pool>>> = RwLock::new(BTreeMap::new());

/// The pool that a block belongs to.
pub(crate) fn pool_of(block: &Block) -> Option<Arc<Pool>> {
    pool_numbered(block.pool().id)
}

/// The pool of a number, while it is there.
pub(crate) fn pool_numbered(number: u64) -> Option<Arc<Pool>> {
    POOLS.read().get(&number).map(Arc::clone)
}

/// Whether the driver of some pool's device must not be called on this thread now.
pub(crate) fn calls_are_forbidden() -> bool {
    let forbids = |pool: &Arc<Pool>| !pool.device().may_be_called();
    POOLS.read().values().any(forbids)
}

/// Takes a block back for which this thread's cache has no room.
#[cold]
pub(crate) fn free_past_cache(key: CacheKey, block: Block) {
    if let Some(pool) = pool_of(&block) {
        pool.free_cold(key, block);
    }
}

/// The state of an allocator, kept alive by its handles, its buffers and the threads' caches.
#[derive(Debug)]
pub struct Pool {
    key: CacheKey,
    name: String,
    device: Arc<Metered>,
    arenas: Arenas,
    exposed: ExposedMemory,
    classes: ClassPools,
    orders: Orders,
    deferred: Deferred,
    registered: Ranges,
    adoptions: Adoptions,
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
    /// Whether the level of memory pressure is raised.
    pressed: AtomicBool,
    wait_max: Duration,
    on_leak: Option<LeakHandler>,
    shards: Mutex<Vec<Arc<Shard>>>,
    /// For threads for which the system has no others.
    unused_bins: Arc<ZeroedPages>,
    /// Of requested bytes.
    live_water: HighWater,
    /// Keeps what ended threads counted.
    shared: Shard,
    misses: AtomicU64,
    /// Requests served past the caches.
    obtained: AtomicU64,
    /// Times that caches had to be emptied for want of memory.
    shortages: AtomicU64,
    shelf_rules: ShelfRules,
    /// Small blocks may lie in caches whatever large ones do.
    small_kept: AtomicBool,
    /// The value of `obtained` at which large blocks may lie on shelves again; 0 while they may.
    reopen_at: AtomicU64,
    failures: AtomicU64,
    /// The domain that was last served past the caches, and whether there was ever another.
    last_domain: AtomicU64,
    contended: AtomicBool,
    /// Threads that hold blocks which are counted as free and lie nowhere yet.
    moving: AtomicUsize,
    /// No handle is left.
    closing: AtomicBool,
    /// Everything was given back; blocks that threads still cache stand for nothing.
    closed: AtomicBool,
    /// No memory waits for any queue any more.
    given_back: AtomicBool,
    /// A thread is to close it.
    leaving: AtomicBool,
    /// Held by whoever gives it back.
    ending: Mutex<()>,
    observer: Observer,
    /// What copies from and to its memory go through.
    means: Means,
}

impl Pool {
    pub(crate) fn new(name: String, device: Arc<dyn Device>, config: Config) -> Result<Arc<Self>> {
        close::close_late_now();
        let device = Arc::new(Metered::new(device, &config.profiling));
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
        let strategy = config.strategy.clone();
        let strategy = strategy.map(|one| one.for_allocator().unwrap_or(one));
        let chooses = strategy.as_ref().is_some_and(|one| one.chooses());
        let unused_bins = Bins::unused()?;
        let callbacks = Arc::<Callbacks>::default();
        let on_out_of_memory = match config.on_out_of_memory.clone() {
            Some(handler) => Some(callbacks.add(handler)?),
            None => None,
        };
        // Nothing fails from here on, so that the key's slot is not lost.
        let key = CacheKey::new();
        let arenas = Arenas::new(key, &device, &reserve);
        let exposed = ExposedMemory::new(key, &device, &reserve);
        let observer = Observer::new(&config);
        // Blocks of a class are aligned to 256 bytes, no more.
        let warm = config.alignment <= DEFAULT_ALIGNMENT && !chooses;
        let tuned = Tuned::new(
            config.classes.as_slice().len(),
            config.slack_per_1024,
            divisible,
        );
        let classes = ClassPools::new(config.classes, warm, arenas.node_count());
        let shared = Shard::counting(key, classes.list_count(), &unused_bins);
        let pool = Arc::new(Self {
            key,
            name,
            device,
            arenas,
            exposed,
            classes,
            orders: Orders::default(),
            deferred: Deferred::default(),
            registered: Ranges::default(),
            adoptions: Adoptions::default(),
            reserve,
            pooling: AtomicBool::new(config.pooling),
            alignment: config.alignment,
            chooses,
            strategy,
            tuned,
            cache_limit: CacheLimit::new(cached_bytes_max, config.cached_bytes_max.is_some()),
            out_of_memory: Ledger::default(),
            callbacks,
            _on_out_of_memory: on_out_of_memory,
            supervisor: OnceLock::new(),
            pressed: AtomicBool::new(false),
            wait_max: config.wait_max,
            on_leak: config.on_leak,
            shards: Mutex::new(Vec::new()),
            unused_bins,
            live_water: HighWater::default(),
            shared,
            misses: AtomicU64::new(0),
            obtained: AtomicU64::new(0),
            shortages: AtomicU64::new(0),
            shelf_rules: ShelfRules::new(divisible),
            small_kept: AtomicBool::new(false),
            reopen_at: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_domain: AtomicU64::new(0),
            contended: AtomicBool::new(false),
            moving: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            given_back: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            ending: Mutex::default(),
            observer,
            means: Means::default(),
        });
        POOLS.write().insert(key.id, Arc::clone(&pool));
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

    pub(crate) fn metered(&self) -> &Metered {
        &self.device
    }

    /// Begins a span, for profilers.
    pub(crate) fn span(&self, path: SlowPath, bytes: usize) -> Span<'_> {
        self.device.span(path, bytes)
    }

    /// Memory of others that the device knows.
    pub(crate) fn registered(&self) -> &Ranges {
        &self.registered
    }

    /// What was adopted.
    pub(crate) fn adoptions(&self) -> &Adoptions {
        &self.adoptions
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
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut drained = Vec::new();
        self.classes.drain(|_| true, &mut drained);
        for block in drained {
            block.retire();
        }
    }
}
