//! What a device is, and how much memory it has.

use std::fmt;

use super::metal::ChipFamily;

/// The kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceKind {
    /// The CPU and its memory.
    Host,
    /// A GPU of a Mac's.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
    /// The model of a discrete GPU ([`FakeDiscrete`](super::fake::FakeDiscrete)).
    FakeDiscrete,
    /// The model of Metal on Apple silicon ([`FakeApple`](super::fake::FakeApple)).
    FakeApple,
}

impl DeviceKind {
    /// Whether the device is a model made of software, whose calls are charged for rather than timed.
    #[must_use]
    pub const fn is_fake(self) -> bool {
        matches!(self, Self::FakeDiscrete | Self::FakeApple)
    }

    /// Lower-case name, as `weldpool devices` prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::FakeDiscrete => "fake:discrete",
            Self::FakeApple => "fake:apple",
        }
    }
}

/// Where memory lives and who may touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum StorageMode {
    /// One memory that host and device both touch.
    #[default]
    Shared,
    /// Memory that the driver moves to whoever touches it.
    Managed,
    /// Memory that only the device touches; host guards are refused.
    Private,
}

impl StorageMode {
    /// All modes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Shared, Self::Managed, Self::Private];

    /// Lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Managed => "managed",
            Self::Private => "private",
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for StorageMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a device's queues are told of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Addressing {
    /// By addresses of one space that all devices of the kind have in common, however often one is opened (CUDA).
    OneSpace,
    /// By addresses of the device's own, which only devices that are linked with it know besides.
    Own,
    /// By the driver's objects, which are this device's alone (Metal). Memory of a peer is read through a view of its
    /// object, and never written.
    Objects,
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceProperties {
    /// Kind of the device.
    pub kind: DeviceKind,
    /// Number among the devices of its kind.
    pub ordinal: u32,
    /// The maker's name for it.
    pub name: String,
    /// Whether host and device share one physical memory.
    pub unified: bool,
    /// Size of a page in bytes.
    pub page_bytes: usize,
    /// Segments are multiples of this many bytes and aligned to it.
    pub granularity: usize,
    /// Least alignment of a buffer in bytes.
    pub alignment_min: usize,
    /// Largest segment in bytes.
    pub segment_bytes_max: usize,
    /// Storage modes it offers.
    pub storage_modes: Vec<StorageMode>,
    /// NUMA nodes whose memory it reaches, as the system numbers them.
    pub numa_nodes: Vec<u32>,
    /// Threads that can run at once, for the host.
    pub parallelism: usize,
    /// Numbers of the devices of this kind whose memory it reaches without the host.
    pub peers: Vec<u32>,
    /// How its queues are told of memory.
    pub addressing: Addressing,
    /// Whether managed storage is two copies, one of the host's and one of the device's, each of which has to be told what
    /// the other wrote (Metal, where the GPU has memory of its own). Copies are made equal buffer by buffer, so each
    /// managed buffer is a segment of its own then. Otherwise both see one memory.
    pub managed_copies: bool,
    /// Family of the GPU, on Metal.
    pub chip: Option<ChipFamily>,
}

/// Memory of a device, in bytes. Where host and device do not share one, it is that of
/// [`Private`](StorageMode::Private) storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Physical memory.
    pub total: u64,
    /// Memory the system could give without swapping, where it tells.
    pub available: Option<u64>,
    /// A limit set for this process from outside (Linux: the smallest control-group limit).
    pub limit: Option<u64>,
}

impl Budget {
    /// The most this process may hope to hold: the smaller of `total` and `limit`.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        self.limit.map_or(self.total, |limit| limit.min(self.total))
    }
}
