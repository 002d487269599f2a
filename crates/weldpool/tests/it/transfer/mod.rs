//! Copies: what they take and say, and where something ends, is lost or waits: the copier itself, a queue, work of
//! other pools.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

mod dropped;
mod functions;
mod lost;
mod order;
mod places;

use std::sync::mpsc::Receiver;
use std::time::Duration;

use weldpool::transfer::{Copier, CopierConfig};
use weldpool::{Allocator, Buffer, Request, StorageMode};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

/// A copier of so many threads, which never end of themselves, and of small chunks.
fn copier(threads_max: usize) -> Copier {
    Copier::with_config(CopierConfig {
        threads_max,
        chunk_bytes: Some(4 * KIB),
        pageable_bytes_max: Some(0),
        idle_max: Duration::from_secs(3600),
    })
    .unwrap()
}

fn private(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request).unwrap()
}

/// Waits for what has to come from another thread.
fn receive<T>(receiver: &Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(LONG) {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}
