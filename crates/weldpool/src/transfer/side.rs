//! One side of a copy, as the threads that work on it see it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::path::reach_of;
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
            pool: None,
        }
    }

    /// A part of a pool's memory.
    pub(super) fn of(operand: &(impl Operand + ?Sized)) -> Self {
        let (part, pool) = (operand.part(), operand.pool());
        let kind = pool.as_ref().map(|pool| pool.device().properties().kind);
        Self {
            location: part.location,
            bytes: part.bytes,
            reach: kind.map_or(Reach::Pageable, |kind| reach_of(kind, part.storage)),
            peers: operand.is_visible_to_peers(),
            pool,
        }
    }

    /// The same as memory that no device knows, where processors reach it.
    pub(super) fn unknown(mut self) -> Self {
        self.location = self.seen(self.location);
        self
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
