//! Queues of device work, and fences: points in them.

#![allow(unsafe_code)]

mod external;
mod staging;

use std::fmt;
use std::time::Duration;

pub use self::external::ExternalSubmission;
use self::staging::QueueStaging;
use crate::block::{Block, CacheKey, Point};
use crate::buffer::Buffer;
use crate::device::{DeviceProperties, DeviceQueue, Location, StorageMode, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::Element;
use crate::in_flight::{Access, InFlight, Use};
use crate::pool::Pool;
use crate::profiling::SlowPath;
use crate::signals::Signals;
use crate::sync::{
    Arc, AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering,
};
use crate::thread_cache;
use crate::transfer::is_addressed_by;
use crate::view::BufferView;
use crate::wait::{Wait, left_out};

/// Identity of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct QueueId {
    /// Unique in the process and never used again.
    id: u64,
    /// The pool it belongs to.
    pub(crate) pool: u64,
    /// Its number in that pool.
    pub(crate) number: u32,
}

/// Stands for the pool of a timeline that is no queue's.
const NO_POOL: u64 = 0;
/// Frees in the order of a contended queue after which it is signalled, so that others do not wait
/// longer than they must.
const SIGNAL_FREES: u32 = 2;
/// Bytes likewise.
const SIGNAL_BYTES: usize = 256 << 10;

/// What a queue and its pool know of it.
#[derive(Debug)]
pub(crate) struct QueueCore {
    key: CacheKey,
    pool: CacheKey,
    number: u32,
    device: Arc<dyn DeviceQueue>,
    signals: Signals,
    /// Frees and bytes since the last signal.
    freed: AtomicU32,
    freed_bytes: AtomicUsize,
    /// The owner is gone.
    abandoned: AtomicBool,
    /// It was signalled after that.
    covered: AtomicBool,
    /// Somebody else knows the stream, and may have it record.
    adopted: bool,
}

impl QueueCore {
    /// A queue of a pool; `adopted` if somebody else knows the stream.
    pub(crate) fn new(
        device: Arc<dyn DeviceQueue>,
        pool: CacheKey,
        number: u32,
        adopted: bool,
    ) -> Self {
        Self {
            adopted,
            key: CacheKey::new(),
            pool,
            number,
            device,
            signals: Signals::default(),
            freed: AtomicU32::new(0),
            freed_bytes: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            covered: AtomicBool::new(false),
        }
    }

    /// The key of its caches, if it is a queue of that pool.
    #[inline]
    pub(crate) fn key_in(&self, pool: CacheKey) -> Option<CacheKey> {
        (self.pool == pool).then_some(self.key)
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn is_adopted(&self) -> bool {
        self.adopted
    }

    fn id(&self) -> QueueId {
        QueueId {
            id: self.key.id,
            pool: self.pool.id,
            number: self.number,
        }
    }

    pub(crate) fn timeline(&self) -> &Arc<dyn Timeline> {
        self.device.timeline()
    }

    /// The point that covers everything submitted so far.
    #[inline]
    pub(crate) fn here(&self) -> Point {
        Point {
            queue: self.number,
            value: match left_out(Wait::Here) {
                false => self.signals.next(),
                true => self.signals.last(),
            },
        }
    }

    /// That point, if the key is the one of its caches.
    pub(crate) fn end_for(&self, key: CacheKey) -> Option<Point> {
        (self.key == key).then(|| self.here())
    }

    /// The greatest value known to be signalled.
    #[inline]
    pub(crate) fn signalled(&self) -> u64 {
        self.signals.last()
    }

    /// Whether work that is submitted now is recorded rather than done.
    pub(crate) fn is_recording(&self) -> bool {
        if !self.adopted {
            return false;
        }
        // Under the lock like every call of the stream, which may be gone once it was forgotten.
        let _submitting = self.signals.lock();
        self.device.is_recording()
    }

    pub(crate) fn completed(&self) -> u64 {
        self.timeline()
            .completed()
            .unwrap_or_else(|error| match error.kind() {
                // Its work will not run any more.
                ErrorKind::DeviceLost => u64::MAX,
                // Nothing is known.
                _ => 0,
            })
    }

    /// Marks the present end of the queue.
    pub(crate) fn signal(&self) -> Result<u64> {
        self.check()?;
        self.signal_under(&mut self.signals.lock())
    }

    /// Sees to it that a signal covers a value.
    pub(crate) fn cover(&self, value: u64) -> Result<()> {
        if self.signalled() >= value {
            return Ok(());
        }
        self.check()?;
        let mut last = self.signals.lock();
        if *last < value {
            let signal = || self.device.signal();
            self.signals.cover(&mut last, value, signal)?;
            self.note_signal();
        }
        Ok(())
    }

    /// Whether the driver may be called from here, which it may not from all functions that queues call: whoever holds
    /// the lock may be in the driver, which may wait for that function.
    fn check(&self) -> Result<()> {
        self.device.wait_for_room(Some(Duration::ZERO)).map(drop)
    }

    /// The lock, while the device has room for a submission.
    fn lock_with_room(&self) -> Result<MutexGuard<'_, u64>> {
        self.signals.lock_with(|wait| {
            let timeout = (!wait).then_some(Duration::ZERO);
            self.device.wait_for_room(timeout)
        })
    }

    fn signal_under(&self, last: &mut u64) -> Result<u64> {
        let value = self.signals.mark(last, || self.device.signal())?;
        self.note_signal();
        Ok(value)
    }

    /// What was freed so far is covered.
    fn note_signal(&self) {
        self.freed.store(0, Ordering::Relaxed);
        self.freed_bytes.store(0, Ordering::Relaxed);
    }

    /// Takes note of memory that left the queue's caches while others compete for memory, so that they
    /// do not wait longer for it than they must.
    pub(crate) fn note_freed(&self, bytes: usize) {
        let frees = self.freed.fetch_add(1, Ordering::Relaxed) + 1;
        let freed = self.freed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if (frees >= SIGNAL_FREES || freed >= SIGNAL_BYTES)
            && let Err(error) = self.signal()
        {
            note_refused_signal(&error);
        }
    }

    pub(crate) fn fence_at(&self, value: u64) -> Fence {
        Fence {
            queue: self.id(),
            value,
            timeline: Arc::clone(self.timeline()),
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// Whether the owner is gone, and all work is over.
    pub(crate) fn has_ended(&self) -> bool {
        if !self.is_abandoned() {
            return false;
        }
        // The last signal covers everything, unless the driver refused it so far.
        let covered = self.covered.load(Ordering::Acquire) || self.signal().is_ok();
        if covered {
            // Whoever sees it sees the value of that signal.
            self.covered.store(true, Ordering::Release);
        }
        match self.completed() {
            // Lost: no signal is needed, and none would succeed.
            u64::MAX => true,
            completed => covered && (completed >= self.signalled() || left_out(Wait::Ended)),
        }
    }
}

/// Logs that a driver refused a signal, which is tried again. Queues that record refuse all of them meanwhile.
pub(crate) fn note_refused_signal(error: &Error) {
    if error.kind() == ErrorKind::Busy {
        tracing::debug!(%error, "a queue could not be signalled now");
    } else {
        tracing::warn!(%error, "a queue could not be signalled");
    }
}

/// An ordered stream of device work.
///
/// Work runs after the submitting call has returned, in the order of submission. A buffer that work
/// uses refuses host guards until its [`Fence`] has passed; dropped early, its memory stays intact
/// until then. Work that uses a buffer which another queue is still busy with waits for that queue.
///
/// ```
/// # fn main() -> weldpool::Result<()> {
/// # let allocator = weldpool::Allocator::host()?;
/// let queue = allocator.create_queue()?;
/// let mut source = allocator.allocate(1024)?;
/// source.write::<u8>()?.fill(7);
/// let mut copy = allocator.allocate(1024)?;
/// let fence = queue.copy(&source, &mut copy)?;
/// drop(source); // still read by the copy; reused only afterwards
/// fence.wait(None)?;
/// assert_eq!(copy.read::<u8>()?[1023], 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Queue {
    core: Arc<QueueCore>,
    pool: Arc<Pool>,
}

impl Queue {
    pub(crate) fn new(pool: &Arc<Pool>, device: Arc<dyn DeviceQueue>, adopted: bool) -> Self {
        let core = pool
            .orders()
            .add(|number| QueueCore::new(device, pool.key(), number, adopted));
        Self {
            core,
            pool: Arc::clone(pool),
        }
    }

    #[inline]
    pub(crate) fn core(&self) -> &QueueCore {
        &self.core
    }

    /// Takes back a block in the order of this queue.
    #[inline]
    pub(crate) fn free(&self, block: Block) {
        block.take_back();
        if block.pool() != self.core.pool {
            // Another pool's memory: it waits for a fence like any other use.
            if let Some(pool) = crate::pool::pool_of(&block) {
                let fence = self.fence_or_next();
                let access = Access::Write;
                pool.free(block, vec![Use { fence, access }]);
            }
            return;
        }
        block.set_point(Some(self.core.here()));
        thread_cache::push(self.core.key, block);
    }

    /// Submits a copy of all of `source` to the start of `destination`. It waits here for copies of a
    /// [`Copier`](crate::transfer::Copier) that use either, as every submission to a queue does; work of other queues
    /// is waited for by the device.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the destination is shorter or overlaps the
    /// source, or either is memory that only another device reaches, [`Busy`](ErrorKind::Busy) while a guard is held
    /// on a view, otherwise what the driver says. Nothing was submitted then, unless it was the signal behind the work
    /// that the driver refused; what the work uses is kept from others until the next signal.
    pub fn copy(&self, source: &impl Operand, destination: &mut impl Operand) -> Result<Fence> {
        let bytes = source.part().bytes;
        if destination.part().bytes < bytes {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "a copy of {bytes} bytes into {} bytes",
                    destination.part().bytes
                ),
            ));
        }
        refuse_overlap(&source.part(), &destination.part())?;
        self.check_addressed(source, Access::Read)?;
        self.check_addressed(destination, Access::Write)?;
        let _writing = destination.borrow_exclusive()?;
        // Two ranges of one buffer share its borrow state, which is held for writing already.
        let one_buffer = source.part().is_of_buffer(&destination.part());
        let _reading = if one_buffer {
            None
        } else {
            source.borrow_shared()?
        };
        let (from, to) = (source.part(), destination.part());
        let submitted = self.submit(
            &[
                (from.in_flight, Access::Read),
                (to.in_flight, Access::Write),
            ],
            |queue| {
                // SAFETY: both ranges lie inside live blocks and do not overlap; the uses recorded by
                // `submit` keep guards away and the blocks from being reused until the fence.
                unsafe { queue.copy(from.location, to.location, bytes) }
            },
        );
        submitted.map_err(|error| self.explain(error, &[source, destination]))
    }

    /// Submits a copy of host memory to the start of `destination`. The call returns when `source` was read, some of
    /// it at a time into pinned memory that the pool keeps, while the device copies what came before. While eight
    /// earlier ones have yet to leave that memory, it waits for the first of them.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the destination is shorter or not of this queue's pool,
    /// [`Busy`](ErrorKind::Busy) while a guard is held on a view, otherwise what the driver says; the first part of the
    /// destination may have been submitted then.
    pub fn write<T: Element>(&self, source: &[T], destination: &mut impl Operand) -> Result<Fence> {
        let source: &[u8] = bytemuck::cast_slice(source);
        let _writing = destination.borrow_exclusive()?;
        let to = destination.part();
        self.check_staged("write", (source.len(), to.bytes), destination.pool())?;
        let _span = self.pool.span(SlowPath::StagedCopy, source.len());
        let mut staging = QueueStaging::new(self, source.len())?;
        let mut last = None;
        for (number, chunk) in source.chunks(staging.chunk_bytes).enumerate() {
            let slot = staging.fill(number, chunk)?;
            let target = to.location.at(number * staging.chunk_bytes);
            let fence = staging.submit(number, (to.in_flight, Access::Write), |queue| {
                // SAFETY: the target lies inside a live block, kept by the use that `submit` records; the slot is
                // left alone until the fence that it notes.
                unsafe { queue.copy(slot, target, chunk.len()) }
            });
            last = Some(fence?);
        }
        last.map_or_else(|| self.fence(), Ok)
    }

    /// Copies `source` to the start of host memory, in the order of this queue, and returns when it is there.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write); the destination's contents are undefined after an error of the driver.
    pub fn read<T: Element>(&self, source: &impl Operand, destination: &mut [T]) -> Result<()> {
        let destination: &mut [u8] = bytemuck::cast_slice_mut(destination);
        let _reading = source.borrow_shared()?;
        let from = source.part();
        self.check_staged("read", (from.bytes, destination.len()), source.pool())?;
        let _span = self.pool.span(SlowPath::StagedCopy, from.bytes);
        let mut staging = QueueStaging::new(self, from.bytes)?;
        let mut before: Option<(usize, &mut [u8])> = None;
        let chunks = destination[..from.bytes].chunks_mut(staging.chunk_bytes);
        for (number, chunk) in chunks.enumerate() {
            let slot = staging.empty(number)?;
            let part = from.location.at(number * staging.chunk_bytes);
            staging.submit(number, (from.in_flight, Access::Read), |queue| {
                // SAFETY: as in `write`.
                unsafe { queue.copy(part, slot, chunk.len()) }
            })?;
            if let Some((number, chunk)) = before.replace((number, chunk)) {
                staging.drain(number, chunk)?;
            }
        }
        match before {
            Some((number, chunk)) => staging.drain(number, chunk),
            None => Ok(()),
        }
    }

    /// Refuses memory whose address is not one to this queue's device.
    fn check_addressed(&self, operand: &impl Operand, access: Access) -> Result<()> {
        if is_addressed_by(&self.pool, operand, access) {
            return Ok(());
        }
        let pool = operand.pool();
        let whose = pool.map_or_else(
            || "memory of another device".to_owned(),
            |pool| name_of(operand.part().storage, pool.device().properties()),
        );
        let ours = self.pool.device().properties();
        Err(Error::with_message(
            ErrorKind::InvalidRequest,
            format!(
                "{whose}, which only that device reaches, was given to a queue of {}:{}; use a queue of its own \
                 allocator, or Runtime::copy",
                ours.kind.name(),
                ours.ordinal
            ),
        ))
    }

    fn check_staged(
        &self,
        what: &str,
        (bytes, room): (usize, usize),
        pool: Option<Arc<Pool>>,
    ) -> Result<()> {
        let fail = |text| Err(Error::with_message(ErrorKind::InvalidRequest, text));
        if bytes > room {
            return fail(format!("a {what} of {bytes} bytes into {room} bytes"));
        }
        if pool.is_none_or(|pool| pool.key() != self.core.pool) {
            return fail(format!(
                "a {what} of a buffer that is not of the queue's pool; use Runtime::copy"
            ));
        }
        Ok(())
    }

    /// Submits setting every byte of `destination` to `value`.
    ///
    /// # Errors
    ///
    /// As for [`copy`](Self::copy).
    pub fn fill(&self, destination: &mut impl Operand, value: u8) -> Result<Fence> {
        self.check_addressed(destination, Access::Write)?;
        let _writing = destination.borrow_exclusive()?;
        let to = destination.part();
        let filled = self.submit(&[(to.in_flight, Access::Write)], |queue| {
            // SAFETY: the range lies inside a live block; the use recorded by `submit` keeps guards
            // away and the block from being reused until the fence.
            unsafe { queue.fill(to.location, to.bytes, value) }
        });
        filled.map_err(|error| self.explain(error, &[destination]))
    }

    /// An error of the driver about memory of a peer that its queues do not reach, with what to do.
    #[cold]
    fn explain(&self, error: Error, operands: &[&dyn sealed::Operand]) -> Error {
        let refused = [
            ErrorKind::InvalidRequest,
            ErrorKind::Unsupported,
            ErrorKind::System,
        ];
        let ours = self.pool.device();
        let hidden = operands.iter().find_map(|operand| {
            let pool = operand.pool()?;
            let device = pool.device();
            let is_hidden = device.properties().kind == ours.properties().kind
                && !Arc::ptr_eq(device, ours)
                && operand.part().location.host.is_none()
                && !operand.is_visible_to_peers();
            is_hidden.then(|| name_of(operand.part().storage, device.properties()))
        });
        match hidden.filter(|_| refused.contains(&error.kind())) {
            Some(whose) => error.within(format_args!(
                "{whose} that a queue of another device is to reach has to be requested so \
                 (Request::visible_to_peers), or is copied by Runtime::copy"
            )),
            None => error,
        }
    }

    /// Submits a host function, called in the order of the queue. It must not wait for this queue, as a submission to a
    /// full one does (1024 items on the host and the fakes, 256 fences on CUDA, 256 command buffers on Metal). It may free and drop what queues use.
    /// On Metal the GPU waits for the function, and the system ends a wait that takes too long, upon which the queue is lost:
    /// Apple names no time, so keep functions short.
    /// Nor must it wait there for a thread that submits to other queues, as by a lock which that holds meanwhile: a submission
    /// that uses memory of a failed queue waits for its functions to end, and then neither would.
    /// CUDA calls the functions of all queues from one thread, so there it must wait for no queue's work, and what needs
    /// the driver is refused as [`Busy`](ErrorKind::Busy) ([`Device::may_be_called`](crate::Device::may_be_called)).
    ///
    /// # Errors
    ///
    /// What the driver says; the function is dropped uncalled then.
    pub fn call(&self, function: impl FnOnce() + Send + 'static) -> Result<Fence> {
        // Held here until the queue's lock is free again: what a refused function owns may want it when dropped.
        let held = Arc::new(Mutex::new(Some(function)));
        let given = Arc::clone(&held);
        self.submit(&[], |queue| {
            queue.call(Box::new(move || {
                let function = given.lock().take();
                if let Some(function) = function {
                    function();
                }
            }))
        })
    }

    /// A fence at the present end of the queue.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn fence(&self) -> Result<Fence> {
        Ok(self.core.fence_at(self.core.signal()?))
    }

    /// A fence at the present end, or, if the driver refuses, at the next that it makes.
    pub(crate) fn fence_or_next(&self) -> Fence {
        self.fence().unwrap_or_else(|error| {
            note_refused_signal(&error);
            self.core.fence_at(self.core.here().value)
        })
    }

    /// Sees to it that other queues will reach the fences that work waits for, and waits for those that the device cannot.
    fn cover_conflicts(&self, operands: &[(&InFlight, Access)]) -> Result<()> {
        for (in_flight, access) in operands {
            for fence in in_flight.conflicts(*access) {
                if fence.queue.pool == NO_POOL {
                    // A copier's, whose threads may need this queue meanwhile.
                    fence.wait_or_lost()?;
                } else if fence.queue != self.core.id() {
                    fence.cover()?;
                    if !self.core.device.waits_by_itself(&fence.timeline)
                        && !left_out(Wait::OtherQueue)
                    {
                        fence.wait_or_lost()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn submit(
        &self,
        operands: &[(&InFlight, Access)],
        work: impl FnOnce(&dyn DeviceQueue) -> Result<()>,
    ) -> Result<Fence> {
        if !self.pool.device().may_be_called() {
            // The driver's own words.
            self.core.check()?;
        }
        // Before the lock, since it may take another queue's, and wait.
        self.cover_conflicts(operands)?;
        let core = &self.core;
        let mut signalled = core.lock_with_room()?;
        for (in_flight, access) in operands {
            for fence in in_flight.conflicts(*access) {
                if fence.queue != core.id() && !left_out(Wait::OtherQueue) {
                    core.device.wait_for(&fence.timeline, fence.value)?;
                }
            }
        }
        work(core.device.as_ref())?;
        let signal = core.signal_under(&mut signalled);
        // Without a signal the work is covered by the next one that succeeds.
        let fence = core.fence_at(*signal.as_ref().unwrap_or(&(*signalled + 1)));
        for (in_flight, access) in operands {
            in_flight.add(Use {
                fence: fence.clone(),
                access: *access,
            });
        }
        signal?;
        Ok(fence)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Whoever closes the pool meanwhile sees it, or is seen.
        self.core.abandoned.store(true, Ordering::SeqCst);
        thread_cache::remove(self.core.key);
        self.core.key.retire();
        self.pool.forget_queues();
    }
}

/// A point in a [`Queue`]: passed once all work submitted before it is done.
#[derive(Clone)]
pub struct Fence {
    queue: QueueId,
    value: u64,
    timeline: Arc<dyn Timeline>,
}

impl Fence {
    /// A point of a timeline that is no queue's.
    pub(crate) fn of(timeline: Arc<dyn Timeline>, value: u64) -> Self {
        /// Apart from the numbers of queues, which count up from zero.
        static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
        Self {
            queue: QueueId {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                pool: NO_POOL,
                number: u32::MAX,
            },
            value,
            timeline,
        }
    }

    pub(crate) fn queue(&self) -> QueueId {
        self.queue
    }

    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// Sees to it that the point will be reached: a driver may have refused its signal.
    ///
    /// # Errors
    ///
    /// What the driver says of the signal.
    pub(crate) fn cover(&self) -> Result<()> {
        let QueueId { pool, number, .. } = self.queue;
        let Some(pool) = crate::pool::pool_numbered(pool) else {
            return Ok(());
        };
        let covered = pool
            .orders()
            .get(number)
            .map(|queue| queue.cover(self.value));
        match covered {
            // Only a wait tells whether a lost queue has stopped.
            Some(Err(error)) if error.kind() != ErrorKind::DeviceLost => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the point; a lost queue has stopped, and counts as having passed it.
    fn wait_or_lost(&self) -> Result<()> {
        match self.wait(None) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether the point has passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](ErrorKind::DeviceLost) when it never will.
    pub fn is_complete(&self) -> Result<bool> {
        match self.timeline.completed() {
            // What had passed before is known still.
            Err(error) if error.kind() == ErrorKind::DeviceLost => {
                let passed = self.timeline.wait(self.value, Some(Duration::ZERO));
                passed.ok().filter(|&passed| passed).ok_or(error)
            }
            completed => Ok(completed? >= self.value),
        }
    }

    /// Blocks until the point has passed, or for `timeout`.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) when it has not passed by then,
    /// [`DeviceLost`](ErrorKind::DeviceLost) when it never will. In a function that a CUDA queue calls,
    /// [`Busy`](ErrorKind::Busy) for what is not known to have passed: what it waits for may wait for that function.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        if self.queue.pool == NO_POOL
            && self.timeline.completed()? < self.value
            && crate::pool::calls_are_forbidden()
        {
            return Err(Error::new(
                ErrorKind::Busy,
                "a copy is waited for in a function that a queue calls, for which it may wait; do it elsewhere",
            ));
        }
        if self.timeline.wait(self.value, timeout)? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Timeout,
            "the work before a fence is not done yet",
        ))
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("queue", &self.queue.id)
            .field("value", &self.value)
            .finish()
    }
}

/// What queue work can use: a [`Buffer`], a [`BufferView`], a [`PinnedBuffer`](crate::pinned::PinnedBuffer),
/// [`Registered`](crate::registered::Registered) or [`Adopted`](crate::registered::Adopted) memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not memory that queue work can use",
    note = "that is a `Buffer`, a `BufferView`, a `PinnedBuffer`, `Registered` or `Adopted` memory; `Queue::write` and `Queue::read` \
            take slices, and `Runtime::copy` copies between any of these"
)]
pub trait Operand: sealed::Operand {}

impl Operand for Buffer {}
impl Operand for BufferView {}

/// The range of a block that an operand stands for.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub(crate) location: Location,
    pub(crate) bytes: usize,
    pub(crate) in_flight: &'a InFlight,
    pub(crate) offset: usize,
    pub(crate) storage: StorageMode,
}

impl Part<'_> {
    /// Whether both are of one buffer.
    pub(crate) fn is_of_buffer(&self, other: &Part<'_>) -> bool {
        std::ptr::eq(self.in_flight, other.in_flight)
    }

    /// Notes that work uses it until a fence has passed.
    pub(crate) fn note(&self, fence: Fence, access: Access) {
        self.in_flight.add(Use { fence, access });
    }

    fn overlaps(&self, other: &Part<'_>) -> bool {
        self.is_of_buffer(other)
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// Memory of a device, for errors.
fn name_of(storage: StorageMode, device: &DeviceProperties) -> String {
    format!(
        "{storage} memory of {}:{}",
        device.kind.name(),
        device.ordinal
    )
}

pub(crate) fn refuse_overlap(source: &Part<'_>, destination: &Part<'_>) -> Result<()> {
    if source.overlaps(destination) {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "source and destination of a copy overlap; copy through a third buffer",
        ));
    }
    Ok(())
}

/// The fences of work that has to be over before this access, all of which will be reached.
pub(crate) fn uses_before(part: &Part<'_>, access: Access) -> Result<Vec<Fence>> {
    let fences = part.in_flight.conflicts(access);
    fences.iter().try_for_each(Fence::cover)?;
    Ok(fences)
}

pub(crate) mod sealed {
    use super::Part;
    use crate::error::Result;
    use crate::guard::BorrowToken;
    use crate::pool::Pool;
    use crate::sync::Arc;

    pub trait Operand {
        /// The memory it stands for.
        fn part(&self) -> Part<'_>;
        /// The pool that the memory is of.
        fn pool(&self) -> Option<Arc<Pool>>;
        /// Whether queues of the device's peers reach the memory.
        fn is_visible_to_peers(&self) -> bool;
        /// Keeps write guards away until the token is dropped.
        fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>>;
        /// Keeps all guards away until the token is dropped.
        fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>>;
    }
}
