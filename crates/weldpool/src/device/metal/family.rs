//! Families of GPUs, and what is decided by them.
//!
//! | | source |
//! |---|---|
//! | which chips are of which family | Metal's feature set tables, and the documentation of `MTLGPUFamily` |
//! | Apple silicon says of itself that it is `Mac2` too, so the Apple families are asked for first | the same tables |
//! | no heaps in a virtual machine | MLX, `metal/device.cpp` and `metal/allocator.cpp` |
//! | heaps of shared storage on Apple silicon alone | MoltenVK 2020 (private ones alone); PyTorch, gpu-allocator (both) |
//! | no residency sets in a virtual machine: making one fails there | MLX, `metal/resident.cpp` |
//! | residency sets from `Metal3` on | MLX, `metal/resident.cpp` |
//! | what is kept resident at most, and in one set | [`ResidencyConfig`](super::ResidencyConfig); measured on M2 to M4 alone |
//! | segments, and the sizes of heaps | nothing is known to differ by family, so they are the same for all |
//! | whether a short copy is a blit or a kernel | not measured on any family, so it is a blit wherever Metal allows one |
//!
//! Macs do not tell of nodes of memory (NUMA). An Ultra chip is two dies, and Apple's words for it are that software sees
//! one chip with one memory; no call and no `sysctl` names a die. So Metal devices have one node.

#![forbid(unsafe_code)]

use super::raw::{Family, Metal};

/// Family of a GPU that Metal drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChipFamily {
    /// M1.
    Apple7,
    /// M2.
    Apple8,
    /// M3 and M4.
    Apple9,
    /// M5.
    Apple10,
    /// A GPU of an Intel Mac, whether it has memory of its own or not.
    Mac2,
    /// Apple's GPU in a virtual machine.
    Paravirtual,
}

/// How a GPU in a virtual machine of Apple's calls itself (MLX, `metal/device.cpp`).
pub(in crate::device) const PARAVIRTUAL: &str = "Apple Paravirtual device";

/// What is decided by the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Defaults {
    /// Whether segments lie on heaps.
    pub(super) heaps: bool,
    /// Whether those of shared storage do too.
    pub(super) shared_heaps: bool,
    /// Whether memory is kept resident by sets, where the system has them.
    pub(super) residency_sets: bool,
}

impl ChipFamily {
    /// The family of a device; none for one that is older than all.
    pub(in crate::device) fn of<M: Metal>(metal: &M) -> Option<Self> {
        if metal.name() == PARAVIRTUAL {
            return Some(Self::Paravirtual);
        }
        let newest_first = [
            (Family::Apple10, Self::Apple10),
            (Family::Apple9, Self::Apple9),
            (Family::Apple8, Self::Apple8),
            (Family::Apple7, Self::Apple7),
            (Family::Mac2, Self::Mac2),
        ];
        let found = newest_first
            .into_iter()
            .find(|&(family, _)| metal.supports_family(family));
        found.map(|(_, family)| family)
    }

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apple7 => "apple7",
            Self::Apple8 => "apple8",
            Self::Apple9 => "apple9",
            Self::Apple10 => "apple10",
            Self::Mac2 => "mac2",
            Self::Paravirtual => "paravirtual",
        }
    }
}

impl Defaults {
    /// For a device of this family; `metal3` if it is of that one too.
    pub(super) fn of(family: Option<ChipFamily>, metal3: bool) -> Self {
        let real = family != Some(ChipFamily::Paravirtual);
        Self {
            heaps: real,
            shared_heaps: real && family != Some(ChipFamily::Mac2),
            residency_sets: real && metal3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake::{AppleGpu, FakeApple};

    #[test]
    fn devices_are_of_the_newest_family_that_they_support() {
        for (gpu, family) in [
            (AppleGpu::Silicon, ChipFamily::Apple9),
            (AppleGpu::Discrete, ChipFamily::Mac2),
            (AppleGpu::Paravirtual, ChipFamily::Paravirtual),
        ] {
            let device = FakeApple::builder().gpu(gpu).build().unwrap();
            assert_eq!(ChipFamily::of(device.metal()), Some(family));
            let told = crate::device::Device::properties(&device).chip;
            assert_eq!(told, Some(family));
        }
    }

    #[test]
    fn heaps_and_residency_sets_are_where_they_work() {
        let of = |family, metal3| {
            let Defaults {
                heaps,
                shared_heaps,
                residency_sets,
            } = Defaults::of(family, metal3);
            [heaps, shared_heaps, residency_sets]
        };
        assert_eq!(of(Some(ChipFamily::Paravirtual), true), [false; 3]);
        assert_eq!(of(Some(ChipFamily::Apple7), true), [true; 3]);
        assert_eq!(of(Some(ChipFamily::Mac2), true), [true, false, true]);
        assert_eq!(of(Some(ChipFamily::Mac2), false), [true, false, false]);
    }
}
