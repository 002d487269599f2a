//! Memory that exists, used where it is: parts of pages, files, shared memory; copied where that cannot be.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod adopted;
mod files;
mod interior;
mod objects;
mod shared;

use std::sync::Arc;

use weldpool::device::fake::{FakeApple, FakeDiscrete};
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Device, Operand, Request, StorageMode};

use crate::fake::Checked;

/// A device that fails the test if it saw a rule broken, and its allocator.
fn allocators() -> [Allocator; 3] {
    let host: Arc<dyn Device> = Arc::new(HostDevice::new().unwrap());
    let discrete = Arc::new(Checked(FakeDiscrete::new().unwrap()));
    let apple = Arc::new(Checked(FakeApple::new().unwrap()));
    [host, discrete, apple].map(|device| Allocator::builder(device).build().unwrap())
}

fn apple(device: FakeApple) -> Allocator {
    let device = Arc::new(Checked(device));
    Allocator::builder(device).build().unwrap()
}

/// What a queue of the allocator reads of it, through memory of the device.
fn seen_by_a_queue(allocator: &Allocator, memory: &impl Operand, bytes: usize) -> Vec<u8> {
    let queue = allocator.create_queue().unwrap();
    let private = Request::new(bytes).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
    queue.copy(memory, &mut middle).unwrap();
    let mut seen = vec![0; bytes];
    queue.read(&middle, &mut seen[..]).unwrap();
    seen
}

/// Bytes that tell where they are.
fn pattern(from: usize, bytes: usize) -> Vec<u8> {
    (from..from + bytes).map(|at| (at % 251) as u8).collect()
}
