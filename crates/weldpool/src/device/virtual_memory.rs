//! Address space and physical memory apart, for devices whose driver offers it.

#![allow(unsafe_code)]

use std::fmt::Debug;
use std::ptr::NonNull;

use super::StorageMode;
use crate::binding::Resource;
use crate::error::Result;

/// Physical memory obtained from the driver: the handle's number and, where handles are
/// [divisible](VirtualMemoryProperties::divisible), the offset in it, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Physical(u64);

impl Physical {
    /// Wraps the device's number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The device's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The memory `bytes` further on in the same handle. Only for divisible handles.
    #[must_use]
    pub const fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// What a device's virtual memory can do, and what its calls cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualMemoryProperties {
    /// Sizes of handles and positions of mappings are multiples of this many bytes (CUDA and Metal: 2 MiB;
    /// the host: a page).
    pub granularity: usize,
    /// Whether a part of a handle can be mapped and released. Otherwise a handle is mapped and
    /// released whole.
    pub divisible: bool,
    /// Whether mapped memory must be made accessible by a call of its own.
    pub needs_access: bool,
    /// Most mappings this process should have at once, where the system has a limit.
    pub mappings_max: Option<usize>,
    /// Address space that may be reserved in all, in bytes.
    pub address_bytes_max: usize,
    /// Typical cost in nanoseconds of obtaining and mapping one new handle.
    pub create_ns: u32,
    /// Typical cost in nanoseconds of mapping one handle or part at a second place.
    pub remap_ns: u32,
}

/// Address space and physical memory apart (Linux: ranges of a memory file; CUDA: `cuMem*`; Metal 4: placement sparse
/// buffers).
///
/// Implementations are shared between threads and called without any lock held by the caller.
pub trait VirtualMemory: Debug + Send + Sync {
    /// What it can do; constant.
    fn properties(&self) -> VirtualMemoryProperties;

    /// Reserves `bytes` bytes of address space, a multiple of the granularity, aligned to it. It takes
    /// no memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) when there is no such address space, or what
    /// the driver says.
    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>>;

    /// Obtains `bytes` bytes of physical memory, a multiple of the granularity, as one handle.
    ///
    /// # Errors
    ///
    /// As for [`Device::create_segment`](super::Device::create_segment).
    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical>;

    /// As [`create`](Self::create), of the memory of one node; `node` is its position in
    /// [`Device::topology`](super::Device::topology). It stays the memory of that node wherever it is
    /// mapped. Default: of whichever memory.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) also when only this node has no more.
    fn create_on(&self, bytes: usize, storage: StorageMode, node: usize) -> Result<Physical> {
        let _ = node;
        self.create(bytes, storage)
    }

    /// Returns physical memory to the system: a whole handle, or any multiple of the granularity of a
    /// divisible one.
    ///
    /// # Safety
    ///
    /// Nothing uses the memory any more, at whatever address.
    ///
    /// # Errors
    ///
    /// What the driver says; the memory is still held then.
    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()>;
}

/// Reserved address space. Dropping it unmaps everything and gives the addresses back.
///
/// # Safety
///
/// While the value lives, the addresses are nobody else's, and those to which memory was mapped and
/// made accessible are valid for reads and writes; their bytes are initialised. The methods that give
/// addresses and lengths give the same answers each time.
pub unsafe trait AddressRange: Debug + Send + Sync {
    /// Length in bytes.
    fn bytes(&self) -> usize;

    /// Address for the host; none when only the device can touch the memory.
    fn host_address(&self) -> Option<NonNull<u8>>;

    /// Address for the device, where it has addresses of its own.
    fn device_address(&self) -> Option<u64> {
        None
    }

    /// The driver's object and the offset in it at which the addresses begin, where the driver wants those.
    fn resource(&self) -> Option<(Resource, usize)> {
        None
    }

    /// Maps `bytes` bytes of `physical` at offset `at`, both multiples of the granularity. The same
    /// memory may be mapped at several places.
    ///
    /// # Safety
    ///
    /// Nothing uses the addresses; and wherever memory is mapped twice, the caller sees to it that
    /// each byte has one owner.
    ///
    /// # Errors
    ///
    /// What the driver says; nothing is mapped there then.
    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()>;

    /// Makes memory accessible that was mapped between `at` and `at + bytes`. Only called where
    /// [`VirtualMemoryProperties::needs_access`] says so.
    ///
    /// # Errors
    ///
    /// What the driver says; the memory is mapped but must not be touched then.
    fn allow_access(&self, at: usize, bytes: usize) -> Result<()> {
        let _ = (at, bytes);
        Ok(())
    }

    /// Removes every mapping between `at` and `at + bytes`; where handles are not divisible, each is
    /// inside altogether.
    ///
    /// # Safety
    ///
    /// Nothing uses the addresses any more.
    ///
    /// # Errors
    ///
    /// What the driver says; the mappings are still there then.
    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()>;
}
