//! Memory of this process that a discrete fake was made to know (`cuMemHostRegister`).

#![allow(unsafe_code)]

use super::memory::Memory;
use crate::device::fake::store::State;
use crate::device::{HostRange, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::registered::CopyReason;
use crate::sync::Arc;

/// Registered memory. Its device address is the host's, as with CUDA's unified addressing, and ranges need not be
/// aligned: two of them may lie on one page (seen with driver 590).
#[derive(Debug)]
pub(super) struct Registered {
    memory: Arc<Memory>,
    address: u64,
    bytes: usize,
}

impl Registered {
    pub(super) fn new(memory: &Arc<Memory>, range: HostRange) -> Result<Self> {
        let store = memory.registered(range)?;
        let address = range.address.as_ptr().expose_provenance() as u64;
        // The driver knows what is registered, whoever did it, and answers. It is no rule that somebody broke.
        let mapped = memory.space().map(address, &store, true);
        mapped.map_err(|violation| {
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "memory that is registered with this device already, maybe by another of its allocators, cannot \
                     be registered again: {}",
                    violation.text
                ),
            )
            .with_copy_reason(CopyReason::AlreadyKnown)
        })?;
        memory.charge_pinning(range.bytes);
        Ok(Self {
            memory: Arc::clone(memory),
            address,
            bytes: range.bytes,
        })
    }

    /// Whether it is of this device.
    pub(super) fn is_of(&self, memory: &Arc<Memory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Work that comes later finds nothing there.
        if let Some(store) = self.memory.space().remove(self.address) {
            store.set_state(State::Released);
        }
        self.memory.charge_pinning(self.bytes);
    }
}

// SAFETY: the address is that of the registered memory, which the device's space maps to it.
unsafe impl Registration for Registered {
    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }
}
