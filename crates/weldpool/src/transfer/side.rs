//! One side of a copy, as the threads that work on it see it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::extent::Piece;
use super::path::{CopyPath, is_two_copies, reach_of};
use crate::device::{Location, Staging};
use crate::pool::Pool;
use crate::queue::sealed::Operand;
use crate::sync::Arc;

/// Who can touch memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Processors.
    Pageable,
    /// Processors, and the device of its pool.
    Pinned,
    /// The device of its pool.
    Device,
}

/// Memory that is copied from or to.
///
/// Nothing here keeps it alive or keeps others away; whoever starts a copy sees to both.
#[derive(Debug)]
pub struct Side {
    pub(super) location: Location,
    pub(super) bytes: usize,
    pub(super) reach: Reach,
    /// Queues of the device's peers reach it.
    pub(super) peers: bool,
    /// Where the device has a copy of its own, which has to be told of what the host writes here.
    copy: Option<Location>,
    /// None for memory that is of no pool.
    pub(super) pool: Option<Arc<Pool>>,
}

// SAFETY: a side is an address; the contract of the copies that use it keeps the memory valid and unraced on
// whichever thread they run.
unsafe impl Send for Side {}
// SAFETY: as above.
unsafe impl Sync for Side {}

impl Side {
    /// A slice's memory.
    pub(super) fn of_slice(start: NonNull<u8>, bytes: usize) -> Self {
        Self {
            location: Location {
                host: Some(start),
                device: None,
                resource: None,
            },
            bytes,
            reach: Reach::Pageable,
            peers: false,
            copy: None,
            pool: None,
        }
    }

    /// A part of a pool's memory.
    pub(super) fn of(operand: &(impl Operand + ?Sized)) -> Self {
        let (part, pool) = (operand.part(), operand.pool());
        let device = pool.as_ref().map(|pool| pool.device().properties());
        Self {
            location: part.location,
            bytes: part.bytes,
            reach: device.map_or(Reach::Pageable, |device| reach_of(device, part.storage)),
            peers: operand.is_visible_to_peers(),
            copy: device
                .is_some_and(|device| is_two_copies(device, part.storage))
                .then_some(part.location),
            pool,
        }
    }

    /// The same as memory that no device knows, where processors reach it.
    pub(super) fn unknown(mut self) -> Self {
        self.location = self.seen(self.location);
        self
    }

    /// Tells its device of what was copied to it, if somebody else did that.
    pub(super) fn note_written(&self, path: CopyPath, whole: Piece) {
        let own = matches!(path, CopyPath::Direct | CopyPath::Peer);
        let bytes = whole.rows.destination_span();
        if let (Some(pool), Some(copy)) = (&self.pool, &self.copy)
            && !own
            && bytes > 0
        {
            let start = copy.at(whole.destination);
            pool.device().note_host_write(&start, bytes);
        }
    }

    /// A place in it as it looks to a device that does not know it.
    pub(super) fn seen(&self, place: Location) -> Location {
        match self.reach {
            Reach::Device => place,
            Reach::Pageable | Reach::Pinned => Location {
                host: place.host,
                device: None,
                resource: None,
            },
        }
    }

    /// How the device of its pool copies from and to memory that it does not know.
    pub(super) fn staging(&self) -> Staging {
        let pool = self.pool.as_ref();
        pool.map_or(Staging::HOST, |pool| pool.device().staging())
    }
}
