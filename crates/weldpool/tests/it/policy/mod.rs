//! Limits, memory pressure, collection, recovery from memory being out, and strategies.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

#[cfg(target_os = "linux")]
mod adaptive;
mod faults;
mod gc;
mod limits;
mod out_of_memory;
mod parked;
mod pressure;
mod strategy;
#[cfg(target_os = "linux")]
mod trimming;
mod tuning;

use std::sync::Arc;

use weldpool::device::fake::FakeApple;
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Config};

const MIB: usize = 1 << 20;

fn on_host(config: Config) -> Allocator {
    let device = Arc::new(HostDevice::new().unwrap());
    Allocator::builder(device).config(config).build().unwrap()
}

/// Memory without remapping, whose segments can be counted.
fn on_apple(config: Config) -> Allocator {
    let device = Arc::new(FakeApple::new().unwrap());
    Allocator::builder(device).config(config).build().unwrap()
}
