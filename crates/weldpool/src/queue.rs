//! Queues of device work, and fences: points in them.

#![allow(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::block::{Block, CacheKey, Point};
use crate::buffer::Buffer;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::{Access, InFlight, Use};
use crate::pool::Pool;
use crate::signals::Signals;
use crate::sync::{Arc, AtomicBool, AtomicU32, AtomicUsize, Ordering};
use crate::thread_cache;
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
}

impl QueueCore {
    pub(crate) fn new(device: Arc<dyn DeviceQueue>, pool: CacheKey, number: u32) -> Self {
        Self {
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

    /// The greatest value signalled.
    #[inline]
    pub(crate) fn signalled(&self) -> u64 {
        self.signals.last()
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
        self.signal_under(&mut self.signals.lock())
    }

    fn signal_under(&self, last: &mut u64) -> Result<u64> {
        let value = self.signals.mark(last, || self.device.signal())?;
        self.freed.store(0, Ordering::Relaxed);
        self.freed_bytes.store(0, Ordering::Relaxed);
        Ok(value)
    }

    /// Takes note of memory that left the queue's caches while others compete for memory, so that they
    /// do not wait longer for it than they must.
    pub(crate) fn note_freed(&self, bytes: usize) {
        let frees = self.freed.fetch_add(1, Ordering::Relaxed) + 1;
        let freed = self.freed_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if (frees >= SIGNAL_FREES || freed >= SIGNAL_BYTES)
            && let Err(error) = self.signal()
        {
            tracing::warn!(%error, "a queue could not be signalled");
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
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether the owner is gone, and all work is over.
    pub(crate) fn has_ended(&self) -> bool {
        if !self.is_abandoned() {
            return false;
        }
        // The last signal covers everything, unless the driver refused it so far.
        let covered = self.covered.load(Ordering::Relaxed) || self.signal().is_ok();
        self.covered.store(covered, Ordering::Relaxed);
        covered && (self.completed() >= self.signalled() || left_out(Wait::Ended))
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
    pub(crate) fn new(pool: &Arc<Pool>, device: Arc<dyn DeviceQueue>) -> Self {
        let core = pool
            .orders()
            .add(|number| QueueCore::new(device, pool.key(), number));
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

    /// Submits a copy of all of `source` to the start of `destination`.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](ErrorKind::InvalidRequest) when the destination is shorter or overlaps the
    /// source, [`Busy`](ErrorKind::Busy) while a guard is held on a view, otherwise what the driver
    /// says; nothing was submitted then.
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
        if source.part().overlaps(&destination.part()) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "source and destination of a copy overlap; copy through a third buffer",
            ));
        }
        let _writing = destination.borrow_exclusive()?;
        // Two ranges of one buffer share its borrow state, which is held for writing already.
        let one_buffer = std::ptr::eq(source.part().in_flight, destination.part().in_flight);
        let _reading = if one_buffer {
            None
        } else {
            source.borrow_shared()?
        };
        let (from, to) = (source.part(), destination.part());
        self.submit(
            &[
                (from.in_flight, Access::Read),
                (to.in_flight, Access::Write),
            ],
            |queue| {
                // SAFETY: both ranges lie inside live blocks and do not overlap; the uses recorded by
                // `submit` keep guards away and the blocks from being reused until the fence.
                unsafe { queue.copy(from.location, to.location, bytes) }
            },
        )
    }

    /// Submits setting every byte of `destination` to `value`.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) while a guard is held on a view, otherwise what the driver says;
    /// nothing was submitted then.
    pub fn fill(&self, destination: &mut impl Operand, value: u8) -> Result<Fence> {
        let _writing = destination.borrow_exclusive()?;
        let to = destination.part();
        self.submit(&[(to.in_flight, Access::Write)], |queue| {
            // SAFETY: the range lies inside a live block; the use recorded by `submit` keeps guards
            // away and the block from being reused until the fence.
            unsafe { queue.fill(to.location, to.bytes, value) }
        })
    }

    /// Submits a host function, called in the order of the queue. It must not wait for this queue.
    ///
    /// # Errors
    ///
    /// What the driver says; the function is dropped uncalled then.
    pub fn call(&self, function: impl FnOnce() + Send + 'static) -> Result<Fence> {
        self.submit(&[], |queue| queue.call(Box::new(function)))
    }

    /// A fence at the present end of the queue.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn fence(&self) -> Result<Fence> {
        self.submit(&[], |_| Ok(()))
    }

    /// A fence at the present end, or, if the driver refuses, at the next that it makes.
    pub(crate) fn fence_or_next(&self) -> Fence {
        self.fence().unwrap_or_else(|error| {
            tracing::warn!(%error, "a queue could not be signalled");
            self.core.fence_at(self.core.here().value)
        })
    }

    /// Sees to it that other queues will reach the fences that work waits for.
    fn cover_conflicts(&self, operands: &[(&InFlight, Access)]) -> Result<()> {
        for (in_flight, access) in operands {
            for fence in in_flight.conflicts(*access) {
                let QueueId { pool, number, .. } = fence.queue;
                if pool == self.core.pool.id
                    && number != self.core.number
                    && let Some(other) = self.pool.orders().get(number)
                    && other.signalled() < fence.value
                {
                    other.signal()?;
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
        // Before the lock, since it may take another queue's.
        self.cover_conflicts(operands)?;
        let core = &self.core;
        let mut signalled = core.signals.lock();
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
        self.core.abandoned.store(true, Ordering::Relaxed);
        thread_cache::remove(self.core.key);
        self.core.key.retire();
        self.pool.orders().forget_ended();
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
    pub(crate) fn queue(&self) -> QueueId {
        self.queue
    }

    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    /// Whether the point has passed.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](ErrorKind::DeviceLost) when it never will.
    pub fn is_complete(&self) -> Result<bool> {
        Ok(self.timeline.completed()? >= self.value)
    }

    /// Blocks until the point has passed, or for `timeout`.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) when it has not passed by then,
    /// [`DeviceLost`](ErrorKind::DeviceLost) when it never will.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
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

/// What queue work can use: a [`Buffer`] or a [`BufferView`].
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
}

impl Part<'_> {
    fn overlaps(&self, other: &Part<'_>) -> bool {
        std::ptr::eq(self.in_flight, other.in_flight)
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

pub(crate) mod sealed {
    use super::Part;
    use crate::error::Result;
    use crate::guard::BorrowToken;

    pub trait Operand {
        /// The memory it stands for.
        fn part(&self) -> Part<'_>;
        /// Keeps write guards away until the token is dropped.
        fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>>;
        /// Keeps all guards away until the token is dropped.
        fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>>;
    }
}
