//! Serving a request, from a thread's cache to memory that is new.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::Pool;
use super::close::close_late;
use super::place::{Party, Place};
use super::recovery::{Shortage, is_shortage};
use crate::arena::{Source, Want};
use crate::block::{Block, CacheKey};
use crate::buffer::Buffer;
use crate::device::StorageMode;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::request::{DEFAULT_ALIGNMENT, Request};
use crate::strategy::{Asked, Choice, Strategy, Surroundings};
use crate::sync::{Arc, Ordering};
use crate::thread_cache;

/// Requests past the caches after which queues with freed memory are signalled, so that it becomes
/// everybody's, and returnable, without anybody having to ask first.
const SIGNAL_EVERY: u64 = 16;
/// Requests past the caches between two looks at what work is over, where queues compete for memory.
const COLLECT_EVERY: u64 = 4;
/// Stands for the host among the domains whose requests compete.
const HOST_DOMAIN: u64 = 1 << 32;

impl Pool {
    /// A block from this thread's cache, handed out, if there is one for such a request.
    #[inline]
    pub(crate) fn take_warm(
        &self,
        key: CacheKey,
        storage: StorageMode,
        bytes: usize,
        name: Name,
        touched: bool,
    ) -> Option<Block> {
        let list = self.classes.warm_list(storage, bytes)?;
        let block = thread_cache::pop(key, list, bytes)?;
        block.hand_out(bytes, DEFAULT_ALIGNMENT, name, touched);
        Some(block)
    }

    /// A buffer of shared storage without a name from this thread's cache.
    #[inline]
    pub(crate) fn allocate_plain(&self, bytes: usize) -> Option<Buffer> {
        let name = Name::default();
        self.take_warm(self.key, StorageMode::Shared, bytes, name, false)
            .map(Buffer::new)
    }

    /// A buffer from this thread's cache, when the request needs nothing else.
    #[inline]
    pub(crate) fn allocate_warm(&self, request: &Request<'_>) -> Option<Buffer> {
        if !request.needs.is_none() || request.alignment > DEFAULT_ALIGNMENT {
            return None;
        }
        let key = match request.queue {
            None => self.key,
            Some(queue) => queue.core().key_in(self.key)?,
        };
        // Only what was freed on a queue carries a point.
        let touched = request.queue.is_some();
        self.take_warm(key, request.storage, request.bytes, request.name, touched)
            .map(Buffer::new)
    }

    /// A buffer, from wherever there is memory.
    pub(crate) fn allocate(self: &Arc<Self>, request: &Request<'_>) -> Result<Buffer> {
        let allocated = self.allocate_cold(request).and_then(|mut buffer| {
            if request.needs.is_zeroed() {
                match request.queue {
                    Some(queue) => drop(queue.fill(&mut buffer, 0)?),
                    None => buffer.write::<u8>()?.fill(0),
                }
            }
            Ok(buffer)
        });
        allocated.map_err(|error| {
            if request.held_only && error.kind() == ErrorKind::Busy {
                // An answer, not a failure.
                return error.for_request(request.bytes, request.name);
            }
            self.refusal(error, request.bytes, request.name)
        })
    }

    /// Counts a failed request and says what it was and how the pool stood.
    pub(super) fn refusal(&self, error: Error, bytes: usize, name: Name) -> Error {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.observe_failure(error.kind());
        self.explain(error, bytes, name)
    }

    pub(super) fn allocate_cold(self: &Arc<Self>, request: &Request<'_>) -> Result<Buffer> {
        if !request.held_only {
            self.relax();
            close_late();
        }
        let mut request = *request;
        // A segment of its own is as it was asked for.
        let exposed = request.needs.exposure().is_some();
        let mut pooled = self.pooling.load(Ordering::Relaxed);
        if self.chooses
            && !exposed
            && let Some(strategy) = &self.strategy
        {
            let Choice {
                pool,
                storage,
                alignment,
            } = self.choose(strategy.as_ref(), &Asked::of(&request));
            pooled &= pool;
            request = request.storage(storage).alignment(alignment);
        }
        let place = self.place(&request)?;
        pooled &= place.exposure.is_none();
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
        thread_cache::ensure(self, key);
        let sampled = self.is_sample(&place, key).then(Instant::now);
        // The warm path is closed while a recorder is there, for a sample, and at a new peak; and a strategy
        // chose after that was tried.
        let cached = match (pooled, request.held_only) {
            (false, _) => None,
            (true, false) => self.take_near(key, place),
            (true, true) => thread_cache::take(key, place.list),
        };
        let block = match cached {
            Some(block) => block,
            None if request.held_only => {
                let idle = || self.obtain_idle(place, key, queue);
                let block = pooled.then(idle).flatten().ok_or_else(not_held)?;
                self.arenas.count_served(place.node, &block);
                block
            }
            None => self.obtain_somehow(&request, place, key, queue, pooled)?,
        };
        let what = (request.bytes, request.name);
        self.count_allocation(&block, key, what, queue, sampled);
        Ok(hand_out(block, what, place.alignment))
    }

    /// Takes note of a block that is about to be handed out.
    pub(super) fn count_allocation(
        self: &Arc<Self>,
        block: &Block,
        key: CacheKey,
        what: (usize, Name),
        queue: Option<u32>,
        sampled: Option<Instant>,
    ) {
        thread_cache::count_allocation(self, key, block.list(), what.0, block.bytes());
        self.observe_allocation(block, what, stream_of(queue), sampled);
    }

    /// What the strategy decides about a request.
    fn choose(&self, strategy: &dyn Strategy, asked: &Asked) -> Choice {
        let choose = || strategy.choose(asked, &Surroundings::of(self));
        let chosen = self.unless_it_panics("choose", choose);
        chosen.unwrap_or_else(|| Choice::of(asked))
    }

    /// Whether a request past the warm path is to be a sample.
    fn is_sample(&self, place: &Place, key: CacheKey) -> bool {
        let sampler = &self.observer.sampler;
        if place.list.is_some() {
            let due = thread_cache::charge(key, place.list, || self.draw(place.bytes));
            due && !sampler.is_off()
        } else {
            sampler.is_due(place.bytes)
        }
    }

    /// A block past this thread's cache, from wherever there is memory.
    fn obtain_somehow(
        self: &Arc<Self>,
        request: &Request<'_>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
        pooled: bool,
    ) -> Result<Block> {
        let obtained = if pooled {
            self.obtain(place, key, queue)
        } else {
            self.obtain_direct(place)
        };
        let (block, source) = match obtained {
            Err(error) if is_shortage(&error) => {
                let shortage = Shortage {
                    request,
                    place,
                    key,
                    queue,
                    direct: !pooled,
                };
                self.recover(&shortage, error)?
            }
            obtained => obtained?,
        };
        self.arenas.count_served(place.node, &block);
        if source == Source::Driver {
            self.misses.fetch_add(1, Ordering::Relaxed);
            self.classes.count_miss(block.list());
        }
        if let Some(strategy) = &self.strategy {
            self.tune(strategy.as_ref());
        }
        Ok(block)
    }

    /// A block of new memory that nothing else shares.
    pub(super) fn obtain_direct(&self, place: Place) -> Result<(Block, Source)> {
        if let Some(exposure) = place.exposure {
            return self.obtain_exposed(place, exposure);
        }
        let want = place.want_direct();
        let block = self.near(place, |place| {
            let (arena, _) = self.arenas.at(place.storage, place.node);
            arena.direct(&want, &|point| self.orders.passed(point))
        })?;
        Ok((block, Source::Driver))
    }

    /// A block past this thread's cache.
    pub(super) fn obtain(
        self: &Arc<Self>,
        place: Place,
        key: CacheKey,
        queue: Option<u32>,
    ) -> Result<(Block, Source)> {
        self.note_domain(queue);
        if queue.is_none() && place.shared {
            let mut blocks = self.classes.take(
                place.list,
                place.node,
                place.exchanged_blocks(self.shelves_open()),
            );
            if let Some(block) = blocks.pop() {
                self.keep(key, blocks);
                return Ok((block, Source::Held));
            }
        }
        let number = self.note_operations();
        let signal = number.is_multiple_of(SIGNAL_EVERY);
        let contended = self.is_contended();
        if contended && number.is_multiple_of(COLLECT_EVERY) || signal {
            self.collect(signal);
        }
        let mut party = Party {
            key,
            queue,
            contended,
            live: 0,
            recorded: false,
        };
        let (arena, _) = self.arenas.at(place.storage, place.node);
        if contended && arena.remaps_own() {
            party.recorded = self.is_recording(queue);
        }
        if let Some(block) = self.obtain_held(place, party) {
            return Ok((block, Source::Held));
        }
        party.live = self.live_with(place);
        party.recorded = self.is_recording(queue);
        let obtained = self.obtain_more(place, party)?;
        self.reserve.note_live(party.live);
        Ok(obtained)
    }

    /// Whether what is submitted to a queue now is recorded, as far as may be asked here.
    pub(super) fn is_recording(&self, queue: Option<u32>) -> bool {
        let Some(queue) = queue.filter(|_| self.orders.any_adopted()) else {
            return false;
        };
        self.device.device().may_be_called()
            && self
                .orders
                .get(queue)
                .is_some_and(|queue| queue.is_recording())
    }

    /// Takes note of who is served past the caches: from the second on they compete.
    pub(super) fn note_domain(&self, queue: Option<u32>) {
        let domain = queue.map_or(HOST_DOMAIN, u64::from) + 1;
        let last = self.last_domain.swap(domain, Ordering::Relaxed);
        if last != 0 && last != domain {
            self.contended.store(true, Ordering::Relaxed);
        }
    }

    /// Requested bytes that are live once the request is served; O(threads).
    pub(super) fn live_with(&self, place: Place) -> u64 {
        self.live_bytes().saturating_add(place.bytes as u64)
    }

    /// A block where no free memory suffices yet.
    fn obtain_more(self: &Arc<Self>, place: Place, party: Party) -> Result<(Block, Source)> {
        let held = |pool: &Arc<Self>| pool.obtain_held(place, party);
        if self.collect(false)
            && let Some(block) = held(self)
        {
            return Ok((block, Source::Held));
        }
        if party.recorded {
            return self.obtain_direct(place);
        }
        let beyond = self.reserve.slack(party.live) < place.bytes as u64;
        if beyond && self.may_hold(&place) {
            self.collect(true);
            // What lies in caches while shelves are closed is small, and scattered.
            if self.shelves_open() || place.is_small() {
                let drained = self.drain_caches_for(place, party.live);
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
            let (arena, _) = self.arenas.at(place.storage, place.node);
            self.note_fragmented(arena, place.bytes);
        }
        self.grow(place, party)
    }

    /// A block from memory that is free in an arena.
    pub(super) fn obtain_held(self: &Arc<Self>, place: Place, party: Party) -> Option<Block> {
        let (arena, _) = self.arenas.at(place.storage, place.node);
        self.cut_held(place, party, |want| {
            arena.allocate(want, &|point| self.orders.passed(point))
        })
    }

    /// A block from what `cut` takes out of the large arena, or, if it is small, what is free in spans.
    pub(super) fn cut_held(
        self: &Arc<Self>,
        place: Place,
        party: Party,
        cut: impl Fn(&Want) -> Option<Block>,
    ) -> Option<Block> {
        let (_, small) = self.arenas.at(place.storage, place.node);
        let want = place.want(party);
        if !place.is_small() {
            let block = cut(&want)?;
            self.classes.count_cut(place.list, place.bytes);
            return Some(block);
        }
        let mut more = Vec::new();
        let count = if self.keeps(place.bytes) {
            place.refill_blocks()
        } else {
            1
        };
        let first = small.allocate(&want, count, &mut more).or_else(|| {
            small.add_span(cut(&place.span(small, party))?);
            small.allocate(&want, count, &mut more)
        })?;
        self.classes
            .count_cut(place.list, place.bytes * (more.len() + 1));
        self.keep(party.key, more);
        Some(first)
    }

    /// A block from more memory, or from holes mapped together; of another node, if memory is out on the
    /// request's.
    pub(super) fn grow(self: &Arc<Self>, place: Place, party: Party) -> Result<(Block, Source)> {
        self.near(place, |there| {
            let held = (there.node != place.node)
                .then(|| self.obtain_held(there, party))
                .flatten();
            match held {
                Some(block) => Ok((block, Source::Held)),
                None => self.grow_on(there, party),
            }
        })
    }

    fn grow_on(self: &Arc<Self>, place: Place, party: Party) -> Result<(Block, Source)> {
        let (arena, small) = self.arenas.at(place.storage, place.node);
        let passed = |point| self.orders.passed(point);
        let grow = |want: &Want| {
            if !party.recorded && self.may_hold(&place) {
                self.await_work(arena, want);
                return arena.grow(want, &passed);
            }
            // No idle memory would be enough, or may be, so none is exchanged for it.
            let direct = arena.direct(want, &passed);
            direct.map(|block| (block, Source::Driver))
        };
        if !place.is_small() {
            let grown = grow(&place.want(party))?;
            self.classes.count_cut(place.list, place.bytes);
            return Ok(grown);
        }
        loop {
            let (span, source) = grow(&place.span(small, party))?;
            small.add_span(span);
            // Another thread may have used up the span already.
            if let Some(block) = self.obtain_held(place, party) {
                return Ok((block, source));
            }
        }
    }

    /// Puts a batch into this thread's list; what has no room goes back.
    pub(super) fn keep(self: &Arc<Self>, key: CacheKey, blocks: Vec<Block>) {
        let left = if self.is_keeping() {
            thread_cache::refill(self, key, blocks)
        } else {
            blocks
        };
        for block in left {
            self.release(block);
        }
    }
}

#[cold]
fn not_held() -> Error {
    Error::new(
        ErrorKind::Busy,
        "no memory that is held and idle suffices, and the request was for such alone",
    )
}

/// The buffer of a block.
pub(super) fn hand_out(block: Block, (bytes, name): (usize, Name), alignment: usize) -> Buffer {
    let touched = block.point().is_some();
    block.hand_out(bytes, alignment, name, touched);
    Buffer::new(block)
}

/// The number of a queue's stream in records; zero is the host's.
fn stream_of(queue: Option<u32>) -> u64 {
    queue.map_or(0, |queue| u64::from(queue) + 1)
}
