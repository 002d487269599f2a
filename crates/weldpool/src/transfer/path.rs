//! The ways bytes can take.

#![forbid(unsafe_code)]

use super::side::{Reach, Side};
use crate::device::{Addressing, DeviceKind, DeviceProperties, StorageMode};
use crate::in_flight::Access;
use crate::pool::Pool;
use crate::queue::sealed::Operand;
use crate::sync::Arc;

/// The way the bytes of a copy took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum CopyPath {
    /// Processors copied, several at once where that pays.
    Host,
    /// The device copied, within its memory or from and to host memory that it knows.
    Direct,
    /// The device copied from or to the memory of another device.
    Peer,
    /// The device's driver copied from or to host memory that it does not know, by means of its own.
    Pageable,
    /// Processors copied chunks to or from memory that the device knows, and the device copied those.
    Staged,
}

impl CopyPath {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Host,
        Self::Direct,
        Self::Peer,
        Self::Pageable,
        Self::Staged,
    ];

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Direct => "direct",
            Self::Peer => "peer",
            Self::Pageable => "pageable",
            Self::Staged => "staged",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The way from one side to the other for so many bytes; `pageable_bytes_max` overrides what the device says.
    pub(super) fn choose(
        source: &Side,
        destination: &Side,
        bytes: usize,
        pageable_bytes_max: Option<usize>,
    ) -> Self {
        let (device, other) = match (source.reach, destination.reach) {
            (Reach::Device, Reach::Device) => {
                return if source.is_of_same_device(destination) {
                    Self::Direct
                } else if source.reaches(destination, Access::Write)
                    || destination.reaches(source, Access::Read)
                {
                    Self::Peer
                } else {
                    Self::Staged
                };
            }
            (Reach::Device, _) => (source, destination),
            (_, Reach::Device) => (destination, source),
            _ => return Self::Host,
        };
        if other.reach == Reach::Pinned && device.is_of_same_device(other) {
            return Self::Direct;
        }
        match device.staging().pageable_bytes_max {
            Some(most) if bytes <= pageable_bytes_max.unwrap_or(most) => Self::Pageable,
            _ => Self::Staged,
        }
    }
}

impl Side {
    fn is_of_same_device(&self, other: &Self) -> bool {
        let (Some(one), Some(two)) = (&self.pool, &other.pool) else {
            return false;
        };
        are_of_same_device(one, two)
    }

    /// Whether the device of this side can copy from the other's memory, or to it.
    pub(super) fn reaches(&self, other: &Self, access: Access) -> bool {
        let (Some(one), Some(two)) = (&self.pool, &other.pool) else {
            return false;
        };
        let (one, two) = (one.device().properties(), two.device().properties());
        other.peers && are_peers(two, one) && (access == Access::Read || writes_to_peers(one))
    }

    /// The pool whose device copies by itself from one side to the other.
    pub(super) fn copying_pool<'a>(&'a self, destination: &'a Self) -> Option<&'a Arc<Pool>> {
        let first = match (self.reach, destination.reach) {
            (Reach::Device, Reach::Device) if self.is_of_same_device(destination) => self,
            (Reach::Device, Reach::Device) if !self.reaches(destination, Access::Write) => {
                destination
            }
            (Reach::Device, _) => self,
            _ => destination,
        };
        first.pool.as_ref().filter(|_| first.reach == Reach::Device)
    }
}

/// Whether both pools are of one device.
fn are_of_same_device(one: &Pool, two: &Pool) -> bool {
    let (one, two) = (one.device(), two.device());
    let (first, second) = (one.properties(), two.properties());
    // A GPU can be opened more than once, and its addresses may be the same each time.
    Arc::ptr_eq(one, two)
        || first.addressing == Addressing::OneSpace
            && first.kind == second.kind
            && first.ordinal == second.ordinal
}

/// Whether memory of the one device can be shown to the other.
fn are_peers(one: &DeviceProperties, two: &DeviceProperties) -> bool {
    one.kind == two.kind && one.peers.contains(&two.ordinal)
}

/// Whether a device writes to memory of its peers: Metal's remote views are for reading alone.
fn writes_to_peers(device: &DeviceProperties) -> bool {
    device.addressing != Addressing::Objects
}

/// Whether the address of an operand is one to the queues of a pool, be it reached or not, to be read or written. Where
/// devices have addresses of their own the same number is something else elsewhere; a driver's object is its own device's
/// alone, but for what is shown to a peer. What is two copies is no other device's to touch.
pub(crate) fn is_addressed_by(
    pool: &Pool,
    operand: &(impl Operand + ?Sized),
    access: Access,
) -> bool {
    let Some(owner) = operand.pool() else {
        return true;
    };
    if are_of_same_device(&owner, pool) {
        return true;
    }
    let (one, two) = (owner.device().properties(), pool.device().properties());
    if two.addressing == Addressing::Objects {
        return access == Access::Read && operand.is_visible_to_peers() && are_peers(one, two);
    }
    let storage = operand.part().storage;
    let of_host = reach_of(one, storage) != Reach::Device && !is_two_copies(one, storage);
    of_host
        || one.kind == two.kind
            && (one.addressing == Addressing::OneSpace || one.peers.contains(&two.ordinal))
}

/// Whether memory of this storage mode is one copy of the host's and one of the device's.
pub(super) fn is_two_copies(device: &DeviceProperties, storage: StorageMode) -> bool {
    storage == StorageMode::Managed && device.managed_copies
}

/// Who can touch memory of this storage mode of a device.
pub(super) fn reach_of(device: &DeviceProperties, storage: StorageMode) -> Reach {
    match storage {
        _ if device.kind == DeviceKind::Host => Reach::Pageable,
        StorageMode::Shared => Reach::Pinned,
        // Who is to see what processors write is told; see `Side::note_host_write`.
        StorageMode::Managed if device.managed_copies => Reach::Pinned,
        StorageMode::Managed | StorageMode::Private => Reach::Device,
    }
}
