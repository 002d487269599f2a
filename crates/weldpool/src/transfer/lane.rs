//! Queues and pinned memory through which copies go, kept by the pool whose device they are of.

#![allow(unsafe_code)]

use std::time::Duration;

use crate::device::{DeviceQueue, Location, Metered, Segment, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::kept;
use crate::sync::{Arc, Mutex};

use super::extent::Rows;

/// Chunks of one copy that a lane has room for.
pub(crate) const SLOTS: usize = 2;
/// Idle lanes that a pool keeps.
const IDLE_MAX: usize = 32;
/// Between attempts at a call that has to succeed before memory may be let go.
const RETRY: Duration = Duration::from_millis(1);

/// What one thread copies with: a queue, and room for chunks in memory that host and device both reach.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: Arc<dyn DeviceQueue>,
    room: Option<Room>,
    /// Work was submitted since the queue was last known to be idle.
    busy: bool,
}

#[derive(Debug)]
struct Room {
    segment: Box<dyn Segment>,
    /// Bytes of a slot.
    bytes: usize,
    /// What has to pass before a slot may be written or read.
    busy: [Option<(Arc<dyn Timeline>, u64)>; SLOTS],
}

impl Lane {
    /// The place of a slot; none without room.
    pub(crate) fn slot(&self, slot: usize) -> Option<Location> {
        let room = self.room.as_ref()?;
        let start = Location {
            host: room.segment.host_address(),
            device: room.segment.device_address(),
            resource: room.segment.resource().map(|object| (object, 0)),
        };
        Some(start.at(slot * room.bytes))
    }

    /// Has the queue copy rows.
    ///
    /// # Safety
    ///
    /// As for [`DeviceQueue::copy_rows`]; the ranges are left alone until the lane says that this is over.
    ///
    /// # Errors
    ///
    /// What the driver says. Whether anything was submitted is known only after [`drain`](Self::drain).
    pub(crate) unsafe fn copy(
        &mut self,
        source: Location,
        destination: Location,
        rows: Rows,
    ) -> Result<u64> {
        self.busy = true;
        // SAFETY: the caller's promise.
        unsafe { self.queue.copy_rows(source, destination, rows) }?;
        self.queue.signal()
    }

    /// Notes that a slot is in use until a value of the lane's queue.
    pub(crate) fn occupy(&mut self, slot: usize, value: u64) {
        let timeline = Arc::clone(self.queue.timeline());
        self.occupy_until(slot, timeline, value);
    }

    /// Notes that a slot is in use until a value of a timeline.
    pub(crate) fn occupy_until(&mut self, slot: usize, timeline: Arc<dyn Timeline>, value: u64) {
        if let Some(room) = &mut self.room {
            room.busy[slot] = Some((timeline, value));
        }
    }

    /// Waits until a slot is not in use. Work that will not run, since its queue is lost, counts as over.
    pub(crate) fn await_slot(&mut self, slot: usize) -> Result<()> {
        let busy = self.room.as_mut().and_then(|room| room.busy[slot].take());
        match busy {
            None => Ok(()),
            Some((timeline, value)) => match timeline.wait(value, None) {
                Ok(_) => Ok(()),
                Err(error) => {
                    if error.kind() != ErrorKind::DeviceLost
                        && let Some(room) = &mut self.room
                    {
                        room.busy[slot] = Some((timeline, value));
                    }
                    Err(error)
                }
            },
        }
    }

    /// Waits for a value of the lane's queue.
    pub(crate) fn wait(&self, value: u64) -> Result<()> {
        self.queue.timeline().wait(value, None).map(drop)
    }

    /// Says that all of the queue's work is over.
    pub(crate) fn note_idle(&mut self) {
        self.busy = false;
    }

    /// Blocks until the queue's work is over, whatever the driver answers in between: the memory that it uses
    /// must not be let go before. A queue that is lost does no more work.
    pub(crate) fn drain(&mut self) {
        let mut refused = 0_u32;
        while self.busy {
            let over = self
                .queue
                .signal()
                .and_then(|value| self.queue.timeline().wait(value, None));
            match over {
                Ok(_) => self.busy = false,
                Err(error) if error.kind() == ErrorKind::DeviceLost => self.busy = false,
                Err(error) => {
                    if refused.is_multiple_of(1000) {
                        tracing::error!(%error, "the driver does not tell whether a copy is over; it is asked again");
                    }
                    refused += 1;
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    /// Whether slots may be in use.
    fn is_occupied(&self) -> bool {
        let Some(room) = &self.room else {
            return false;
        };
        room.busy.iter().flatten().any(|(timeline, value)| {
            let completed = timeline.completed();
            let unknown = |error: Error| {
                if error.kind() == ErrorKind::DeviceLost {
                    u64::MAX
                } else {
                    0
                }
            };
            completed.unwrap_or_else(unknown) < *value
        })
    }
}

/// The idle lanes of a pool.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    idle: Mutex<Vec<Lane>>,
}

impl Lanes {
    /// A lane with room for chunks of `chunk_bytes` bytes, or without any for 0.
    ///
    /// # Errors
    ///
    /// What the device says of a new queue or of memory for the room.
    pub(crate) fn take(&self, device: &Metered, chunk_bytes: usize) -> Result<Lane> {
        let mut lane = match self.take_idle(chunk_bytes) {
            Some(lane) => lane,
            None => Lane {
                queue: device.device().create_queue()?,
                room: None,
                busy: false,
            },
        };
        if chunk_bytes > 0
            && lane
                .room
                .as_ref()
                .is_none_or(|room| room.bytes < chunk_bytes)
        {
            Self::release_room(device, &mut lane);
            match Self::make_room(device, chunk_bytes) {
                Ok(room) => lane.room = Some(room),
                Err(error) => {
                    self.put(device, lane);
                    return Err(error);
                }
            }
        }
        Ok(lane)
    }

    /// An idle lane whose room no work uses, one whose room fits rather than another.
    fn take_idle(&self, chunk_bytes: usize) -> Option<Lane> {
        let mut idle = self.idle.lock();
        let free = |lane: &Lane| !lane.is_occupied();
        let fits = |lane: &Lane| match &lane.room {
            Some(room) => chunk_bytes > 0 && room.bytes >= chunk_bytes,
            None => chunk_bytes == 0,
        };
        let best = idle.iter().rposition(|lane| fits(lane) && free(lane));
        let position = best.or_else(|| idle.iter().rposition(free))?;
        Some(idle.swap_remove(position))
    }

    fn make_room(device: &Metered, chunk_bytes: usize) -> Result<Room> {
        let granularity = device.properties().granularity.max(1);
        let bytes = chunk_bytes
            .checked_mul(SLOTS)
            .and_then(|bytes| bytes.checked_next_multiple_of(granularity))
            .ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "a chunk is too long"))?;
        let segment = device.create_staging(bytes)?;
        Ok(Room {
            // Slots begin where the device can use them as it does buffers.
            bytes: bytes / SLOTS,
            segment,
            busy: [None, None],
        })
    }

    /// Takes a lane back whose queue's work is over, or only uses its room.
    pub(crate) fn put(&self, device: &Metered, mut lane: Lane) {
        lane.drain();
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(lane);
            return;
        }
        drop(idle);
        Self::release_room(device, &mut lane);
    }

    /// Gives the rooms of idle lanes back to the device; returns their bytes. What work still uses stays.
    pub(crate) fn clear(&self, device: &Metered) -> usize {
        let idle = std::mem::take(&mut *self.idle.lock());
        let (stay, go): (Vec<_>, Vec<_>) = idle.into_iter().partition(Lane::is_occupied);
        self.idle.lock().extend(stay);
        let gone = go
            .into_iter()
            .map(|mut lane| Self::release_room(device, &mut lane));
        gone.sum()
    }

    /// Ends: rooms that work still uses are kept for the life of the process.
    pub(crate) fn close(&self, device: &Metered) {
        let _bytes = self.clear(device);
        for lane in std::mem::take(&mut *self.idle.lock()) {
            tracing::error!("work in flight never ended; memory that copies go through is kept");
            kept::keep(lane);
        }
    }

    /// Gives a lane's room back; returns its bytes.
    fn release_room(device: &Metered, lane: &mut Lane) -> usize {
        let Some(room) = lane.room.take() else {
            return 0;
        };
        for (timeline, value) in room.busy.iter().flatten() {
            if let Err(error) = timeline.wait(*value, None)
                && error.kind() != ErrorKind::DeviceLost
            {
                tracing::error!(%error, "memory for copies stays, since work may still use it");
                kept::keep(room.segment);
                return 0;
            }
        }
        let bytes = room.segment.bytes();
        match device.release_staging(room.segment) {
            Ok(()) => bytes,
            Err(refused) => {
                tracing::error!(error = %refused.error, "memory for copies stays");
                lane.room = Some(Room {
                    segment: refused.segment,
                    ..room
                });
                0
            }
        }
    }
}
