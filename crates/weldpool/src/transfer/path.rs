//! The ways bytes can take.

#![forbid(unsafe_code)]

use super::side::{Reach, Side};
use crate::device::{DeviceKind, StorageMode};
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
                } else if source.reaches(destination) || destination.reaches(source) {
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

    /// Whether the device of this side can copy to and from the other's memory.
    pub(super) fn reaches(&self, other: &Self) -> bool {
        let (Some(one), Some(two)) = (&self.pool, &other.pool) else {
            return false;
        };
        let (one, two) = (one.device().properties(), two.device().properties());
        other.peers && one.kind == two.kind && two.peers.contains(&one.ordinal)
    }

    /// The pool whose device copies by itself from one side to the other.
    pub(super) fn copying_pool<'a>(&'a self, destination: &'a Self) -> Option<&'a Arc<Pool>> {
        let first = match (self.reach, destination.reach) {
            (Reach::Device, Reach::Device) if self.is_of_same_device(destination) => self,
            (Reach::Device, Reach::Device) if !self.reaches(destination) => destination,
            (Reach::Device, _) => self,
            _ => destination,
        };
        first.pool.as_ref().filter(|_| first.reach == Reach::Device)
    }
}

/// Whether both pools are of one device.
fn are_of_same_device(one: &Pool, two: &Pool) -> bool {
    let (one, two) = (one.device(), two.device());
    // A GPU can be opened more than once; what is made of software is a device for itself each time.
    let real = one.properties().kind == DeviceKind::Cuda;
    Arc::ptr_eq(one, two)
        || real
            && two.properties().kind == DeviceKind::Cuda
            && one.properties().ordinal == two.properties().ordinal
}

/// Whether the address of an operand is one to the queues of a pool, be it reached or not: NVIDIA GPUs have one space
/// of addresses, and so have devices of software that are linked. Elsewhere the same number is something else. Metal names
/// memory by its own objects alone.
pub(crate) fn is_addressed_by(pool: &Pool, operand: &(impl Operand + ?Sized)) -> bool {
    let Some(owner) = operand.pool() else {
        return true;
    };
    let (one, two) = (owner.device().properties(), pool.device().properties());
    if two.kind == DeviceKind::FakeApple {
        // It knows no addresses, but objects of its own.
        return are_of_same_device(&owner, pool);
    }
    reach_of(one.kind, operand.part().storage) != Reach::Device
        || are_of_same_device(&owner, pool)
        || one.kind == two.kind
            && (one.kind == DeviceKind::Cuda || one.peers.contains(&two.ordinal))
}

/// Who can touch memory of this storage mode on a device of that kind.
pub(super) const fn reach_of(kind: DeviceKind, storage: StorageMode) -> Reach {
    match (kind, storage) {
        (DeviceKind::Host, _) => Reach::Pageable,
        (_, StorageMode::Shared) => Reach::Pinned,
        (_, StorageMode::Private | StorageMode::Managed) => Reach::Device,
    }
}
