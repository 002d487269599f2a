//! Segments of a CUDA device.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::context::Context;
use super::raw::Driver;
use crate::device::Segment;
use crate::device::mapping::AlignedMapping;
use crate::error::{Error, ErrorKind, Result};
use crate::export::ExportedHandle;
use crate::sync::{Arc, AtomicU64, Ordering};

/// Pages of this size are asked for under pinned memory: the fewer pages, the sooner they are locked.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A segment of a CUDA device, returned when dropped.
#[derive(Debug)]
pub(super) struct CudaSegment {
    context: Arc<Context>,
    kind: Kind,
    device: u64,
    bytes: usize,
    returned: bool,
}

#[derive(Debug)]
enum Kind {
    /// Device memory, for devices without virtual memory.
    Private,
    /// Host memory whose pages are locked.
    Pinned(AlignedMapping),
    /// Memory that the driver moves between host and device.
    Managed { _share: Share },
    /// Device memory of another process.
    Opened,
}

/// What a segment takes of the managed memory.
#[derive(Debug)]
struct Share {
    sum: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.sum.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl CudaSegment {
    /// Device memory (`cuMemAlloc`).
    pub(super) fn private(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let device = context.call("cuMemAlloc", |driver| driver.allocate(bytes))?;
        Ok(Self::new(context, Kind::Private, device, bytes))
    }

    /// Host memory of this process with its pages locked (`cuMemHostRegister`), zero at first. Its address
    /// for the device is the host's, as the programming guide promises for devices with unified addressing.
    pub(super) fn pinned(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let mapping = AlignedMapping::new(bytes, HUGE_PAGE_BYTES)?;
        let host = mapping.address();
        // SAFETY: the mapping is ours and ends only after `give_back`.
        context.call("cuMemHostRegister", |driver| unsafe {
            driver.register_host(host, bytes, false)
        })?;
        let mut segment = Self::new(context, Kind::Pinned(mapping), 0, bytes);
        let address = |driver: &'static Driver| driver.host_device_address(host);
        segment.device = context.call("cuMemHostGetDevicePointer", address)?;
        Ok(segment)
    }

    /// Managed memory (`cuMemAllocManaged`), of which there is never more than the device has free.
    pub(super) fn managed(
        context: &Arc<Context>,
        bytes: usize,
        sum: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let (free, _) = context.call("cuMemGetInfo", Driver::memory_info)?;
        let share = Share {
            sum: Arc::clone(sum),
            bytes: bytes as u64,
        };
        // Managed memory lies on the device only once it was touched there, so all of it is counted.
        let before = sum.fetch_add(share.bytes, Ordering::Relaxed);
        if before.saturating_add(share.bytes) > free as u64 {
            return Err(Error::with_message(
                ErrorKind::OutOfMemory,
                format!(
                    "managed memory would be {} bytes, and the device has {free} free",
                    before.saturating_add(share.bytes)
                ),
            ));
        }
        let device = context.call("cuMemAllocManaged", |driver| driver.allocate_managed(bytes))?;
        let segment = Self::new(context, Kind::Managed { _share: share }, device, bytes);
        let host = segment
            .host_address()
            .ok_or_else(|| Error::new(ErrorKind::System, "cuMemAllocManaged gave no address"))?;
        // SAFETY: the memory was just obtained and is nobody's yet.
        unsafe { host.write_bytes(0, bytes) };
        Ok(segment)
    }

    /// The first `bytes` bytes of another process's memory, if it has so many; takes over what
    /// `cuIpcOpenMemHandle` gave.
    pub(super) fn opened(context: &Arc<Context>, address: u64, bytes: usize) -> Result<Self> {
        let segment = Self::new(context, Kind::Opened, address, bytes);
        let around = |driver: &'static Driver| driver.allocation_around(address);
        let (start, length) = context.call("cuMemGetAddressRange", around)?;
        let there = (start + length as u64).saturating_sub(address);
        if bytes as u64 > there {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("the exported memory has {there} bytes, and {bytes} were claimed"),
            ));
        }
        Ok(segment)
    }

    fn new(context: &Arc<Context>, kind: Kind, device: u64, bytes: usize) -> Self {
        Self {
            context: Arc::clone(context),
            kind,
            device,
            bytes,
            returned: false,
        }
    }

    /// Returns the memory; on an error it is still there.
    pub(super) fn give_back(&mut self) -> Result<()> {
        if self.returned {
            return Ok(());
        }
        match &self.kind {
            Kind::Private | Kind::Managed { .. } => {
                // SAFETY: the address is this segment's, which nobody uses once it is returned.
                let free = |driver: &'static Driver| unsafe { driver.free(self.device) };
                self.context.give_back("cuMemFree", free)?;
            }
            Kind::Opened => {
                // SAFETY: as above.
                let close = |driver: &'static Driver| unsafe { driver.close_legacy(self.device) };
                self.context.give_back("cuIpcCloseMemHandle", close)?;
            }
            Kind::Pinned(mapping) => {
                let host = mapping.address();
                // SAFETY: as above.
                let unregister = |driver: &'static Driver| unsafe { driver.unregister_host(host) };
                self.context.give_back("cuMemHostUnregister", unregister)?;
            }
        }
        self.returned = true;
        Ok(())
    }
}

impl Drop for CudaSegment {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::error!(%error, bytes = self.bytes, "a segment stays");
            // The driver still has the pages, so they stay mapped.
            std::mem::forget(std::mem::replace(&mut self.kind, Kind::Private));
        }
    }
}

// SAFETY: private memory has no host address; a mapping is readable, writable, and zero at first; managed
// memory is readable and writable for the host at the device's address (programming guide, unified memory),
// and was set to zero before anybody got it. None of them moves, and nothing else hands out references.
unsafe impl Segment for CudaSegment {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        match &self.kind {
            Kind::Private | Kind::Opened => None,
            Kind::Pinned(mapping) => Some(mapping.address()),
            Kind::Managed { .. } => {
                let address = usize::try_from(self.device).ok()?;
                NonNull::new(std::ptr::with_exposed_provenance_mut(address))
            }
        }
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.device)
    }

    fn export(&self) -> Result<ExportedHandle> {
        if !matches!(self.kind, Kind::Private) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "only device memory of this process has a legacy handle",
            ));
        }
        let handle = |driver: &'static Driver| driver.legacy_handle(self.device);
        let handle = self.context.call("cuIpcGetMemHandle", handle)?;
        Ok(ExportedHandle::LegacyIpc(handle))
    }
}
