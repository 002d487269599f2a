//! Memory that others reach: other processes, other owners in this one, and peers of a device.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod legacy;
#[cfg(target_os = "linux")]
mod lifetime;
#[cfg(target_os = "linux")]
mod objects;
mod peers;
#[cfg(target_os = "linux")]
mod processes;
mod requests;

use std::sync::Arc;

use weldpool::{Allocator, Buffer, Device, Export, Request, StorageMode};

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

fn open(device: Arc<dyn Device>) -> Allocator {
    Allocator::builder(device).build().unwrap()
}

/// Sets all bytes of a buffer that the host may not touch.
fn fill(allocator: &Allocator, buffer: &mut Buffer, value: u8) {
    let queue = allocator.create_queue().unwrap();
    queue.fill(buffer, value).unwrap().wait(None).unwrap();
}

/// What is in such a buffer.
fn contents(allocator: &Allocator, buffer: &Buffer) -> Vec<u8> {
    let queue = allocator.create_queue().unwrap();
    let mut seen = allocator.allocate(buffer.len()).unwrap();
    queue.copy(buffer, &mut seen).unwrap().wait(None).unwrap();
    seen.read::<u8>().unwrap().to_vec()
}

/// Whether all bytes of it are of this value.
fn holds(allocator: &Allocator, buffer: &Buffer, value: u8) -> bool {
    contents(allocator, buffer)
        .iter()
        .all(|&byte| byte == value)
}

fn private(bytes: usize, form: Export) -> Request<'static> {
    Request::new(bytes)
        .storage(StorageMode::Private)
        .exportable(form)
}
