//! Memory of this process that the driver was made to know (`cuMemHostRegister`).

#![allow(unsafe_code)]

use super::attribute::Attribute;
use super::context::Context;
use super::raw::Driver;
use crate::device::raw::Address;
use crate::device::{HostRange, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::registered::CopyReason;
use crate::sync::Arc;

/// Memory whose pages the driver has locked. Neither address nor length need be aligned; pages are locked whole,
/// and two ranges may lie on one page.
#[derive(Debug)]
pub(super) struct CudaRegistration {
    context: Arc<Context>,
    host: Address,
    device: u64,
    ended: bool,
}

impl CudaRegistration {
    /// # Safety
    ///
    /// The memory is mapped, and stays so until the value is dropped.
    pub(super) unsafe fn new(context: &Arc<Context>, memory: HostRange) -> Result<Self> {
        let HostRange {
            address,
            bytes,
            read_only,
        } = memory;
        if read_only {
            let attribute = Attribute::ReadOnlyHostRegister.number();
            let can = context.call("cuDeviceGetAttribute", |driver| {
                driver.device_attribute(context.device(), attribute)
            });
            if !matches!(can, Ok(1..)) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this device registers no memory that must not be written; copy it, or map it for writing",
                )
                .with_copy_reason(CopyReason::ReadOnly));
            }
        }
        // SAFETY: the caller's promise.
        context.call("cuMemHostRegister", |driver| unsafe {
            driver.register_host(address, bytes, read_only)
        })?;
        let mut registration = Self {
            context: Arc::clone(context),
            host: Address(address),
            device: 0,
            ended: false,
        };
        let device = |driver: &'static Driver| driver.host_device_address(address);
        registration.device = context.call("cuMemHostGetDevicePointer", device)?;
        Ok(registration)
    }

    /// Has the driver forget the memory; on an error it still knows it.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let host = self.host.0;
        // SAFETY: the memory is registered, and nobody uses it once it is to be forgotten.
        let unregister = |driver: &'static Driver| unsafe { driver.unregister_host(host) };
        self.context.give_back("cuMemHostUnregister", unregister)?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for CudaRegistration {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "memory stays registered");
        }
    }
}

// SAFETY: the address is the one by which the driver knows the registered memory until the drop.
unsafe impl Registration for CudaRegistration {
    fn device_address(&self) -> Option<u64> {
        Some(self.device)
    }
}
