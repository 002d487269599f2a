//! What is asked of a device, and of the system about it.

#![forbid(unsafe_code)]

use std::ffi::c_uint;

/// Attributes by their numbers (`CUdevice_attribute` in cuda.h).
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute {
    /// The device shares the host's memory.
    Integrated = 18,
    /// Host and device may use managed memory at once.
    ConcurrentManagedAccess = 89,
    /// Handles and mappings can be had.
    VirtualMemoryManagement = 102,
    /// Memory that must not be written can be registered.
    ReadOnlyHostRegister = 113,
    /// Handles can be exported as file descriptors.
    FileDescriptorHandles = 103,
    /// The node of the host's memory that is nearest, as the system numbers it.
    HostNode = 134,
    /// The same for memory of the host's nodes.
    HostVirtualMemoryManagement = 141,
}

impl Attribute {
    pub(super) const fn number(self) -> c_uint {
        self as c_uint
    }
}

/// The node of memory that is nearest to a device, by its position on the PCI bus; none where the system
/// does not say (sysfs has -1 then).
pub(super) fn numa_node(pci: &str) -> Option<u32> {
    let path = format!(
        "/sys/bus/pci/devices/{}/numa_node",
        pci.to_ascii_lowercase()
    );
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
