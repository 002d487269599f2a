//! The devices of this machine.

use crate::device::Device;
use crate::device::host::HostDevice;
use crate::error::Result;
use crate::sync::Arc;

/// Lists the devices of this machine.
#[derive(Debug)]
pub struct Runtime {
    devices: Vec<Arc<dyn Device>>,
}

impl Runtime {
    /// Opens every device there is; the host comes first.
    ///
    /// # Errors
    ///
    /// What opening the host says; see [`HostDevice::new`].
    pub fn open() -> Result<Self> {
        Ok(Self {
            devices: vec![Arc::new(HostDevice::new()?)],
        })
    }

    /// The devices, the host first.
    #[must_use]
    pub fn devices(&self) -> &[Arc<dyn Device>] {
        &self.devices
    }
}
