//! Shared memory of POSIX.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};

use weldpool::{Allocator, ErrorKind, Result, SharedMemory};

use super::{allocators, pattern, seen_by_a_queue};

/// A name of the test's own, unlinked at its end.
struct Name(String);

impl Name {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("/wp-test-{}-{number}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _gone = SharedMemory::unlink(&self.0);
    }
}

fn create(name: &str, bytes: usize) -> Result<SharedMemory> {
    // SAFETY: only one side of a test touches the memory at a time.
    unsafe { SharedMemory::create(name, bytes) }
}

fn open(name: &str, offset: u64, bytes: usize) -> Result<SharedMemory> {
    // SAFETY: as above.
    unsafe { SharedMemory::open(name, offset, bytes) }
}

fn open_read_only(name: &str, offset: u64, bytes: usize) -> Result<SharedMemory> {
    // SAFETY: as above.
    unsafe { SharedMemory::open_read_only(name, offset, bytes) }
}

/// As a client's inputs and outputs lie in one region: at offsets that are no page's.
#[test]
fn a_region_that_another_side_made_is_used_where_it_is() {
    let client = Allocator::host().unwrap();
    for allocator in allocators() {
        let name = Name::new();
        let mut region = client.register(create(&name.0, 50_000).unwrap()).unwrap();
        assert!(region.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
        region
            .write::<u8>()
            .unwrap()
            .copy_from_slice(&pattern(0, 50_000));
        let input = open_read_only(&name.0, 100, 20_000).unwrap();
        assert_eq!(input.len(), 20_000);
        let input = allocator.register(input).unwrap();
        assert!(input.is_read_only());
        assert_eq!(
            seen_by_a_queue(&allocator, &input, 20_000),
            pattern(100, 20_000)
        );
        let bare = name.0.trim_start_matches('/');
        let output = open(bare, 20_101, 29_000).unwrap();
        let mut output = allocator.register(output).unwrap();
        allocator
            .create_queue()
            .unwrap()
            .fill(&mut output, 9)
            .unwrap()
            .wait(None)
            .unwrap();
        let contents = region.read::<u8>().unwrap();
        assert!(contents[20_101..49_101].iter().all(|&byte| byte == 9));
        assert_eq!(contents[20_100], pattern(20_100, 1)[0]);
        assert_eq!(contents[49_101..], pattern(49_101, 899));
        // Without its name it is there as long as somebody has it.
        SharedMemory::unlink(&name.0).unwrap();
        assert_eq!(seen_by_a_queue(&allocator, &output, 29_000)[28_999], 9);
        let gone = open(&name.0, 0, 1).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::InvalidRequest);
    }
}

#[test]
fn what_is_wrong_is_refused_and_leaves_nothing() {
    let kind = |result: Result<SharedMemory>| result.map(drop).map_err(|error| error.kind());
    let invalid = Err(ErrorKind::InvalidRequest);
    let name = Name::new();
    assert_eq!(kind(open(&name.0, 0, 10)), invalid, "nobody made it");
    assert_eq!(
        SharedMemory::unlink(&name.0).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    assert_eq!(kind(create(&name.0, 0)), invalid);
    // More than there can be, of which nothing stays behind.
    for bytes in [1 << 55, usize::MAX] {
        assert!(create(&name.0, bytes).is_err());
        assert_eq!(kind(open(&name.0, 0, 1)), invalid, "{bytes}");
    }
    let region = create(&name.0, 65_536).unwrap();
    assert_eq!(kind(create(&name.0, 65_536)), invalid, "it exists");
    for (offset, bytes) in [
        (0, 65_537),
        (1, 65_536),
        (65_536, 1),
        (u64::MAX, 1),
        (0, usize::MAX),
        (0, 0),
    ] {
        assert_eq!(
            kind(open(&name.0, offset, bytes)),
            invalid,
            "{offset} {bytes}"
        );
        assert_eq!(kind(open_read_only(&name.0, offset, bytes)), invalid);
    }
    drop(region);
    for name in ["", "/", "a/b", "/../etc/passwd", ".."] {
        assert_eq!(kind(create(name, 10)), invalid, "{name:?}");
        assert_eq!(kind(open(name, 0, 10)), invalid, "{name:?}");
        assert!(SharedMemory::unlink(name).is_err(), "{name:?}");
    }
}
