//! The queue of one copy on one device, and the room that its chunks go through.

#![allow(unsafe_code)]

use std::time::Duration;

use super::extent::Rows;
use super::room::{Room, SLOTS};
use crate::device::{DeviceQueue, Location};
use crate::error::{ErrorKind, Result};
use crate::pool::Pool;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering};

/// Between attempts at a call that has to succeed before memory may be let go.
const RETRY: Duration = Duration::from_millis(1);
/// Attempts between one complaint and the next.
const COMPLAIN_EVERY: u32 = 1000;
/// How often a thread that waits for others looks whether the copy has failed.
const LOOK: Duration = Duration::from_millis(20);

/// A queue that all threads of a copy submit to. Dropping it waits for what was submitted.
#[derive(Debug)]
pub(super) struct Line {
    pool: Arc<Pool>,
    /// None only while it is given back, like the room.
    queue: Option<Arc<dyn DeviceQueue>>,
    room: Option<Room>,
    /// Something was submitted.
    used: AtomicBool,
    slots: Mutex<[Slot; SLOTS]>,
    changed: Condvar,
}

/// What a slot of the room is for.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The chunk whose turn it is.
    chunk: usize,
    /// Parts of it that processors are done with.
    parts: usize,
    /// The device copies the chunk until this value of the queue.
    until: Option<u64>,
    /// Somebody waits for that.
    awaited: bool,
}

/// Which way the chunks of a line go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Processors fill a slot, then the device takes the chunk.
    Up,
    /// The device fills a slot, then processors take the chunk.
    Down,
}

impl Line {
    /// A line with room for chunks of so many bytes, or without any for 0.
    ///
    /// # Errors
    ///
    /// What the device says of a new queue or of memory for the room; [`Busy`](ErrorKind::Busy) from where the driver
    /// must not be called.
    pub(super) fn new(pool: &Arc<Pool>, way: Way, chunk_bytes: usize) -> Result<Self> {
        let mut line = Self {
            pool: Arc::clone(pool),
            // First, since it is refused where the driver must not be called.
            queue: Some(pool.take_queue()?),
            room: None,
            used: AtomicBool::new(false),
            slots: Mutex::new(std::array::from_fn(|slot| Slot {
                // What the device is to fill is nobody's turn yet.
                chunk: if way == Way::Up { slot } else { usize::MAX },
                parts: 0,
                until: None,
                awaited: false,
            })),
            changed: Condvar::new(),
        };
        if chunk_bytes > 0 {
            line.room = Some(pool.take_room(chunk_bytes)?);
        }
        Ok(line)
    }

    #[expect(clippy::expect_used, reason = "taken out in drop alone")]
    fn queue(&self) -> &Arc<dyn DeviceQueue> {
        self.queue.as_ref().expect("a queue")
    }

    /// Has the device copy rows; says which value of the queue comes after it.
    ///
    /// # Safety
    ///
    /// As for [`DeviceQueue::copy_rows`]; the ranges are left alone until the line is dropped or that value passed.
    ///
    /// # Errors
    ///
    /// What the driver says; whether anything was submitted is not known then, and dropping the line waits for it.
    pub(super) unsafe fn copy(
        &self,
        source: Location,
        destination: Location,
        rows: Rows,
    ) -> Result<u64> {
        self.used.store(true, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { self.queue().copy_rows(source, destination, rows) }?;
        self.queue().signal()
    }

    /// Waits for a value of the queue.
    pub(super) fn wait(&self, value: u64) -> Result<()> {
        self.queue().timeline().wait(value, None).map(drop)
    }

    /// The slot of a chunk.
    pub(super) fn slot(&self, chunk: usize) -> Location {
        let none = Location {
            host: None,
            device: None,
            resource: None,
        };
        self.room
            .as_ref()
            .map_or(none, |room| room.slot(chunk % SLOTS))
    }

    /// Notes that the device copies a chunk to or from its slot until a value of the queue.
    pub(super) fn note_submitted(&self, chunk: usize, value: u64) {
        let mut slots = self.slots.lock();
        let slot = &mut slots[chunk % SLOTS];
        (slot.chunk, slot.until, slot.parts) = (chunk, Some(value), 0);
        drop(slots);
        self.changed.notify_all();
    }

    /// Notes that a processor is done with a part; true for the last of `parts`.
    pub(super) fn note_part(&self, chunk: usize, parts: usize) -> bool {
        let mut slots = self.slots.lock();
        let slot = &mut slots[chunk % SLOTS];
        slot.parts += 1;
        slot.parts == parts
    }

    /// Blocks until it is a processor's turn at a chunk; false if `failed` says that it will not be.
    /// `delivered` hears of chunks that the device has taken.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(super) fn await_turn(
        &self,
        way: Way,
        chunk: usize,
        failed: impl Fn() -> bool,
        delivered: impl Fn(usize),
    ) -> Result<bool> {
        let index = chunk % SLOTS;
        let mut slots = self.slots.lock();
        loop {
            let slot = &mut slots[index];
            if slot.chunk == chunk && slot.until.is_none() {
                return Ok(true);
            }
            let waits = match way {
                Way::Up => slot.chunk < chunk,
                Way::Down => slot.chunk == chunk,
            };
            match slot.until.filter(|_| waits && !slot.awaited) {
                // One thread asks the driver, and tells the others.
                Some(value) => {
                    slot.awaited = true;
                    let before = slot.chunk;
                    drop(slots);
                    let over = self.wait(value);
                    if over.is_ok() && way == Way::Up {
                        delivered(before);
                    }
                    slots = self.slots.lock();
                    let slot = &mut slots[index];
                    slot.awaited = false;
                    if over.is_ok() {
                        slot.until = None;
                        if way == Way::Up {
                            (slot.chunk, slot.parts) = (before + SLOTS, 0);
                        }
                    }
                    self.changed.notify_all();
                    over?;
                }
                None if failed() => return Ok(false),
                None => {
                    let woken = self.changed.wait_timeout(slots, LOOK);
                    slots = woken.unwrap_or_else(|poison| poison.into_inner()).0;
                }
            }
        }
    }

    /// Waits for all that the device still has of chunks that go up; `delivered` hears of each.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(super) fn deliver_all(&self, delivered: impl Fn(usize)) -> Result<()> {
        let mut waiting: Vec<_> = {
            let slots = self.slots.lock();
            let waiting = slots
                .iter()
                .filter_map(|slot| Some((slot.chunk, slot.until?)));
            waiting.collect()
        };
        waiting.sort_unstable();
        for (chunk, value) in waiting {
            self.wait(value)?;
            self.slots.lock()[chunk % SLOTS].until = None;
            delivered(chunk);
        }
        Ok(())
    }

    /// Says that all that was submitted is over.
    pub(super) fn note_idle(&self) {
        self.used.store(false, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let usable = |queue: &Arc<dyn DeviceQueue>| {
            !self.used.load(Ordering::Relaxed) || drain(queue.as_ref())
        };
        if let Some(queue) = self.queue.take().filter(usable) {
            self.pool.put_queue(queue);
        }
        if let Some(room) = self.room.take() {
            self.pool.put_room(room);
        }
    }
}

/// Blocks until a queue's work is over, whatever the driver answers in between: memory that it uses must not be let
/// go before. A queue that is lost does no more work; false for such a one. Only threads that may call the driver come
/// here: others are given no queue, and leave the end of a copy to those who are at it.
pub(super) fn drain(queue: &dyn DeviceQueue) -> bool {
    let mut refused = 0_u32;
    while let Err(error) = queue.finish() {
        if error.kind() == ErrorKind::DeviceLost {
            return false;
        }
        if refused.is_multiple_of(COMPLAIN_EVERY) {
            tracing::error!(%error, "the driver does not tell whether a copy is over; it is asked again");
        }
        refused += 1;
        std::thread::sleep(RETRY);
    }
    true
}
