//! Memory of this process that somebody else obtained, made known to a device.

#![allow(unsafe_code)]

use std::any::Any;
use std::fmt::Debug;
use std::ptr::NonNull;

use crate::binding::Resource;
use crate::error::Error;

/// Memory of this process that a device is asked to reach.
#[derive(Debug, Clone, Copy)]
pub struct HostRange {
    /// Its first byte.
    pub address: NonNull<u8>,
    /// Length in bytes, not zero.
    pub bytes: usize,
    /// Whether the device must not write to it.
    pub read_only: bool,
}

/// Memory that a device was made to know. Dropping it unregisters it like
/// [`Device::unregister`](super::Device::unregister), but an error is only logged.
///
/// # Safety
///
/// While the value lives, what it gives stands for the registered memory on the device, and is the same each time.
#[allow(unsafe_code)]
pub unsafe trait Registration: Any + Debug + Send + Sync {
    /// Address for the device, where it has addresses of its own.
    fn device_address(&self) -> Option<u64> {
        None
    }

    /// The driver's object, where a call needs an object and an offset (Metal: the `MTLBuffer`).
    fn resource(&self) -> Option<Resource> {
        None
    }

    /// Where the memory begins in that object, in bytes. Default: at its start.
    fn resource_offset(&self) -> usize {
        0
    }
}

/// Memory that could not be unregistered, and why.
#[derive(Debug)]
pub struct UnregisterError {
    /// The registration, which still stands.
    pub registration: Box<dyn Registration>,
    /// The driver's error.
    pub error: Error,
}
