//! Memory that host and device both reach, through which chunks go.

#![forbid(unsafe_code)]

use crate::device::{Location, Metered, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::Fence;

/// Chunks of one copy that a room takes: while a device is at one, processors are at the next, and the third is there
/// for whoever is early.
pub(crate) const SLOTS: usize = 3;

/// Slots begin at multiples of this many bytes, a page.
const SLOT_ALIGNMENT: usize = 4 << 10;

/// Whether an error says that there is no memory, so that less might be had.
pub(super) fn is_of_memory(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::OutOfMemory | ErrorKind::LimitExceeded
    )
}

/// Room for [`SLOTS`] chunks.
#[derive(Debug)]
pub(crate) struct Room {
    segment: Box<dyn Segment>,
    slot_bytes: usize,
    /// What has to pass before a slot may be used again.
    busy: [Option<Fence>; SLOTS],
}

impl Room {
    pub(super) fn new(device: &Metered, chunk_bytes: usize) -> Result<Self> {
        let bytes = Self::bytes_for(device, chunk_bytes)
            .ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "a chunk is too long"))?;
        Ok(Self {
            segment: device.create_staging(bytes)?,
            slot_bytes: bytes / SLOTS / SLOT_ALIGNMENT * SLOT_ALIGNMENT,
            busy: [const { None }; SLOTS],
        })
    }

    /// Bytes of a room for such chunks, if they can be counted.
    pub(super) fn bytes_for(device: &Metered, chunk_bytes: usize) -> Option<usize> {
        let granularity = device.properties().granularity.max(1);
        chunk_bytes
            .checked_next_multiple_of(SLOT_ALIGNMENT)?
            .checked_mul(SLOTS)?
            .checked_next_multiple_of(granularity)
    }

    pub(crate) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// The place of a slot.
    pub(crate) fn slot(&self, slot: usize) -> Location {
        let start = Location {
            host: self.segment.host_address(),
            device: self.segment.device_address(),
            resource: self.segment.resource().map(|object| (object, 0)),
        };
        start.at(slot * self.slot_bytes)
    }

    /// Notes that work uses a slot until a fence has passed.
    pub(crate) fn occupy(&mut self, slot: usize, fence: Fence) {
        self.busy[slot] = Some(fence);
    }

    /// Waits until no work uses a slot. Work that will not run, since its queue is lost, counts as over.
    pub(crate) fn await_slot(&mut self, slot: usize) -> Result<()> {
        let Some(fence) = &self.busy[slot] else {
            return Ok(());
        };
        let over = fence.cover().and_then(|()| fence.wait(None));
        let lost = |error: &Error| error.kind() == ErrorKind::DeviceLost;
        if over.is_ok() || over.as_ref().is_err_and(lost) {
            self.busy[slot] = None;
        }
        over
    }

    /// Waits until no work uses any slot.
    pub(super) fn await_all(&mut self) -> Result<()> {
        for slot in 0..SLOTS {
            match self.await_slot(slot) {
                Err(error) if error.kind() != ErrorKind::DeviceLost => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether work may use a slot.
    pub(super) fn is_occupied(&self) -> bool {
        self.busy.iter().flatten().any(|fence| {
            let complete = fence.is_complete();
            !complete.unwrap_or_else(|error| error.kind() == ErrorKind::DeviceLost)
        })
    }

    /// Gives the memory back, which no work uses; says how many bytes it were, or hands back what the driver
    /// refused.
    pub(super) fn release(self, device: &Metered) -> std::result::Result<usize, Box<Self>> {
        let bytes = self.segment.bytes();
        match device.release_staging(self.segment) {
            Ok(()) => Ok(bytes),
            Err(refused) => {
                tracing::error!(error = %refused.error, "memory for copies stays");
                Err(Box::new(Self {
                    segment: refused.segment,
                    ..self
                }))
            }
        }
    }
}
