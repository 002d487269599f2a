//! Memory shared with a second process: this test binary, run once more with the descriptor as its standard
//! input.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::{Allocator, Buffer, Device, Export, Exported, ExportedHandle, StorageMode};
use weldpool_testkit::{export, import};

use super::{MIB, fill, holds, open, private};

/// Tells the second process what it was given.
const CLAIM: &str = "WELDPOOL_TEST_EXPORTED";

/// Runs a test of this module in a second process; whether it passed there.
fn passes(test: &str, exported: Exported) -> bool {
    let (object, offset, bytes) = (exported.object_bytes(), exported.offset(), exported.len());
    let ExportedHandle::FileDescriptor(file) = exported.into_handle() else {
        panic!("a descriptor was asked for");
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("exposed::processes::{test}")])
        .args(["--nocapture", "--test-threads", "1"])
        .env(CLAIM, format!("{object} {offset} {bytes}"))
        .stdin(Stdio::from(file))
        .output()
        .unwrap();
    let ran = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(ran, "{output:?}");
    output.status.success()
}

/// What this process was given, if it is the second one.
fn given() -> Option<Exported> {
    let claim = std::env::var(CLAIM).ok()?;
    let mut numbers = claim.split(' ').map(|number| number.parse().unwrap());
    let mut next = || numbers.next().unwrap();
    let file: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let handle = ExportedHandle::FileDescriptor(file);
    Some(Exported::from_parts(handle, next(), next(), next()).unwrap())
}

fn exportable(allocator: &Allocator, storage: StorageMode) -> Buffer {
    let request = private(3 * MIB + 5, Export::FileDescriptor);
    allocator.allocate_with(&request.storage(storage)).unwrap()
}

/// What one process writes, the other reads, and the other way round.
fn both_ways(test: &str, device: Arc<dyn Device>, storage: StorageMode) {
    let allocator = open(device);
    if let Some(exported) = given() {
        let mut imported = import(&allocator, &exported).unwrap();
        assert_eq!(imported.len(), 3 * MIB + 5);
        assert_eq!(imported.storage_mode(), storage);
        assert!(holds(&allocator, &imported, 1));
        fill(&allocator, &mut imported, 2);
        return;
    }
    let mut buffer = exportable(&allocator, storage);
    fill(&allocator, &mut buffer, 1);
    assert!(passes(test, export(&buffer).unwrap()));
    assert!(holds(&allocator, &buffer, 2));
}

/// The second process has what the first one wrote, though that freed it before.
fn freed_first(test: &str, device: Arc<dyn Device>, storage: StorageMode) {
    let allocator = open(device);
    if let Some(exported) = given() {
        let imported = import(&allocator, &exported).unwrap();
        drop(exported);
        assert!(holds(&allocator, &imported, 3));
        return;
    }
    let mut buffer = exportable(&allocator, storage);
    fill(&allocator, &mut buffer, 3);
    let exported = export(&buffer).unwrap();
    drop(buffer);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
    drop(allocator);
    assert!(passes(test, exported));
}

fn host() -> Arc<dyn Device> {
    Arc::new(HostDevice::new().unwrap())
}

fn fake() -> Arc<dyn Device> {
    Arc::new(FakeDiscrete::new().unwrap())
}

#[test]
fn memory_of_the_host_is_seen_both_ways() {
    let test = "memory_of_the_host_is_seen_both_ways";
    both_ways(test, host(), StorageMode::Shared);
}

#[test]
fn memory_of_a_discrete_fake_is_seen_both_ways() {
    let test = "memory_of_a_discrete_fake_is_seen_both_ways";
    both_ways(test, fake(), StorageMode::Private);
}

#[test]
fn memory_of_the_host_outlives_its_exporter() {
    let test = "memory_of_the_host_outlives_its_exporter";
    freed_first(test, host(), StorageMode::Shared);
}

#[test]
fn memory_of_a_discrete_fake_outlives_its_exporter() {
    let test = "memory_of_a_discrete_fake_outlives_its_exporter";
    freed_first(test, fake(), StorageMode::Private);
}

/// The second process ends without a word; the first one keeps what it wrote.
#[test]
fn a_process_that_dies_takes_nothing_along() {
    let allocator = open(host());
    if let Some(exported) = given() {
        let mut imported = import(&allocator, &exported).unwrap();
        fill(&allocator, &mut imported, 4);
        std::process::abort();
    }
    let buffer = exportable(&allocator, StorageMode::Shared);
    let test = "a_process_that_dies_takes_nothing_along";
    assert!(!passes(test, export(&buffer).unwrap()));
    assert!(holds(&allocator, &buffer, 4));
}
