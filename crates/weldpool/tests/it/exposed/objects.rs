//! Exported memory as an object of its own, and what is imported of it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::{
    Allocator, Config, Device, ErrorKind, Export, Exported, ExportedHandle, Request, StorageMode,
};
use weldpool_testkit::{FaultyDevice, export, import};

use super::{MIB, PAGE, open};

fn exportable(bytes: usize) -> Request<'static> {
    Request::new(bytes).exportable(Export::FileDescriptor)
}

fn received(file: OwnedFd, object: usize, offset: usize, bytes: usize) -> Exported {
    Exported::from_parts(ExportedHandle::FileDescriptor(file), object, offset, bytes).unwrap()
}

fn file_of(exported: Exported) -> OwnedFd {
    match exported.into_handle() {
        ExportedHandle::FileDescriptor(file) => file,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exported_memory_is_a_segment_of_its_own() {
    let device = Arc::new(FaultyDevice::new(Arc::new(HostDevice::new().unwrap())));
    let allocator = open(device.clone());
    let small = allocator.allocate(100).unwrap();
    let before = allocator.stats();
    let buffer = allocator
        .allocate_with(&exportable(5000).name("shared"))
        .unwrap();
    assert_eq!((buffer.len(), buffer.block_bytes()), (5000, 2 * PAGE));
    let stats = allocator.stats();
    let grown = 2 * PAGE as u64;
    assert_eq!(stats.live.value, before.live.value + 5000);
    assert_eq!(stats.reserved.value, before.reserved.value + grown);
    assert_eq!(stats.reserved.value, device.held().bytes());
    assert_eq!(stats.block_bytes, before.block_bytes + grown);
    assert_eq!(stats.cached_bytes, before.cached_bytes);
    assert_eq!(stats.segments, before.segments + 1);
    assert_eq!(stats.misses, before.misses + 1);
    let exported = export(&buffer).unwrap();
    assert_eq!(
        (exported.object_bytes(), exported.offset(), exported.len()),
        (2 * PAGE, 0, 5000)
    );
    let length = rustix::fs::fstat(file_of(exported)).unwrap().st_size;
    assert_eq!(length, 2 * PAGE as i64, "nothing else is in the object");
    let report = allocator.live_report().to_string();
    assert!(report.contains("shared"), "{report}");
    let address = buffer.binding().host.unwrap().as_ptr();
    let found = allocator.find(address.wrapping_add(4999)).unwrap();
    assert_eq!((found.bytes, found.name.as_str()), (5000, "shared"));
    assert_eq!(allocator.find(address.wrapping_add(5000)), None);
    drop(buffer);
    assert_eq!(allocator.find(address), None);
    let stats = allocator.stats();
    assert_eq!(stats.reserved.value, before.reserved.value, "it went back");
    assert_eq!(stats.segments, before.segments);
    assert_eq!(stats.live.value, before.live.value);
    drop(small);
    drop(allocator);
    assert_eq!(device.held().bytes(), 0);
}

#[test]
fn it_is_never_kept_for_the_next() {
    let allocator = Allocator::host().unwrap();
    for number in 1..=10 {
        let mut buffer = allocator.allocate_with(&exportable(MIB)).unwrap();
        let contents = buffer.read::<u8>().unwrap();
        assert!(contents.iter().all(|&byte| byte == 0), "of somebody before");
        drop(contents);
        buffer.write::<u8>().unwrap().fill(number);
        drop(buffer);
        let stats = allocator.stats();
        assert_eq!((stats.reserved.value, stats.cached_bytes), (0, 0));
        assert_eq!(stats.misses, u64::from(number));
    }
}

#[test]
fn alignment_and_zeroes_hold() {
    let allocator = Allocator::host().unwrap();
    for power in 8..=22 {
        let alignment = 1 << power;
        let request = exportable(3000).alignment(alignment).zeroed(true);
        let buffer = allocator.allocate_with(&request).unwrap();
        let address = buffer.binding().host.unwrap().as_ptr().addr();
        assert!(address.is_multiple_of(alignment), "{alignment}");
        assert_eq!(buffer.alignment(), alignment);
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
        let exported = export(&buffer).unwrap();
        assert!(exported.offset() + 3000 <= exported.object_bytes());
        let imported = import(&allocator, &exported).unwrap();
        assert!(imported.alignment() >= 256);
        let reserved = allocator.stats().reserved.value;
        assert_eq!(reserved, 2 * exported.object_bytes() as u64);
        assert_eq!(allocator.stats().block_bytes, reserved);
    }
    let error = allocator.allocate_with(&exportable(0)).unwrap_err().kind();
    assert_eq!(error, ErrorKind::InvalidRequest);
    let huge = exportable(1 << 46).alignment(1 << 30);
    let error = allocator.allocate_with(&huge).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(allocator.stats().reserved.value, 0);
}

#[test]
fn contents_are_one_for_exporter_and_importer() {
    let (ours, theirs) = (Allocator::host().unwrap(), Allocator::host().unwrap());
    let request = exportable(3 * PAGE).alignment(64 << 10);
    let mut buffer = ours.allocate_with(&request).unwrap();
    buffer.write::<u8>().unwrap().fill(1);
    let exported = export(&buffer).unwrap();
    let mut imported = import(&theirs, &exported).unwrap();
    drop(exported);
    assert_eq!((imported.len(), imported.name()), (3 * PAGE, "imported"));
    assert_eq!(imported.storage_mode(), StorageMode::Shared);
    assert!(imported.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    imported.write::<u8>().unwrap().fill(2);
    assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 2));
    let stats = theirs.stats();
    assert_eq!((stats.live.value, stats.segments), (3 * PAGE as u64, 1));
    assert_eq!(stats.reserved.value, ours.stats().reserved.value);
    let view = imported.share();
    let slice = view.slice(PAGE..2 * PAGE).unwrap();
    drop(view);
    assert_eq!(slice.read::<u8>().unwrap()[0], 2);
    assert_eq!(theirs.stats().live.value, 3 * PAGE as u64);
    drop(slice);
    let stats = theirs.stats();
    assert_eq!((stats.live.value, stats.reserved.value), (0, 0));
    assert_eq!(stats.allocations, stats.frees);
}

#[test]
fn a_limit_holds_for_both_sides() {
    let device = Arc::new(HostDevice::new().unwrap());
    let config = Config {
        reserved_bytes_max: Some(3 * MIB as u64),
        ..Config::default()
    };
    let limited = Allocator::builder(device).config(config).build().unwrap();
    let first = limited.allocate_with(&exportable(2 * MIB)).unwrap();
    let refused = limited.allocate_with(&exportable(2 * MIB)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
    assert_eq!(refused.pool_state().unwrap().live_bytes, 2 * MIB as u64);
    let exported = export(&first).unwrap();
    let refused = import(&limited, &exported).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LimitExceeded);
    assert_eq!(refused.requested_bytes(), Some(2 * MIB));
    assert_eq!(limited.stats().reserved.value, 2 * MIB as u64);
    drop(first);
    // Idle memory makes room.
    drop(limited.allocate(2 * MIB).unwrap());
    assert!(limited.stats().cached_bytes >= 2 * MIB as u64);
    let imported = import(&limited, &exported).unwrap();
    drop(imported);
    drop(limited.allocate(2 * MIB).unwrap());
    drop(limited.allocate_with(&exportable(2 * MIB)).unwrap());
}

#[test]
fn what_is_no_exported_object_is_refused() {
    let host = Allocator::host().unwrap();
    let fake = open(Arc::new(FakeDiscrete::new().unwrap()));
    let loose = || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("loose", flags).unwrap();
        rustix::fs::ftruncate(&file, 4 * MIB as u64).unwrap();
        file
    };
    let sealed = |seals| {
        let file = loose();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file
    };
    let readable = {
        let file = sealed(SealFlags::SHRINK);
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        std::fs::File::open(format!("/proc/self/fd/{number}")).unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    let files: Vec<(&str, OwnedFd)> = vec![
        ("a pipe", reader.into()),
        ("its other end", writer.into()),
        ("a file", tempfile::tempfile().unwrap().into()),
        ("a folder", std::fs::File::open("/").unwrap().into()),
        ("a device", std::fs::File::open("/dev/null").unwrap().into()),
        ("a file that may shrink", loose()),
        ("one that may not grow", sealed(SealFlags::GROW)),
        (
            "one that cannot be written",
            sealed(SealFlags::SHRINK | SealFlags::WRITE),
        ),
        ("one open for reading", readable.into()),
    ];
    let text = |allocator, file: OwnedFd, bytes| {
        let error = import(allocator, &received(file, bytes, 0, bytes)).unwrap_err();
        error.to_string()
    };
    // Whatever length was claimed.
    for allocator in [&host, &fake] {
        let null = std::fs::File::open("/dev/null").unwrap();
        let said = text(allocator, null.into(), PAGE);
        assert!(said.contains("no memory file"), "{said}");
    }
    for (name, file) in files {
        let exported = received(file, 4 * MIB, 0, 4 * MIB);
        for allocator in [&host, &fake] {
            let error = import(allocator, &exported).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{name}: {error}");
        }
    }
    let bytes = ExportedHandle::LegacyIpc([0; 64]);
    let bytes = Exported::from_parts(bytes, PAGE, 0, PAGE).unwrap();
    let error = import(&host, &bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for allocator in [&host, &fake] {
        let stats = allocator.stats();
        assert_eq!((stats.live.value, stats.reserved.value), (0, 0));
        assert!(stats.failures >= 9);
    }
}

#[test]
fn what_was_imported_is_sent_on_and_not_exported_again() {
    for device in [
        Arc::new(HostDevice::new().unwrap()) as Arc<dyn Device>,
        Arc::new(FakeDiscrete::new().unwrap()),
    ] {
        let allocator = open(device);
        let request = exportable(PAGE).storage(StorageMode::Private);
        let buffer = allocator.allocate_with(&request).unwrap();
        let imported = import(&allocator, &export(&buffer).unwrap()).unwrap();
        let error = export(&imported).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("send on"), "{error}");
    }
}

#[test]
fn claims_are_held_against_the_object() {
    let allocator = Allocator::host().unwrap();
    let mut buffer = allocator.allocate_with(&exportable(4 * PAGE)).unwrap();
    buffer.write::<u8>().unwrap()[PAGE] = 9;
    let file = || file_of(export(&buffer).unwrap());
    for object in [4 * PAGE + 1, MIB, usize::MAX] {
        let error = import(&allocator, &received(file(), object, 0, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{object}");
    }
    // They are not acted on either: nothing idle makes room for them.
    let limit = Some(MIB as u64);
    drop(allocator.allocate(64 << 10).unwrap());
    allocator.set_reserved_bytes_max(limit).unwrap();
    let before = allocator.stats();
    let error = import(&allocator, &received(file(), 2 * MIB, 0, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let after = allocator.stats();
    assert!(before.cached_bytes > 0);
    assert_eq!(after.cached_bytes, before.cached_bytes);
    assert_eq!(after.reserved.value, before.reserved.value);
    allocator.set_reserved_bytes_max(None).unwrap();
    // Of less than there is, no more is seen.
    let part = import(&allocator, &received(file(), 3 * PAGE, PAGE, 100)).unwrap();
    assert_eq!((part.len(), part.block_bytes()), (100, 3 * PAGE));
    assert_eq!(part.read::<u8>().unwrap()[0], 9);
}

/// As CUDA, which maps a handle as a whole.
#[test]
fn a_discrete_device_imports_an_object_as_a_whole() {
    let allocator = open(Arc::new(FakeDiscrete::new().unwrap()));
    let request = exportable(4 * MIB).storage(StorageMode::Private);
    let buffer = allocator.allocate_with(&request).unwrap();
    let file = || file_of(export(&buffer).unwrap());
    for object in [2 * MIB, 4 * MIB + 4096, 6 * MIB, 1 << 32] {
        let error = import(&allocator, &received(file(), object, 0, MIB)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{object}: {error}");
    }
    let stats = allocator.stats();
    assert_eq!((stats.segments, stats.reserved.value), (1, 4 * MIB as u64));
    let part = import(&allocator, &received(file(), 4 * MIB, 2 * MIB, MIB)).unwrap();
    assert_eq!((part.len(), part.block_bytes()), (MIB, 4 * MIB));
}
