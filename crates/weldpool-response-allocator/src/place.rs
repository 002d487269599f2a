//! Kinds of memory in Triton's terms.
#![forbid(unsafe_code)]

use std::fmt;

use weldpool::StorageMode;
use weldpool::device::{DeviceKind, DeviceProperties};
use weldpool_triton_sys::{MemoryType, Number};

/// A kind of memory, and which device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its type.
    pub memory_type: MemoryType,
    /// CUDA's number of the device for `Gpu`, 0 for memory of the host.
    pub id: i64,
}

impl Place {
    /// Memory of the host that any code reads and writes.
    pub const CPU: Place = Place {
        memory_type: MemoryType::Cpu,
        id: 0,
    };

    /// Memory of the host whose pages are locked.
    pub const PINNED: Place = Place {
        memory_type: MemoryType::CpuPinned,
        id: 0,
    };

    /// Where an output of no bytes is said to lie.
    pub(crate) const NOWHERE: Place = Place::CPU;

    /// What a storage mode of a device is for Triton; none if Triton has no name for it.
    pub(crate) fn of(device: &DeviceProperties, storage: StorageMode) -> Option<Place> {
        match (device.kind, storage) {
            (DeviceKind::Cuda, StorageMode::Private) => Some(Place {
                memory_type: MemoryType::Gpu,
                id: device.ordinal.into(),
            }),
            // Triton's GPUs are CUDA's: it would take another's address for one of theirs.
            (_, StorageMode::Private) => None,
            (DeviceKind::Cuda | DeviceKind::FakeDiscrete, StorageMode::Shared) => {
                Some(Place::PINNED)
            }
            // The host reads and writes it in place, which is all that `Cpu` says.
            _ => Some(Place::CPU),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.memory_type {
            MemoryType::Cpu => f.write_str("CPU"),
            MemoryType::CpuPinned => f.write_str("CPU_PINNED"),
            MemoryType::Gpu => write!(f, "GPU {}", self.id),
        }
    }
}

/// The place that is asked for. The type may be one that is not known here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    memory_type: Option<MemoryType>,
    id: i64,
}

/// Distances of places from what is wanted are below this.
pub(crate) const DISTANCES: u8 = 4;

impl Wanted {
    pub(crate) fn new(memory_type: Number, id: i64) -> Wanted {
        Wanted {
            memory_type: MemoryType::of(memory_type),
            id,
        }
    }

    /// How far memory of a place is from what is wanted: 0 is the same, 1 the next best.
    pub(crate) fn distance(self, place: Place) -> u8 {
        use MemoryType::{Cpu, CpuPinned, Gpu};
        match (self.memory_type, place.memory_type) {
            (None, _) | (Some(Cpu), Cpu) | (Some(CpuPinned), CpuPinned) => 0,
            (Some(Gpu), Gpu) if self.id == place.id => 0,
            (Some(Cpu), CpuPinned) | (Some(CpuPinned), Cpu) | (Some(Gpu), CpuPinned) => 1,
            (Some(Gpu), Cpu) | (Some(Cpu | CpuPinned), Gpu) => 2,
            (Some(Gpu), Gpu) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(id: i64) -> Place {
        Place {
            memory_type: MemoryType::Gpu,
            id,
        }
    }

    #[test]
    fn what_is_wanted_is_nearest_and_a_gpu_is_better_reached_from_pinned_memory() {
        let places = [Place::CPU, Place::PINNED, gpu(0), gpu(1)];
        let distances = |wanted: Wanted| places.map(|place| wanted.distance(place));
        assert_eq!(distances(Wanted::new(0, 0)), [0, 1, 2, 2]);
        // Memory of the host has no number.
        assert_eq!(distances(Wanted::new(0, 5)), [0, 1, 2, 2]);
        assert_eq!(distances(Wanted::new(1, 0)), [1, 0, 2, 2]);
        assert_eq!(distances(Wanted::new(2, 0)), [2, 1, 0, 3]);
        assert_eq!(distances(Wanted::new(2, 1)), [2, 1, 3, 0]);
        assert_eq!(distances(Wanted::new(77, 0)), [0; 4]);
        for wanted in [0, 1, 2, -1] {
            let all = distances(Wanted::new(wanted, 0));
            assert!(all.iter().all(|&distance| distance < DISTANCES));
        }
    }

    #[test]
    fn devices_are_told_apart_as_triton_tells_them() {
        let mut device = weldpool::Allocator::host()
            .unwrap()
            .device()
            .properties()
            .clone();
        use StorageMode::{Managed, Private, Shared};
        let mut of = |kind, storage| {
            device.kind = kind;
            device.ordinal = 3;
            Place::of(&device, storage)
        };
        assert_eq!(of(DeviceKind::Cuda, Private), Some(gpu(3)));
        assert_eq!(of(DeviceKind::Cuda, Shared), Some(Place::PINNED));
        assert_eq!(of(DeviceKind::Cuda, Managed), Some(Place::CPU));
        assert_eq!(of(DeviceKind::Metal, Shared), Some(Place::CPU));
        assert_eq!(of(DeviceKind::FakeApple, Shared), Some(Place::CPU));
        assert_eq!(of(DeviceKind::Host, Shared), Some(Place::CPU));
        for kind in [
            DeviceKind::Metal,
            DeviceKind::FakeApple,
            DeviceKind::FakeDiscrete,
        ] {
            assert_eq!(of(kind, Private), None);
        }
    }
}
