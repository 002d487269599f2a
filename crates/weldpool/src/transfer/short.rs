//! Copies that are over sooner than several threads could begin.

#![allow(unsafe_code)]

use super::extent::Rows;
use super::job::Plan;
use super::line::drain;
use super::memory::{Next, copy_rows};
use super::path::CopyPath;
use super::room::Room;
use super::side::{Reach, Side};
use crate::device::{DeviceQueue, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Pool;
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
    let whole = plan.extent.whole();
    let (source, destination) = (&plan.source, &plan.destination);
    let (from, to) = (
        source.location.at(whole.source),
        destination.location.at(whole.destination),
    );
    let (rows, path) = (whole.rows, plan.path);
    let (down, up) = (device_of(source), device_of(destination));
    match (path, down, up) {
        (CopyPath::Host, ..) => {
            // SAFETY: the caller's promise.
            unsafe { by_processor(from, to, rows) }
        }
        (CopyPath::Staged, None, Some(up)) if rows.count == 1 && rows.bytes >= HALVED_BYTES_MIN => {
            // SAFETY: the caller's promise.
            unsafe { in_halves(up, from, to, rows.bytes) }
        }
        (CopyPath::Staged, down, up) => {
            let down = down.map(|pool| Slot::new(pool, rows)).transpose()?;
            let up = up.map(|pool| Slot::new(pool, rows)).transpose()?;
            let mut part = rows;
            let mut ends = (from, to);
            if let Some(slot) = &down {
                let packed = rows.with_packed_destination();
                // SAFETY: the caller's promise; the slot is this thread's alone and long enough.
                unsafe { by_device(slot.pool, from, slot.location, packed) }?;
                (ends.0, part) = (slot.location, part.with_packed_source());
            }
            if let Some(slot) = &up {
                (ends.1, part) = (slot.location, part.with_packed_destination());
            }
            // SAFETY: as above, and the device has left the slot.
            unsafe { by_processor(ends.0, ends.1, part) }?;
            match &up {
                None => Ok(()),
                // SAFETY: as above.
                Some(slot) => unsafe {
                    by_device(slot.pool, slot.location, to, rows.with_packed_source())
                },
            }
        }
        _ => {
            let pool = source.copying_pool(destination).ok_or_else(no_address)?;
            // SAFETY: the caller's promise.
            unsafe { by_device(pool, from, to, rows) }
        }
    }
}

/// Copies to a device so that it is at the first half while this thread is at the second.
///
/// # Safety
///
/// As for [`copy`].
unsafe fn in_halves(pool: &Pool, from: Location, to: Location, bytes: usize) -> Result<()> {
    let slot = Slot::new(pool, Rows::single(bytes))?;
    let half = Rows::single(bytes / 2);
    let rest = Rows::single(bytes - half.bytes);
    with_queue(pool, |queue| {
        // SAFETY: the caller's promise; the slot is this thread's alone and long enough.
        unsafe { by_processor(from, slot.location, half) }?;
        // SAFETY: as above, and the queue is waited for before the slot is let go.
        unsafe { queue.copy_rows(slot.location, to, half) }?;
        let (from, through, to) = (
            from.at(half.bytes),
            slot.location.at(half.bytes),
            to.at(half.bytes),
        );
        // SAFETY: as above; the device is at the other half.
        unsafe { by_processor(from, through, rest) }?;
        // SAFETY: as above.
        unsafe { queue.copy_now(through, to, rest) }
    })
}

/// Room for a copy, which the pool gets back.
struct Slot<'a> {
    pool: &'a Pool,
    location: Location,
    /// None only while it is given back.
    room: Option<Room>,
}

impl<'a> Slot<'a> {
    fn new(pool: &'a Pool, rows: Rows) -> Result<Self> {
        let room = pool.take_room(rows.total())?;
        Ok(Self {
            pool,
            location: room.slot(0),
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
fn device_of(side: &Side) -> Option<&Arc<Pool>> {
    side.pool.as_ref().filter(|_| side.reach == Reach::Device)
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
