//! Copies that are over sooner than several threads could begin.

#![allow(unsafe_code)]

use super::extent::{Extent, Piece, Rows};
use super::job::Plan;
use super::line::drain;
use super::memory::{Next, copy_rows};
use super::path::CopyPath;
use super::room::{Room, is_of_memory};
use super::side::{Reach, Side};
use crate::device::{DeviceQueue, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
use crate::profiling::SlowPath;
use crate::sync::Arc;

/// Longer copies that processors have a part in are cut and shared out.
pub(super) const SHORT_BYTES_MAX: usize = 256 << 10;

/// Those to a device from this length on are done in two halves.
const HALVED_BYTES_MIN: usize = 128 << 10;

/// Does all of a copy on this thread, at once.
///
/// # Safety
///
/// Both sides are valid for the extent and apart, nobody frees either, writes the source, or touches the destination
/// during the call, and the fences of the plan have passed.
///
/// # Errors
///
/// What the driver says; nothing is under way any more then.
pub(super) unsafe fn copy(plan: &Plan) -> Result<()> {
    // SAFETY: the caller's promise.
    let done = unsafe { move_bytes(plan) };
    plan.destination
        .note_written(plan.path, plan.extent.whole());
    done
}

/// # Safety
///
/// As for [`copy`].
unsafe fn move_bytes(plan: &Plan) -> Result<()> {
    let whole = plan.extent.whole();
    let (source, destination) = (&plan.source, &plan.destination);
    let (from, to) = (
        source.location.at(whole.source),
        destination.location.at(whole.destination),
    );
    match plan.path {
        CopyPath::Host => {
            // SAFETY: the caller's promise.
            unsafe { by_processor(from, to, whole.rows) }
        }
        CopyPath::Staged => {
            let bytes = whole.rows.total();
            let pool = device_of(source).or_else(|| device_of(destination));
            let _span = pool.map(|pool| pool.span(SlowPath::StagedCopy, bytes));
            let passage = Passage::new(source, destination, bytes)?;
            for piece in passage.pieces(whole) {
                // SAFETY: the caller's promise.
                unsafe { passage.copy(piece) }?;
            }
            Ok(())
        }
        CopyPath::Direct | CopyPath::Peer | CopyPath::Pageable => {
            let pool = source.copying_pool(destination).ok_or_else(no_address)?;
            // SAFETY: the caller's promise.
            unsafe { by_device(pool, from, to, whole.rows) }
        }
    }
}

/// The way through pinned memory of one thread, which is as narrow as memory is short: a slot on each side that only
/// its device reaches. Without memory for any, it is the driver's own way, where it has one.
pub(super) struct Passage<'a> {
    source: &'a Side,
    destination: &'a Side,
    down: Option<Slot<'a>>,
    up: Option<Slot<'a>>,
    /// The pool of the device whose driver copies without slots.
    pageable: Option<&'a Pool>,
}

impl<'a> Passage<'a> {
    /// A passage for up to so many bytes at once.
    pub(super) fn new(source: &'a Side, destination: &'a Side, bytes: usize) -> Result<Self> {
        let mut passage = Self {
            source,
            destination,
            down: None,
            up: None,
            pageable: None,
        };
        let (down, up) = (device_of(source), device_of(destination));
        match passage.take_slots(down, up, bytes) {
            Err(error) if is_of_memory(&error) => match (down, up) {
                (Some(pool), None) | (None, Some(pool)) if takes_pageable(pool) => {
                    tracing::debug!(%error, "a copy goes the driver's own way");
                    passage.pageable = Some(pool);
                    Ok(passage)
                }
                _ => Err(error),
            },
            taken => taken.map(|()| passage),
        }
    }

    fn take_slots(
        &mut self,
        down: Option<&'a Arc<Pool>>,
        up: Option<&'a Arc<Pool>>,
        bytes: usize,
    ) -> Result<()> {
        self.down = down.map(|pool| Slot::new(pool, bytes)).transpose()?;
        self.up = up.map(|pool| Slot::new(pool, bytes)).transpose()?;
        Ok(())
    }

    /// The parts of a piece that are copied at once.
    pub(super) fn pieces(&self, whole: Piece) -> impl Iterator<Item = Piece> + use<> {
        let slots = [&self.down, &self.up].into_iter().flatten();
        let bytes = slots.map(|slot| slot.bytes).fold(usize::MAX, usize::min);
        let extent = Extent::of(whole).in_chunks_of(bytes);
        (0..extent.chunks()).map(move |number| extent.chunk(number))
    }

    /// Copies one of them.
    ///
    /// # Safety
    ///
    /// As for [`copy`], for the piece.
    pub(super) unsafe fn copy(&self, piece: Piece) -> Result<()> {
        let (from, to) = (
            self.source.location.at(piece.source),
            self.destination.location.at(piece.destination),
        );
        let rows = piece.rows;
        if let Some(pool) = self.pageable {
            let (from, to) = (self.source.seen(from), self.destination.seen(to));
            // SAFETY: the caller's promise.
            return unsafe { by_device(pool, from, to, rows) };
        }
        if let (None, Some(slot)) = (&self.down, &self.up)
            && rows.count == 1
            && rows.bytes >= HALVED_BYTES_MIN
        {
            // SAFETY: the caller's promise; the slot is this thread's alone and long enough.
            return unsafe { in_halves(slot, from, to, rows.bytes) };
        }
        let mut part = rows;
        let mut ends = (from, to);
        if let Some(slot) = &self.down {
            let packed = rows.with_packed_destination();
            // SAFETY: the caller's promise; the slot is this thread's alone and long enough.
            unsafe { by_device(slot.pool, from, slot.location, packed) }?;
            (ends.0, part) = (slot.location, part.with_packed_source());
        }
        if let Some(slot) = &self.up {
            (ends.1, part) = (slot.location, part.with_packed_destination());
        }
        // SAFETY: as above, and the device has left the slot.
        unsafe { by_processor(ends.0, ends.1, part) }?;
        match &self.up {
            None => Ok(()),
            // SAFETY: as above.
            Some(slot) => unsafe {
                by_device(slot.pool, slot.location, to, rows.with_packed_source())
            },
        }
    }
}

/// Copies through a slot to a device, which is at the first half while this thread is at the second.
///
/// # Safety
///
/// As for [`copy`]; the slot is this thread's alone and long enough.
unsafe fn in_halves(slot: &Slot<'_>, from: Location, to: Location, bytes: usize) -> Result<()> {
    let through = slot.location;
    let first = Rows::single(bytes / 2);
    let second = Rows::single(bytes - first.bytes);
    with_queue(slot.pool, |queue| {
        // SAFETY: the caller's promise, here and below.
        unsafe { by_processor(from, through, first) }?;
        // SAFETY: as above, and nobody leaves here before the queue is done.
        unsafe { queue.copy_rows(through, to, first) }?;
        let [from, through, to] = [from, through, to].map(|place| place.at(first.bytes));
        // SAFETY: as above; the device is at the other half.
        unsafe { by_processor(from, through, second) }?;
        // SAFETY: as above.
        unsafe { queue.copy_now(through, to, second) }
    })
}

/// Room for a copy, which the pool gets back.
struct Slot<'a> {
    pool: &'a Pool,
    location: Location,
    bytes: usize,
    /// None only while it is given back.
    room: Option<Room>,
}

impl<'a> Slot<'a> {
    /// A slot of so many bytes, or of fewer where memory is short.
    fn new(pool: &'a Pool, bytes: usize) -> Result<Self> {
        let room = pool.take_room_within(bytes)?;
        Ok(Self {
            pool,
            location: room.slot(0),
            bytes: room.slot_bytes(),
            room: Some(room),
        })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.pool.put_room(room);
        }
    }
}

/// The pool of a side that only its device reaches.
pub(super) fn device_of(side: &Side) -> Option<&Arc<Pool>> {
    side.pool.as_ref().filter(|_| side.reach == Reach::Device)
}

fn takes_pageable(pool: &Pool) -> bool {
    pool.device().staging().pageable_bytes_max.is_some()
}

/// # Safety
///
/// As for [`DeviceQueue::copy_now`](crate::device::DeviceQueue::copy_now); when the call returns, the device uses neither.
unsafe fn by_device(pool: &Pool, from: Location, to: Location, rows: Rows) -> Result<()> {
    // SAFETY: the caller's promise.
    with_queue(pool, |queue| unsafe { queue.copy_now(from, to, rows) })
}

/// Runs `work` on a queue, which does nothing more when the call returns.
fn with_queue(pool: &Pool, work: impl FnOnce(&dyn DeviceQueue) -> Result<()>) -> Result<()> {
    let queue = pool.take_queue()?;
    let done = work(queue.as_ref());
    if done.is_ok() || drain(queue.as_ref()) {
        pool.put_queue(queue);
    }
    done
}

/// # Safety
///
/// As for [`copy_rows`].
unsafe fn by_processor(from: Location, to: Location, rows: Rows) -> Result<()> {
    let (Some(from), Some(to)) = (from.host, to.host) else {
        return Err(no_address());
    };
    // SAFETY: the caller's promise.
    unsafe { copy_rows(from, to, rows, Next::Used) };
    Ok(())
}

pub(super) fn no_address() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a place of a copy is reached neither by the host nor by a device of ours",
    )
}
