//! The calls of a device, by name.

/// A call of a device that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Device::budget`](crate::Device::budget).
    Budget,
    /// [`Device::create_segment`](crate::Device::create_segment).
    CreateSegment,
    /// [`Device::release_segment`](crate::Device::release_segment).
    ReleaseSegment,
    /// [`Device::create_queue`](crate::Device::create_queue).
    CreateQueue,
    /// [`DeviceQueue::copy`](crate::device::DeviceQueue::copy).
    Copy,
    /// [`DeviceQueue::fill`](crate::device::DeviceQueue::fill).
    Fill,
    /// [`DeviceQueue::call`](crate::device::DeviceQueue::call).
    HostCall,
    /// [`DeviceQueue::signal`](crate::device::DeviceQueue::signal).
    Signal,
    /// [`DeviceQueue::wait_for`](crate::device::DeviceQueue::wait_for).
    WaitFor,
    /// [`Timeline::completed`](crate::device::Timeline::completed). That a queue is lost means that it does nothing any
    /// more, so it is made to fail so only when that is true.
    Query,
    /// [`Timeline::wait`](crate::device::Timeline::wait) by the host, likewise.
    Wait,
    /// [`VirtualMemory::reserve`](crate::device::VirtualMemory::reserve).
    Reserve,
    /// [`VirtualMemory::create`](crate::device::VirtualMemory::create).
    CreatePhysical,
    /// [`VirtualMemory::release`](crate::device::VirtualMemory::release).
    ReleasePhysical,
    /// [`AddressRange::map`](crate::device::AddressRange::map).
    Map,
    /// [`AddressRange::allow_access`](crate::device::AddressRange::allow_access).
    AllowAccess,
    /// [`AddressRange::unmap`](crate::device::AddressRange::unmap).
    Unmap,
    /// [`Device::register`](crate::Device::register).
    Register,
    /// [`Device::unregister`](crate::Device::unregister).
    Unregister,
    /// [`Device::create_exposed`](crate::Device::create_exposed).
    CreateExposed,
    /// [`Segment::export`](crate::device::Segment::export).
    Export,
    /// [`Device::import`](crate::Device::import).
    Import,
    /// [`Segment::object`](crate::device::Segment::object), where one is made.
    Object,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Budget,
        Self::CreateSegment,
        Self::ReleaseSegment,
        Self::CreateQueue,
        Self::Copy,
        Self::Fill,
        Self::HostCall,
        Self::Signal,
        Self::WaitFor,
        Self::Query,
        Self::Wait,
        Self::Reserve,
        Self::CreatePhysical,
        Self::ReleasePhysical,
        Self::Map,
        Self::AllowAccess,
        Self::Unmap,
        Self::Register,
        Self::Unregister,
        Self::CreateExposed,
        Self::Export,
        Self::Import,
        Self::Object,
    ];

    /// Those of [`Timeline`](crate::device::Timeline).
    pub const TIMELINE: [Self; 2] = [Self::Query, Self::Wait];

    /// Those for memory that others reach too.
    pub const EXPOSED: [Self; 3] = [Self::CreateExposed, Self::Export, Self::Import];

    /// Those of [`VirtualMemory`](crate::device::VirtualMemory) and
    /// [`AddressRange`](crate::device::AddressRange).
    pub const VIRTUAL_MEMORY: [Self; 6] = [
        Self::Reserve,
        Self::CreatePhysical,
        Self::ReleasePhysical,
        Self::Map,
        Self::AllowAccess,
        Self::Unmap,
    ];
}
