//! The queues and rooms that a pool keeps for copies from and to its memory.

#![forbid(unsafe_code)]

use super::room::{Room, is_of_memory};
use crate::device::{DeviceQueue, Metered};
use crate::error::{Error, ErrorKind, Result};
use crate::kept;
use crate::sync::{Arc, Mutex};

/// Idle queues and rooms that a pool keeps.
const QUEUES_MAX: usize = 8;
const ROOMS_MAX: usize = 8;
/// Chunks are not made shorter than this for lack of memory.
const CHUNK_BYTES_MIN: usize = 64 << 10;

/// What is idle. All work of the queues is over; that of others' queues may still use rooms.
#[derive(Debug, Default)]
pub(crate) struct Means {
    queues: Mutex<Vec<Arc<dyn DeviceQueue>>>,
    rooms: Mutex<Vec<Room>>,
}

impl Means {
    /// A queue that nobody else submits to, on a thread that may call the driver: what is submitted to it can be waited
    /// for.
    ///
    /// # Errors
    ///
    /// What the device says of a new one; [`Busy`](ErrorKind::Busy) from where the driver must not be called.
    pub(crate) fn take_queue(&self, device: &Metered) -> Result<Arc<dyn DeviceQueue>> {
        let device = device.device();
        if !device.may_be_called() {
            return Err(Error::new(
                ErrorKind::Busy,
                "a copy in a function that a queue calls, where the driver must not be called; copy elsewhere",
            ));
        }
        let idle = self.queues.lock().pop();
        idle.map_or_else(|| device.create_queue(), Ok)
    }

    /// Takes a queue back whose work is over.
    pub(crate) fn put_queue(&self, queue: Arc<dyn DeviceQueue>) {
        let mut queues = self.queues.lock();
        if queues.len() < QUEUES_MAX {
            queues.push(queue);
        }
    }

    /// A room for chunks of so many bytes.
    ///
    /// # Errors
    ///
    /// What the device says of new memory.
    pub(crate) fn take_room(&self, device: &Metered, chunk_bytes: usize) -> Result<Room> {
        let idle = {
            let mut rooms = self.rooms.lock();
            let fits = |room: &Room| room.slot_bytes() >= chunk_bytes && !room.is_occupied();
            take_smallest(&mut rooms, fits)
        };
        if let Some(room) = idle {
            return Ok(room);
        }
        // Not without bound: the one that was given back first is waited for.
        let busy = {
            let mut rooms = self.rooms.lock();
            let long = |room: &Room| room.slot_bytes() >= chunk_bytes;
            let first = rooms.iter().position(long);
            let first = first.filter(|_| rooms.len() >= ROOMS_MAX);
            first.map(|first| rooms.remove(first))
        };
        match busy {
            Some(room) => self.await_all(device, room),
            None => Room::new(device, chunk_bytes),
        }
    }

    /// A room once no work uses it.
    fn await_all(&self, device: &Metered, mut room: Room) -> Result<Room> {
        match room.await_all() {
            Ok(()) => Ok(room),
            Err(error) => {
                self.put_room(device, room);
                Err(error)
            }
        }
    }

    /// A room for chunks of so many bytes, or of fewer where there is no memory for those.
    ///
    /// # Errors
    ///
    /// What the device says of the smallest.
    pub(crate) fn take_room_within(&self, device: &Metered, chunk_bytes: usize) -> Result<Room> {
        let mut bytes = chunk_bytes.max(1);
        loop {
            let error = match self.take_room(device, bytes) {
                Err(error) if is_of_memory(&error) => error,
                other => return other,
            };
            let room = Room::bytes_for(device, bytes);
            // Half of it, and where rooms have a least size again, until less is asked for.
            while bytes > CHUNK_BYTES_MIN && Room::bytes_for(device, bytes) == room {
                bytes = (bytes / 2).max(CHUNK_BYTES_MIN);
            }
            if Room::bytes_for(device, bytes) == room {
                // One that work still uses is better than none.
                let kept = self.rooms.lock().pop();
                if let Some(room) = kept {
                    return self.await_all(device, room);
                }
                return Err(error.within(format_args!(
                    "no memory for chunks of a staged copy to go through (CopierConfig::chunk_bytes), \
                     not even {} bytes",
                    room.unwrap_or(usize::MAX)
                )));
            }
            tracing::debug!(%error, bytes, "a copy has shorter chunks");
        }
    }

    pub(crate) fn put_room(&self, device: &Metered, room: Room) {
        let mut rooms = self.rooms.lock();
        rooms.push(room);
        let surplus = match rooms.len() > ROOMS_MAX {
            true => take_smallest(&mut rooms, |room| !room.is_occupied()),
            false => None,
        };
        drop(rooms);
        if let Some(Err(room)) = surplus.map(|room| room.release(device)) {
            self.rooms.lock().push(*room);
        }
    }

    /// Gives rooms that no work uses back to the device; returns their bytes.
    pub(crate) fn clear(&self, device: &Metered) -> usize {
        let rooms = std::mem::take(&mut *self.rooms.lock());
        let (mut stay, go): (Vec<_>, Vec<_>) = rooms.into_iter().partition(Room::is_occupied);
        let mut returned = 0;
        for room in go {
            match room.release(device) {
                Ok(bytes) => returned += bytes,
                Err(room) => stay.push(*room),
            }
        }
        self.rooms.lock().append(&mut stay);
        returned
    }

    /// Ends: rooms that work still uses are kept for the life of the process.
    pub(crate) fn close(&self, device: &Metered) {
        let _bytes = self.clear(device);
        for room in std::mem::take(&mut *self.rooms.lock()) {
            tracing::error!("work in flight never ended; memory that copies go through is kept");
            kept::keep(room);
        }
        self.queues.lock().clear();
    }
}

/// Takes the smallest of the rooms that will do.
fn take_smallest(rooms: &mut Vec<Room>, will_do: impl Fn(&Room) -> bool) -> Option<Room> {
    let candidates = rooms.iter().enumerate().filter(|(_, room)| will_do(room));
    let smallest = candidates.min_by_key(|(_, room)| room.slot_bytes());
    let position = smallest.map(|(position, _)| position)?;
    // In order: the rest was given back in it.
    Some(rooms.remove(position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SoftwareTimeline;
    use crate::device::host::HostDevice;
    use crate::profiling::Profiling;
    use crate::queue::Fence;

    #[test]
    fn rooms_stay_in_the_order_in_which_they_were_given_back() {
        let device = Metered::new(Arc::new(HostDevice::new().unwrap()), &Profiling::Off);
        let means = Means::default();
        let timeline = Arc::new(SoftwareTimeline::default());
        let fence = |value| Fence::of(timeline.clone(), value);
        let small = Room::new(&device, CHUNK_BYTES_MIN).unwrap();
        let small_bytes = small.slot_bytes();
        means.put_room(&device, small);
        for value in 1..ROOMS_MAX as u64 {
            let mut room = Room::new(&device, 64 * CHUNK_BYTES_MIN).unwrap();
            room.occupy(0, fence(value));
            means.put_room(&device, room);
        }
        let taken = means.take_room(&device, CHUNK_BYTES_MIN).unwrap();
        assert_eq!(taken.slot_bytes(), small_bytes, "the smallest");
        let mut last = Room::new(&device, 64 * CHUNK_BYTES_MIN).unwrap();
        last.occupy(0, fence(ROOMS_MAX as u64));
        means.put_room(&device, last);
        // Of the first it is known, of the others not.
        timeline.reach(1);
        for value in 2..=ROOMS_MAX as u64 + 1 {
            let first = means.rooms.lock().remove(0);
            let before = first.is_occupied();
            assert!(!before, "room {value} is not the next");
            timeline.reach(value);
            assert!(first.release(&device).is_ok());
        }
        assert!(taken.release(&device).is_ok());
    }
}
