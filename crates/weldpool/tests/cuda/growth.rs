//! How large what the driver is asked for is.

use weldpool::{Buffer, Config, Request, StorageMode};

use crate::counted::Counted;

const MIB: usize = 1 << 20;
const HANDLE: u64 = 2 << 20;

fn buffer(counted: &Counted, bytes: usize, storage: StorageMode) -> Buffer {
    let request = Request::new(bytes).storage(storage);
    counted.allocator.allocate_with(&request).unwrap()
}

#[test]
fn handles_are_large_in_bulk_and_small_at_the_margin() {
    let counted = Counted::open(Config {
        // Little driver time for handles, and little memory beyond what is in use.
        driver_ns_per_operation: 1,
        slack_per_1024: 1,
        ..Config::default()
    });
    let private = |bytes| counted.obtained(|| buffer(&counted, bytes, StorageMode::Private));
    let mut live = Vec::new();
    let (mut handles, mut obtained) = (0, 0);
    // The very first handle is of the smallest size, whatever is asked for: nothing was spent before.
    for bytes in [MIB].into_iter().chain([128 * MIB; 8]) {
        let (block, count, bytes) = private(bytes);
        live.push(block);
        handles += count;
        obtained += bytes;
    }
    assert!(obtained >= 1 << 30, "{obtained}");
    assert!(handles <= 16, "{handles} handles in bulk");
    let (mut margin, mut marginal) = (0, 0);
    for _ in 0..64 {
        let (block, count, bytes) = private(MIB);
        live.push(block);
        assert!(count <= 1, "{count} handles for 1 MiB");
        assert_eq!(bytes, count * HANDLE, "at the margin");
        margin += count;
        marginal += bytes;
    }
    println!("{handles} handles of {obtained} bytes, then {margin} of {marginal}");
    assert!(margin >= 16, "{margin}");
    let stats = counted.allocator.stats();
    assert!(
        stats.reserved.value <= stats.live.value + stats.live.value / 512 + 2 * HANDLE,
        "{stats}"
    );
}

/// With the usual slack of one percent, what is added is a 256th of what was live at most.
#[test]
fn at_the_margin_the_usual_slack_allows_a_few_megabytes() {
    let counted = Counted::open(Config::default());
    let private = |bytes| counted.obtained(|| buffer(&counted, bytes, StorageMode::Private));
    let mut live: Vec<_> = (0..8).map(|_| private(128 * MIB).0).collect();
    let mut margin = 0;
    for _ in 0..64 {
        let (block, count, bytes) = private(MIB);
        live.push(block);
        assert!(count <= 1, "{count} handles for 1 MiB");
        assert!(bytes <= 2 * HANDLE, "{bytes} bytes at the margin");
        margin += bytes;
    }
    assert!((64 << 20..=80 << 20).contains(&margin), "{margin}");
}

/// With driver time to spend, handles are small, so that free ones make up large blocks.
#[test]
fn handles_are_small_while_driver_time_is_not_short() {
    let counted = Counted::open(Config {
        driver_ns_per_operation: 1_000_000,
        ..Config::default()
    });
    let (_block, count, bytes) =
        counted.obtained(|| buffer(&counted, 128 * MIB, StorageMode::Private));
    assert_eq!(bytes, count * HANDLE, "{count} handles");
}

#[test]
fn managed_memory_is_obtained_in_small_segments() {
    let config = Config::default();
    let (least, most) = (
        config.segment_bytes_min as u64,
        config.segment_bytes_max as u64,
    );
    let counted = Counted::open(config);
    let managed = |bytes| counted.obtained(|| buffer(&counted, bytes, StorageMode::Managed));
    let (first, count, bytes) = managed(4096);
    assert_eq!((count, bytes), (1, least), "the first segment");
    let mut live = vec![first];
    for _ in 0..96 {
        let (block, count, bytes) = managed(MIB);
        live.push(block);
        assert!(count <= 1, "{count} segments for 1 MiB");
        assert!(bytes <= most, "a segment of {bytes} bytes for 1 MiB");
    }
    let stats = counted.allocator.stats();
    assert!(
        stats.reserved.value <= stats.live.value + most,
        "no more than one segment is begun: {stats}"
    );
    // What is large takes itself and no more.
    let large = 3 * most;
    let (block, count, bytes) = managed(large as usize);
    assert!(count == 1 && bytes <= large, "{count} segments, {bytes}");
    drop((block, live));
    let _bytes = counted.allocator.clear();
    assert_eq!(counted.allocator.stats().reserved.value, 0);
}
