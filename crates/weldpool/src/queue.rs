//! Queues of device work, and fences: points in them.

#![allow(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::{Access, InFlight, Use};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::view::BufferView;

/// Number of a queue, unique in the process and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct QueueId(u64);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

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
    id: QueueId,
    device: Arc<dyn DeviceQueue>,
    /// The greatest value signalled. The lock spans submission and signal, so that a fence covers
    /// exactly what was submitted before it.
    signalled: Mutex<u64>,
}

impl Queue {
    pub(crate) fn new(device: Arc<dyn DeviceQueue>) -> Self {
        Self {
            id: QueueId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            device,
            signalled: Mutex::new(0),
        }
    }

    pub(crate) fn id(&self) -> QueueId {
        self.id
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

    fn submit(
        &self,
        operands: &[(&InFlight, Access)],
        work: impl FnOnce(&dyn DeviceQueue) -> Result<()>,
    ) -> Result<Fence> {
        let mut signalled = self.signalled.lock();
        for (in_flight, access) in operands {
            for fence in in_flight.conflicts(*access) {
                if fence.queue != self.id {
                    self.device.wait_for(&fence.timeline, fence.value)?;
                }
            }
        }
        work(self.device.as_ref())?;
        let signal = self.device.signal();
        // Without a signal the work is covered by the next one that succeeds.
        let value = *signal.as_ref().unwrap_or(&(*signalled + 1));
        let fence = Fence {
            queue: self.id,
            value,
            timeline: Arc::clone(self.device.timeline()),
        };
        for (in_flight, access) in operands {
            in_flight.add(Use {
                fence: fence.clone(),
                access: *access,
            });
        }
        *signalled = signal?;
        Ok(fence)
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
            .field("queue", &self.queue.0)
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
