//! Memory that other processes and other GPUs reach. The second process is this test binary, run once more.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;

use weldpool::device::cuda::CudaDevice;
use weldpool::{
    Allocator, Buffer, Device, ErrorKind, Export, Exported, ExportedHandle, Request, StorageMode,
};
use weldpool_testkit::{export, import};

use crate::gpu::Stream;

const MIB: usize = 1 << 20;
/// Tells the second process what it was given.
const CLAIM: &str = "WELDPOOL_TEST_EXPORTED";

fn open() -> (Arc<CudaDevice>, Allocator) {
    let device = Arc::new(CudaDevice::open(0).unwrap());
    let allocator = Allocator::builder(Arc::clone(&device) as Arc<dyn Device>);
    (device, allocator.build().unwrap())
}

fn exportable(allocator: &Allocator, form: Export, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request.exportable(form)).unwrap()
}

/// Has a kernel write a value to every word.
fn write(device: &Arc<CudaDevice>, allocator: &Allocator, buffer: &Buffer, value: u32) {
    let stream = Stream::new(device, allocator);
    stream.write_late(buffer, value, 0);
    stream.synchronize();
}

/// How many words a kernel finds that have another value.
fn wrong(device: &Arc<CudaDevice>, allocator: &Allocator, buffer: &Buffer, value: u32) -> u32 {
    let stream = Stream::new(device, allocator);
    let request = Request::new(256).zeroed(true);
    let counter = allocator.allocate_with(&request).unwrap();
    stream.count_wrong(buffer, value, &counter);
    stream.synchronize();
    counter.read::<u32>().unwrap()[0]
}

/// Runs a test of this module in a second process; whether it passed there.
fn passes(test: &str, exported: Exported) -> bool {
    let claim = format!(
        "{} {} {}",
        exported.object_bytes(),
        exported.offset(),
        exported.len()
    );
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("sharing::{test}")])
        .args(["--nocapture", "--test-threads", "1"]);
    match exported.into_handle() {
        ExportedHandle::FileDescriptor(file) => command.env(CLAIM, claim).stdin(Stdio::from(file)),
        ExportedHandle::LegacyIpc(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            command.env(CLAIM, format!("{claim} {hex}"))
        }
        other => panic!("{other:?}"),
    };
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("running 1 test"), "{output:?}");
    if !output.status.success() {
        println!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// What this process was given, if it is the second one.
fn given() -> Option<Exported> {
    let claim = std::env::var(CLAIM).ok()?;
    let mut words = claim.split(' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (object, offset, bytes) = (number(), number(), number());
    let handle = match words.next() {
        None => {
            let file: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            ExportedHandle::FileDescriptor(file)
        }
        Some(hex) => {
            let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            ExportedHandle::LegacyIpc(std::array::from_fn(byte))
        }
    };
    Some(Exported::from_parts(handle, object, offset, bytes).unwrap())
}

/// Kernels of one process read what those of another wrote, and the other way round.
fn both_ways(test: &str, form: Export) {
    let (device, allocator) = open();
    if let Some(exported) = given() {
        let imported = import(&allocator, &exported).unwrap();
        assert_eq!(imported.storage_mode(), StorageMode::Private);
        assert_eq!(wrong(&device, &allocator, &imported, 0xA5A5_0001), 0);
        write(&device, &allocator, &imported, 0xA5A5_0002);
        return;
    }
    let buffer = exportable(&allocator, form, 5 * MIB + 512);
    write(&device, &allocator, &buffer, 0xA5A5_0001);
    assert!(passes(test, export(&buffer).unwrap()));
    assert_eq!(wrong(&device, &allocator, &buffer, 0xA5A5_0002), 0);
}

#[test]
fn a_descriptor_is_seen_both_ways() {
    both_ways("a_descriptor_is_seen_both_ways", Export::FileDescriptor);
}

#[test]
fn a_legacy_handle_is_seen_both_ways() {
    both_ways("a_legacy_handle_is_seen_both_ways", Export::LegacyIpc);
}

#[test]
fn a_descriptor_outlives_its_exporter() {
    let (device, allocator) = open();
    if let Some(exported) = given() {
        let imported = import(&allocator, &exported).unwrap();
        drop(exported);
        assert_eq!(wrong(&device, &allocator, &imported, 7), 0);
        return;
    }
    let buffer = exportable(&allocator, Export::FileDescriptor, 4 * MIB);
    write(&device, &allocator, &buffer, 7);
    let exported = export(&buffer).unwrap();
    drop(buffer);
    let _bytes = allocator.clear();
    assert!(passes("a_descriptor_outlives_its_exporter", exported));
}

#[test]
fn a_descriptor_is_imported_where_it_was_made() {
    let (device, allocator) = open();
    let buffer = exportable(&allocator, Export::FileDescriptor, 3 * MIB);
    write(&device, &allocator, &buffer, 1);
    let exported = export(&buffer).unwrap();
    assert_eq!(exported.object_bytes(), 4 * MIB);
    let imported = import(&allocator, &exported).unwrap();
    let address = |buffer: &Buffer| buffer.binding().device_address.unwrap();
    assert_ne!(address(&buffer), address(&imported));
    assert_eq!(wrong(&device, &allocator, &imported, 1), 0);
    write(&device, &allocator, &imported, 2);
    assert_eq!(wrong(&device, &allocator, &buffer, 2), 0);
    // It waits for work like any other.
    let stream = Stream::new(&device, &allocator);
    stream.write_late(&imported, 3, 10_000_000);
    imported.free_on(&stream.queue);
    assert_eq!(allocator.stats().deferred_bytes, 4 * MIB as u64);
    stream.synchronize();
    let _bytes = allocator.clear();
    assert_eq!(wrong(&device, &allocator, &buffer, 3), 0);
    drop(buffer);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().live.value, 0);
    assert_eq!(allocator.stats().reserved.value, 0);
}

#[test]
fn what_is_no_exported_object_is_refused() {
    let (device, allocator) = open();
    let refused = |exported: &Exported, what: &str| {
        let error = import(&allocator, exported).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{what}: {error}");
    };
    let of_file = |file: OwnedFd, object, bytes| {
        let handle = ExportedHandle::FileDescriptor(file);
        Exported::from_parts(handle, object, 0, bytes).unwrap()
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    refused(&of_file(null.into(), 2 * MIB, MIB), "/dev/null");
    let (reader, _writer) = std::io::pipe().unwrap();
    refused(&of_file(reader.into(), 2 * MIB, MIB), "a pipe");
    let host = Allocator::host().unwrap();
    let of_host = Request::new(2 * MIB).exportable(Export::FileDescriptor);
    let of_host = host.allocate_with(&of_host).unwrap();
    refused(&export(&of_host).unwrap(), "memory of the host");
    for bytes in [[0; 64], [0xFF; 64]] {
        let handle = ExportedHandle::LegacyIpc(bytes);
        refused(
            &Exported::from_parts(handle, 2 * MIB, 0, MIB).unwrap(),
            "64 bytes",
        );
    }
    let buffer = exportable(&allocator, Export::FileDescriptor, 4 * MIB);
    for object in [2 * MIB, 4 * MIB + 4096, 6 * MIB, 1 << 32] {
        let ExportedHandle::FileDescriptor(file) = export(&buffer).unwrap().into_handle() else {
            panic!("a descriptor was asked for");
        };
        refused(&of_file(file, object, MIB), "of another length");
    }
    drop(buffer);
    // Of CUDA's rules: a process does not open its own legacy handles.
    let own = exportable(&allocator, Export::LegacyIpc, 2 * MIB);
    refused(&export(&own).unwrap(), "its own");
    drop(own);
    // Nothing of it harmed the context.
    let buffer = exportable(&allocator, Export::FileDescriptor, 2 * MIB);
    write(&device, &allocator, &buffer, 9);
    assert_eq!(wrong(&device, &allocator, &buffer, 9), 0);
}

#[test]
fn a_legacy_handle_is_held_against_its_claim() {
    let (_device, allocator) = open();
    if let Some(exported) = given() {
        let bytes = match exported.handle() {
            ExportedHandle::LegacyIpc(bytes) => *bytes,
            other => panic!("{other:?}"),
        };
        let longer = ExportedHandle::LegacyIpc(bytes);
        let longer = Exported::from_parts(longer, 1 << 40, 0, MIB).unwrap();
        let error = import(&allocator, &longer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        drop(import(&allocator, &exported).unwrap());
        let twice = import(&allocator, &exported).unwrap();
        let error = import(&allocator, &exported).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        drop(twice);
        return;
    }
    let buffer = exportable(&allocator, Export::LegacyIpc, 2 * MIB);
    let test = "a_legacy_handle_is_held_against_its_claim";
    assert!(passes(test, export(&buffer).unwrap()));
}

/// Says so past the harness, which keeps what tests that pass print.
fn skipped(why: &str) {
    let text = format!("sharing: the copy between peers was skipped: {why}\n");
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_peer_copies_from_and_to_what_is_visible() {
    let count = CudaDevice::count().unwrap();
    if count < 2 {
        skipped(&format!("it needs two GPUs, and there is {count}"));
        return;
    }
    let (device, ours) = open();
    if !device.properties().peers.contains(&1) {
        skipped("cuda:0 does not reach the memory of cuda:1");
        return;
    }
    let other = Arc::new(CudaDevice::open(1).unwrap());
    let theirs = Allocator::builder(other).build().unwrap();
    let queue = theirs.create_queue().unwrap();
    let plain = Request::new(8 * MIB).storage(StorageMode::Private);
    let mut local = theirs.allocate_with(&plain).unwrap();
    for form in [None, Some(Export::FileDescriptor), Some(Export::LegacyIpc)] {
        let mut request = plain.visible_to_peers(true);
        if let Some(form) = form {
            request = request.exportable(form);
        }
        let mut shown = ours.allocate_with(&request).unwrap();
        write(&device, &ours, &shown, 0x0101_0101);
        queue.copy(&shown, &mut local).unwrap().wait(None).unwrap();
        let mut seen = theirs.allocate(8 * MIB).unwrap();
        queue.copy(&local, &mut seen).unwrap().wait(None).unwrap();
        assert!(seen.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
        queue.fill(&mut local, 2).unwrap();
        queue.copy(&local, &mut shown).unwrap().wait(None).unwrap();
        assert_eq!(wrong(&device, &ours, &shown, 0x0202_0202), 0, "{form:?}");
        // Freed while the peer writes it, it stays until that is over.
        queue.fill(&mut shown, 3).unwrap();
        drop(shown);
        queue.fence().unwrap().wait(None).unwrap();
        let _bytes = ours.clear();
        assert_eq!(ours.stats().deferred_bytes, 0);
    }
    // Pinned memory of one device serves the queues of another.
    let request = Request::new(MIB).visible_to_peers(true);
    let mut pinned = ours.allocate_with(&request).unwrap();
    let target = theirs.allocate_with(&Request::new(MIB).storage(StorageMode::Private));
    let mut target = target.unwrap();
    pinned.write::<u8>().unwrap().fill(4);
    queue.copy(&pinned, &mut target).unwrap();
    queue.fill(&mut pinned, 0).unwrap();
    let fence = queue.copy(&target, &mut pinned).unwrap();
    fence.wait(None).unwrap();
    assert!(pinned.read::<u8>().unwrap().iter().all(|&byte| byte == 4));
}
