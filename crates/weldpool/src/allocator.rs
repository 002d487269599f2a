//! The pool of one device: class pools over arenas over the device.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::time::Duration;

use crate::address_map::BlockInfo;
use crate::arena::{Arenas, Place};
use crate::block::{ArenaKind, Block, Home, LiveRecord};
use crate::buffer::Buffer;
use crate::class_pool::ClassPools;
use crate::config::{Config, LeakHandler};
use crate::device::host::HostDevice;
use crate::device::{Device, Metered, StorageMode};
use crate::error::{Error, ErrorKind, PoolState, Result};
use crate::in_flight::{InFlight, Use};
use crate::order::Deferred;
use crate::queue::Queue;
use crate::report::LeakReport;
use crate::request::{DEFAULT_ALIGNMENT, Request};
use crate::stats::{AtomicCounter, Stats};
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering};

/// A handle to the pool of one device. Cloning it shares the pool.
///
/// Buffers keep the pool alive, so they may outlive every handle; when the last handle is dropped,
/// those that still do are reported, and idle memory goes back to the device.
#[derive(Debug, Clone)]
pub struct Allocator {
    handle: Arc<Handle>,
}

/// What all clones of an [`Allocator`] share; its drop is the drop of the last one.
#[derive(Debug)]
struct Handle {
    pool: Arc<Pool>,
}

/// Builds an [`Allocator`].
#[derive(Debug)]
#[must_use]
pub struct AllocatorBuilder {
    device: Arc<dyn Device>,
    config: Config,
    name: String,
}

impl AllocatorBuilder {
    /// Sets the configuration.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Names the pool in reports and logs. Default: the device's kind and number.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Validates the configuration and makes the blocks that the size classes start with.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field, or what the device says.
    pub fn build(self) -> Result<Allocator> {
        self.config.validate()?;
        let device = Arc::new(Metered::new(self.device));
        let cached_bytes_max = match self.config.cached_bytes_max {
            Some(bytes) => bytes,
            None => device.budget()?.ceiling() / 4,
        };
        let pool = Arc::new(Pool {
            name: self.name,
            arenas: Arenas::new(device, &self.config),
            classes: ClassPools::new(self.config.classes),
            deferred: Deferred::default(),
            pooling: AtomicBool::new(self.config.pooling),
            alignment: self.config.alignment,
            cached_bytes_max,
            wait_max: self.config.wait_max,
            on_leak: self.config.on_leak,
            counters: Counters::default(),
        });
        let allocator = Allocator {
            handle: Arc::new(Handle { pool }),
        };
        if self.config.pooling {
            for class in allocator.handle.pool.classes.classes().clone().as_slice() {
                allocator.pre_allocate(class.bytes, class.initial)?;
            }
            allocator.handle.pool.counters.reset();
        }
        Ok(allocator)
    }
}

impl Allocator {
    /// An allocator of host memory with the default configuration.
    ///
    /// # Errors
    ///
    /// What opening the host says; see [`HostDevice::new`].
    pub fn host() -> Result<Self> {
        Self::builder(Arc::new(HostDevice::new()?)).build()
    }

    /// Starts building an allocator for `device`.
    pub fn builder(device: Arc<dyn Device>) -> AllocatorBuilder {
        let properties = device.properties();
        let name = format!("{}:{}", properties.kind.name(), properties.ordinal);
        AllocatorBuilder {
            device,
            config: Config::default(),
            name,
        }
    }

    /// A buffer of `bytes` bytes of shared storage, aligned to 256 bytes.
    ///
    /// # Errors
    ///
    /// As for [`allocate_with`](Self::allocate_with).
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        self.allocate_with(&Request::new(bytes))
    }

    /// A buffer as requested.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) for zero bytes, a size no buffer can have or a
    /// wrong alignment; [`Unsupported`](ErrorKind::Unsupported) for a storage mode the device lacks;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) or [`OutOfMemory`](ErrorKind::OutOfMemory) once
    /// everything idle was given back and nothing in flight ended within
    /// [`Config::wait_max`]; else what the driver says.
    pub fn allocate_with(&self, request: &Request<'_>) -> Result<Buffer> {
        Pool::allocate(&self.handle.pool, request)
    }

    /// Makes sure that `count` further buffers of `bytes` bytes can be had without a driver call,
    /// as far as the class keeps so many idle blocks; returns how many blocks were made ready. They
    /// are allocated and freed for it, which the statistics show.
    ///
    /// # Errors
    ///
    /// As for [`allocate`](Self::allocate); what was made ready before stays.
    pub fn pre_allocate(&self, bytes: usize, count: usize) -> Result<usize> {
        let request = Request::new(bytes).name("pre-allocated");
        let mut made = Vec::new();
        for _ in 0..count {
            made.push(self.allocate_with(&request)?);
        }
        Ok(made.len())
    }

    /// Gives all idle memory back to the device; returns its bytes.
    #[must_use = "says how many bytes went back"]
    pub fn clear(&self) -> usize {
        self.handle.pool.clear()
    }

    /// Switches pooling; returns what it was. Buffers already out return the way they came.
    pub fn set_pooling(&self, on: bool) -> bool {
        let pool = &self.handle.pool;
        let before = pool.pooling.swap(on, Ordering::Relaxed);
        if before && !on {
            let _bytes = pool.clear();
        }
        before
    }

    /// A new queue of the device.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn create_queue(&self) -> Result<Queue> {
        Ok(Queue::new(self.device().create_queue()?))
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        self.handle.pool.arenas.device().device()
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.handle.pool.name
    }

    /// The live buffer that contains `address`, from the start of any block to the last requested
    /// byte. O(log n); the address is not dereferenced.
    #[must_use]
    pub fn find(&self, address: *const u8) -> Option<BlockInfo> {
        self.handle.pool.arenas.addresses().find(address.addr())
    }

    /// Takes back a buffer by the address that [`Buffer::into_raw`] gave.
    ///
    /// # Safety
    ///
    /// Nobody uses the address any more, unless through the returned buffer.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when no buffer of this pool was given up at
    /// this address.
    pub unsafe fn reclaim(&self, address: NonNull<u8>) -> Result<Buffer> {
        let number = address.as_ptr().addr();
        self.handle
            .pool
            .arenas
            .addresses()
            .attach(number)
            .ok_or_else(|| {
                Error::with_message(
                    ErrorKind::InvalidRequest,
                    format!(
                        "no buffer of {} was given up at address {number:#x}",
                        self.name()
                    ),
                )
            })
    }

    /// Statistics: a few dozen loads, exact when no call is under way.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.pool.stats()
    }

    /// The live buffers by name; walks all of them.
    #[must_use]
    pub fn live_report(&self) -> LeakReport {
        self.handle.pool.live_report()
    }
}

/// The state of an allocator, kept alive by its handles and its buffers.
#[derive(Debug)]
pub(crate) struct Pool {
    name: String,
    arenas: Arenas,
    classes: ClassPools,
    deferred: Deferred,
    pooling: AtomicBool,
    alignment: usize,
    cached_bytes_max: u64,
    wait_max: Duration,
    on_leak: Option<LeakHandler>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    live: AtomicCounter,
    block_bytes: AtomicU64,
    allocations: AtomicU64,
    frees: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
}

impl Counters {
    /// Forgets what building the allocator counted; nothing is live then.
    fn reset(&self) {
        for counter in [&self.allocations, &self.frees, &self.hits, &self.misses] {
            counter.store(0, Ordering::Relaxed);
        }
        self.live.reset();
    }
}

/// Where a block came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Held,
    Driver,
}

impl Pool {
    fn allocate(this: &Arc<Self>, request: &Request<'_>) -> Result<Buffer> {
        let allocated = this
            .try_allocate(request)
            .and_then(|(block, uses, source)| {
                let mut buffer = this.hand_out(request, block, uses);
                if request.zeroed {
                    match request.queue {
                        Some(queue) => drop(queue.fill(&mut buffer, 0)?),
                        None => buffer.write::<u8>()?.fill(0),
                    }
                }
                Ok((buffer, source))
            });
        match allocated {
            Ok((buffer, source)) => {
                let served = match source {
                    Source::Held => &this.counters.hits,
                    Source::Driver => &this.counters.misses,
                };
                served.fetch_add(1, Ordering::Relaxed);
                Ok(buffer)
            }
            Err(error) => {
                this.counters.failures.fetch_add(1, Ordering::Relaxed);
                let error = error.for_request(request.bytes, request.name);
                Err(match error.kind() {
                    ErrorKind::OutOfMemory | ErrorKind::LimitExceeded => {
                        error.with_pool(this.state())
                    }
                    _ => error,
                })
            }
        }
    }

    fn try_allocate(&self, request: &Request<'_>) -> Result<(Block, Vec<Use>, Source)> {
        let properties = self.arenas.device().properties();
        request.validate(properties.segment_bytes_max)?;
        let alignment = self.alignment_of(request);
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
        // Cannot overflow: the request is at most a segment's length.
        let exact = request.bytes.next_multiple_of(DEFAULT_ALIGNMENT);
        if !self.pooling.load(Ordering::Relaxed) {
            let block = self.arenas.direct(request.storage, exact, alignment)?;
            return Ok((block, Vec::new(), Source::Driver));
        }
        let (place, bytes) = self.place(request.storage, exact, alignment);
        if !self.deferred.is_empty() {
            if let Some(queue) = request.queue
                && let Some((block, uses)) =
                    self.deferred
                        .take_for_queue(queue.id(), request.storage, bytes, alignment)
            {
                return Ok((block, uses, Source::Held));
            }
            self.collect();
        }
        if let Home::Class(class) = place.home
            && let Some(block) = self.classes.take(request.storage, class)
        {
            return Ok((block, Vec::new(), Source::Held));
        }
        if let Some(block) = self.arenas.allocate(place, bytes, alignment) {
            return Ok((block, Vec::new(), Source::Held));
        }
        let (block, source) = self.grow(place, bytes, alignment)?;
        Ok((block, Vec::new(), source))
    }

    /// More memory from the device; when it has none, from what is idle or about to be.
    fn grow(&self, place: Place, bytes: usize, alignment: usize) -> Result<(Block, Source)> {
        let error = match self.arenas.grow(place, bytes, alignment) {
            Ok(block) => return Ok((block, Source::Driver)),
            Err(error) => error,
        };
        if !matches!(
            error.kind(),
            ErrorKind::OutOfMemory | ErrorKind::LimitExceeded
        ) {
            return Err(error);
        }
        for wait in [Duration::ZERO, self.wait_max] {
            if !wait.is_zero() {
                if self.deferred.is_empty() {
                    break;
                }
                self.deferred.wait(wait);
            }
            let returned = self.clear();
            tracing::debug!(pool = %self.name, bytes, returned, "out of memory; idle memory returned");
            if let Some(block) = self.arenas.allocate(place, bytes, alignment) {
                return Ok((block, Source::Held));
            }
            if let Ok(block) = self.arenas.grow(place, bytes, alignment) {
                return Ok((block, Source::Driver));
            }
        }
        Err(error)
    }

    fn place(&self, storage: StorageMode, exact: usize, alignment: usize) -> (Place, usize) {
        let classes = self.classes.classes();
        // Blocks of a class are aligned to 256 bytes, no more.
        match classes
            .index_of(exact)
            .filter(|_| alignment <= DEFAULT_ALIGNMENT)
        {
            Some(class) => {
                let bytes = classes.as_slice()[class].bytes;
                (
                    Place {
                        storage,
                        kind: self.kind(bytes),
                        home: Home::Class(class),
                    },
                    bytes,
                )
            }
            None => {
                let kind = self.kind(exact);
                (
                    Place {
                        storage,
                        kind,
                        home: Home::Arena(kind),
                    },
                    exact,
                )
            }
        }
    }

    fn kind(&self, bytes: usize) -> ArenaKind {
        /// Blocks up to this size share an arena of their own.
        const SMALL_BYTES_MAX: usize = 64 << 10;
        if bytes <= SMALL_BYTES_MAX {
            ArenaKind::Small
        } else {
            ArenaKind::Large
        }
    }

    fn alignment_of(&self, request: &Request<'_>) -> usize {
        let least = self.arenas.device().properties().alignment_min;
        request.alignment.max(self.alignment).max(least)
    }

    fn hand_out(self: &Arc<Self>, request: &Request<'_>, block: Block, uses: Vec<Use>) -> Buffer {
        let counters = &self.counters;
        counters.allocations.fetch_add(1, Ordering::Relaxed);
        counters.live.add(request.bytes as u64);
        counters
            .block_bytes
            .fetch_add(block.bytes as u64, Ordering::Relaxed);
        let record = LiveRecord {
            requested: request.bytes,
            block_bytes: block.bytes,
            name: request.name,
            detached: None,
        };
        block.entry.live.lock().insert(block.offset, record);
        let in_flight = InFlight::inherited(uses);
        let alignment = self.alignment_of(request);
        Buffer::new(
            Arc::clone(self),
            block,
            request.bytes,
            alignment,
            request.name,
            in_flight,
        )
    }

    /// Takes a block back from its buffer.
    pub(crate) fn free(&self, block: Block, requested: usize, uses: Vec<Use>) {
        block.entry.live.lock().remove(&block.offset);
        let counters = &self.counters;
        counters.frees.fetch_add(1, Ordering::Relaxed);
        counters.live.subtract(requested as u64);
        counters
            .block_bytes
            .fetch_sub(block.bytes as u64, Ordering::Relaxed);
        if uses.is_empty() {
            self.return_home(block);
        } else {
            self.deferred.put(block, uses);
        }
    }

    fn return_home(&self, block: Block) {
        let trim = self.idle_bytes() > self.cached_bytes_max;
        let rest = match block.home {
            Home::Class(class) if !trim && self.pooling.load(Ordering::Relaxed) => {
                self.classes.put(block.entry.storage, class, block)
            }
            _ => Some(block),
        };
        if let Some(block) = rest {
            let trim = trim || !self.pooling.load(Ordering::Relaxed);
            self.arenas.release(block, trim);
        }
    }

    fn collect(&self) {
        for block in self.deferred.collect() {
            self.return_home(block);
        }
    }

    fn clear(&self) -> usize {
        self.collect();
        let mut returned = 0;
        for block in self.classes.drain() {
            returned += self.arenas.release(block, false);
        }
        returned + self.arenas.release_empty()
    }

    /// Bytes held and not in use, from counters alone: no lock on the way of a free.
    fn idle_bytes(&self) -> u64 {
        let used = self.counters.block_bytes.load(Ordering::Relaxed) + self.deferred.bytes();
        self.arenas.device().reserved().value.saturating_sub(used)
    }

    fn cached_bytes(&self) -> u64 {
        self.classes.cached_bytes() + self.arenas.free().0 as u64
    }

    fn state(&self) -> PoolState {
        PoolState {
            live: self.counters.live.read().value,
            cached: self.cached_bytes(),
            reserved: self.arenas.device().reserved().value,
            limit: self.arenas.reserved_bytes_max(),
        }
    }

    fn stats(&self) -> Stats {
        let counters = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let device = self.arenas.device();
        let (driver_calls, driver_failures, driver_ns) = device.calls();
        let (free, largest_free) = self.arenas.free();
        let (segments, growths) = self.arenas.segments();
        Stats {
            live: counters.live.read(),
            reserved: device.reserved(),
            block_bytes: load(&counters.block_bytes),
            cached_bytes: self.classes.cached_bytes() + free as u64,
            deferred_bytes: self.deferred.bytes(),
            allocations: load(&counters.allocations),
            frees: load(&counters.frees),
            hits: load(&counters.hits),
            misses: load(&counters.misses),
            growths,
            failures: load(&counters.failures),
            driver_calls,
            driver_failures,
            driver_ns,
            segments,
            largest_free,
            classes: self.classes.stats(),
        }
    }

    fn live_report(&self) -> LeakReport {
        LeakReport::of(&self.name, self.arenas.addresses())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let report = self.pool.live_report();
        if !report.buffers.is_empty() {
            tracing::warn!(pool = %self.pool.name, "{report}");
            if let Some(handler) = &self.pool.on_leak {
                // A destructor must not unwind.
                let called = catch_unwind(AssertUnwindSafe(|| handler.call(&report)));
                if called.is_err() {
                    tracing::error!(pool = %self.pool.name, "the leak handler panicked");
                }
            }
        }
        self.pool.pooling.store(false, Ordering::Relaxed);
        let _bytes = self.pool.clear();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Blocks that work in flight still uses: their memory must outlive that work.
        self.deferred.wait(self.wait_max);
        let _bytes = self.clear();
        if !self.deferred.is_empty() {
            tracing::error!(
                pool = %self.name,
                bytes = self.deferred.bytes(),
                "work in flight never ended; its memory is kept for the life of the process"
            );
            self.deferred.leak();
        }
    }
}
