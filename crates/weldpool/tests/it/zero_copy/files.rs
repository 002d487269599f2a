//! Files that are mapped.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use weldpool::device::fake::FakeApple;
use weldpool::{AdoptOptions, CopyReason, ErrorKind, MappedFile, Result};

use super::{allocators, apple, pattern, seen_by_a_queue};

const BYTES: usize = 100_001;

fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pattern(0, BYTES)).unwrap();
    file
}

fn open(path: &Path) -> Result<MappedFile> {
    // SAFETY: the file is the test's, which does not write it again.
    unsafe { MappedFile::open(path) }
}

fn map(file: &File, offset: u64, bytes: usize) -> Result<MappedFile> {
    // SAFETY: as above.
    unsafe { MappedFile::map(file, offset, bytes) }
}

#[test]
fn weights_are_used_where_they_are() {
    let file = file();
    for allocator in allocators() {
        let mapped = open(file.path()).unwrap();
        assert_eq!(mapped.len(), BYTES);
        let start = mapped.as_ptr();
        let mut memory = allocator.register(mapped.clone()).unwrap();
        assert!(memory.is_read_only());
        assert_eq!(memory.binding().host.unwrap().as_ptr().cast_const(), start);
        assert_eq!(
            seen_by_a_queue(&allocator, &memory, BYTES),
            pattern(0, BYTES)
        );
        let queue = allocator.create_queue().unwrap();
        let refused = queue.fill(&mut memory, 0).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidRequest);
        drop(memory);
        // The mapping is there until its last owner goes.
        assert_eq!(mapped[BYTES - 1], pattern(BYTES - 1, 1)[0]);
    }
}

#[test]
fn a_file_that_is_too_long_for_one_buffer_is_registered_in_slices_between_tensors() {
    let file = file();
    let tensors = [0..10_000, 10_000..30_001, 30_001..62_000, 62_000..BYTES];
    let builder = FakeApple::builder().max_buffer_length(64 << 10);
    let allocator = apple(builder.build().unwrap());
    let mapped = open(file.path()).unwrap();
    let failed = allocator.register(mapped).unwrap_err();
    assert_eq!(failed.error.copy_reason(), Some(CopyReason::TooLong));
    // A copy would have to be as long.
    let failed = allocator
        .adopt_with(
            failed.memory,
            &AdoptOptions {
                zero_copy_bytes_min: 0,
                ..AdoptOptions::default()
            },
        )
        .unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::InvalidRequest);
    let mapped = failed.memory;
    let slices: Vec<_> = tensors
        .iter()
        .map(|range| {
            allocator
                .register(mapped.slice(range.clone()).unwrap())
                .unwrap()
        })
        .collect();
    drop(mapped);
    for (slice, range) in slices.iter().zip(tensors) {
        let expected = pattern(range.start, range.len());
        assert_eq!(seen_by_a_queue(&allocator, slice, range.len()), expected);
    }
}

#[test]
fn parts_are_mapped_and_nothing_beyond_the_file() {
    let file = file();
    let opened = File::open(file.path()).unwrap();
    let part = map(&opened, 5000, 60_000).unwrap();
    assert_eq!(part[..], pattern(5000, 60_000));
    let inner = part.slice(1..59_999).unwrap();
    assert_eq!(inner.slice(9..10).unwrap()[0], pattern(5010, 1)[0]);
    #[expect(clippy::reversed_empty_ranges, reason = "that is refused")]
    for range in [5..5, 10..5, 0..59_999, usize::MAX..usize::MAX] {
        let error = inner.slice(range).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
    for (offset, bytes) in [
        (0, BYTES + 1),
        (1, BYTES),
        (u64::MAX, 1),
        (BYTES as u64, 1),
        (0, 0),
        (0, usize::MAX),
    ] {
        let error = map(&opened, offset, bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{offset} {bytes}");
    }
}

#[test]
fn what_is_no_file_with_bytes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let empty = tempfile::NamedTempFile::new().unwrap();
    let missing = folder.path().join("missing");
    // Nobody writes to the pipe, and nobody waits for that.
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for path in [
        folder.path(),
        empty.path(),
        &missing,
        &pipe,
        Path::new("/dev/zero"),
    ] {
        let error = open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_sealed_memory_file_needs_nobody_to_vouch_for_it() {
    use std::io::Write;

    use rustix::fs::{MemfdFlags, SealFlags};

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("weights", flags).unwrap());
    file.write_all(&pattern(0, BYTES)).unwrap();
    let seals = [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE];
    for (count, seal) in seals.into_iter().enumerate() {
        let error = MappedFile::sealed(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{count} seals");
        rustix::fs::fcntl_add_seals(&file, seal).unwrap();
    }
    let mapped = MappedFile::sealed(&file).unwrap();
    drop(file);
    for allocator in allocators() {
        let memory = allocator.register(mapped.clone()).unwrap();
        assert_eq!(
            seen_by_a_queue(&allocator, &memory, BYTES),
            pattern(0, BYTES)
        );
    }
    let plain = tempfile::tempfile().unwrap();
    let error = MappedFile::sealed(&plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}
