//! The device suite on the host, and what is particular to it.

use std::sync::Arc;

use weldpool::device::host::HostDevice;

mod config;
mod host;
mod trace;

weldpool_testkit::device_suite!(host_device, || Arc::new(HostDevice::new().unwrap()));
