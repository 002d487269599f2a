//! What copies take and refuse, what they say, and how they do with little pinned memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::pinned::PinnedPool;
use weldpool::transfer::{Copied, Copier, CopierConfig, CopyOptions, CopyPath, Rows};
use weldpool::{Allocator, ErrorKind, HealthStatus, Result};

use super::{MIB, private};

fn discrete() -> Allocator {
    let device = Arc::new(FakeDiscrete::new().unwrap());
    Allocator::builder(device).build().unwrap()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at * 7) ^ (at >> 9)) as u8).collect()
}

fn text(result: Result<Copied>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    error.to_string()
}

#[test]
fn pinned_and_registered_memory_is_owned_by_copies_that_nobody_waits_for() {
    let allocator = discrete();
    let copier = Copier::new().unwrap();
    let pool = PinnedPool::builder(&allocator).build().unwrap();
    let data = pattern(3 * MIB);
    let mut pinned = pool.allocate(data.len()).unwrap();
    pinned.write::<u8>().unwrap().copy_from_slice(&data);
    let there = private(&allocator, data.len());
    let up = copier.copy_async(pinned, there, CopyOptions::new());
    let up = up.wait().unwrap();
    assert_eq!(up.result.unwrap().bytes, data.len());
    let registered = allocator.register(vec![0_u32; data.len() / 4]).unwrap();
    let down = copier.copy_async(up.destination, registered, CopyOptions::new());
    let down = down.wait().unwrap();
    assert_eq!(down.result.unwrap().path, CopyPath::Direct);
    assert!(down.destination.read::<u8>().unwrap()[..] == data[..]);
    assert_eq!(down.destination.into_inner().unwrap().len(), data.len() / 4);
    // A future that is dropped gives each back.
    let registered = allocator.register(vec![0_u32; MIB]).unwrap();
    let second = private(&allocator, 4 * MIB);
    drop(copier.copy_async(registered, second, CopyOptions::new()));
    drop((copier, up.source, pool));
    drop(down.source);
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.registered.value), (0, 0));
}

#[test]
fn slices_vectors_and_arrays_of_any_element_are_places() {
    let allocator = discrete();
    let copier = Copier::new().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut there = private(&allocator, 400);
    let floats: Vec<f32> = (0..100_u8).map(f32::from).collect();
    copier.copy(&floats, &mut there).unwrap();
    let mut back = [0.0_f64; 50];
    copier.copy(&there, &mut back).unwrap();
    let bits = floats[1].to_bits();
    assert_eq!(back[0].to_bits(), u64::from(bits) << 32);
    queue.write(&[0.5_f32; 100], &mut there).unwrap();
    let mut read = vec![0.0_f32; 100];
    queue.read(&there, &mut read).unwrap();
    assert_eq!(read, [0.5; 100]);
    let boxed = vec![7_u16; 200].into_boxed_slice();
    let outcome = copier.copy_async(boxed, there, CopyOptions::new());
    let outcome = outcome.wait().unwrap();
    assert_eq!(outcome.copied_bytes, 400);
    let shown = format!("{outcome:?}");
    assert!(shown.contains("source: 400 bytes"), "{shown}");
    assert!(!shown.contains('['), "{shown}");
}

/// With so much pinned memory that a room of the usual size does not fit, and with too little for any.
#[test]
fn with_little_pinned_memory_copies_go_in_shorter_chunks_or_the_drivers_way() {
    let data = pattern(6 * MIB);
    for pinnable in [8 * MIB, 4 * MIB, 2 * MIB, MIB] {
        let device = FakeDiscrete::builder().pinned_memory(pinnable as u64);
        let allocator = Allocator::builder(Arc::new(device.build().unwrap()));
        let allocator = allocator.build().unwrap();
        let copier = Copier::new().unwrap();
        let mut there = private(&allocator, data.len());
        for (bytes, pitch) in [(data.len(), 0), (300_000, 0), (20_000, 1000)] {
            let options = match pitch {
                0 => CopyOptions::new().bytes(bytes),
                pitch => CopyOptions::new().rows(Rows {
                    bytes: bytes / pitch * 10,
                    count: 100,
                    source_pitch: pitch,
                    destination_pitch: pitch,
                }),
            };
            let seen = Arc::new(AtomicUsize::new(0));
            let noted = Arc::clone(&seen);
            let options = options.progress(move |progress| {
                noted.store(progress.done_bytes, Ordering::Relaxed);
            });
            copier.copy(&vec![0xAA_u8; data.len()], &mut there).unwrap();
            let copied = copier.copy_with(&data, &mut there, &options).unwrap();
            assert_eq!(copied.bytes, seen.load(Ordering::Relaxed));
            let mut back = vec![0xAA_u8; data.len()];
            copier.copy_with(&there, &mut back, &options).unwrap();
            let row = copied.bytes / if pitch == 0 { 1 } else { 100 };
            let is_copied = |at: usize| match pitch {
                0 => at < row,
                pitch => at / pitch < 100 && at % pitch < row,
            };
            let wrong = (0..data.len()).find(|&at| {
                let expected = if is_copied(at) { data[at] } else { 0xAA };
                back[at] != expected
            });
            assert_eq!(wrong, None, "{pinnable} bytes pinnable, {options:?}");
        }
        let staging = allocator.stats().staging.peak;
        assert!(staging <= pinnable as u64 && (staging > 0) == (pinnable > MIB));
        if pinnable > MIB {
            let queue = allocator.create_queue().unwrap();
            queue.write(&data, &mut there).unwrap();
            let mut back = vec![0_u8; data.len()];
            queue.read(&there, &mut back).unwrap();
            assert!(back == data);
        }
    }
}

#[test]
fn where_nothing_can_be_pinned_a_queue_says_what_for() {
    let device = FakeDiscrete::builder().pinned_memory(MIB as u64);
    let allocator = Allocator::builder(Arc::new(device.build().unwrap()));
    let allocator = allocator.build().unwrap();
    let queue = allocator.create_queue().unwrap();
    let mut there = private(&allocator, 6 * MIB);
    let error = queue.write(&vec![0_u8; 6 * MIB], &mut there).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = error.to_string();
    assert!(text.contains("staged copy"), "{text}");
    assert!(text.contains("CopierConfig::chunk_bytes"), "{text}");
}

#[test]
fn a_progress_function_that_panicked_is_not_called_again() {
    let allocator = discrete();
    let copier = Copier::new().unwrap();
    let mut there = private(&allocator, 32 * MIB);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let options = CopyOptions::new().progress(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("on purpose");
    });
    let data = vec![1_u8; 32 * MIB];
    let copied = copier.copy_with(&data, &mut there, &options).unwrap();
    assert_eq!((copied.bytes, calls.load(Ordering::Relaxed)), (32 * MIB, 1));
}

#[test]
fn what_contradicts_itself_is_refused_and_counts_as_no_copy() {
    let allocator = discrete();
    let copier = Copier::new().unwrap();
    let mut there = private(&allocator, 1000);
    let data = [1_u8; 2000];
    let rows = Rows {
        bytes: 10,
        count: 2,
        source_pitch: 20,
        destination_pitch: 20,
    };
    let both = CopyOptions::new().bytes(5).rows(rows);
    let said = text(copier.copy_with(&data, &mut there, &both));
    assert!(said.contains("Rows::bytes"), "{said}");
    let none = CopyOptions::new().bytes(5).threads_max(0);
    let said = text(copier.copy_with(&data, &mut there, &none));
    assert!(said.contains("threads_max"), "{said}");
    let said = text(copier.copy(&data, &mut there));
    assert!(said.contains("a copy of 2000 bytes"), "{said}");
    let many = CopyOptions::new().rows(Rows { count: 500, ..rows });
    let said = text(copier.copy_with(&data, &mut there, &many));
    assert!(said.contains("500 rows of 10 bytes"), "{said}");
    // Rows of one buffer that interleave.
    let view = there.share();
    let (even, odd) = (view.slice(0..990).unwrap(), view.slice(10..1000).unwrap());
    let interleaved = CopyOptions::new().rows(Rows { count: 49, ..rows });
    let said = text(copier.copy_with(&even, &odd, &interleaved));
    assert!(said.contains("interleave"), "{said}");
    let refused = copier.copy_async(data.to_vec(), view, both).wait().unwrap();
    assert_eq!(
        refused.result.unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let stats = copier.stats();
    let copies = CopyPath::ALL.map(|path| stats.of(path).copies);
    assert_eq!((copies, stats.failed), ([0; CopyPath::ALL.len()], 0));
}

#[test]
fn waits_for_other_work_are_no_part_of_the_time_of_a_copy() {
    const WAIT: Duration = Duration::from_millis(300);
    let allocator = discrete();
    let copier = Copier::new().unwrap();
    let queue = allocator.create_queue().unwrap();
    for bytes in [1000, 4 * MIB] {
        let mut there = private(&allocator, bytes);
        queue.call(|| thread::sleep(WAIT)).unwrap();
        queue.fill(&mut there, 1).unwrap();
        let before = copier.stats();
        let copied = copier.copy(&vec![2_u8; bytes], &mut there).unwrap();
        assert!(copied.elapsed >= WAIT / 2, "{:?}", copied.elapsed);
        let path = copied.path;
        let ns = copier.stats().of(path).ns - before.of(path).ns;
        let most = copied.elapsed - WAIT / 2;
        assert!(u128::from(ns) < most.as_nanos(), "{ns} of {copied:?}");
    }
}

#[test]
fn a_first_private_allocation_leaves_an_allocator_healthy() {
    // Less than the addresses that are asked for first.
    for gib in [1_u64, 16, 1 << 10] {
        let device = FakeDiscrete::builder().memory(gib << 30);
        let allocator = Allocator::builder(Arc::new(device.build().unwrap()));
        let allocator = allocator.build().unwrap();
        drop(private(&allocator, MIB));
        let health = allocator.report().health;
        assert_eq!(health.status, HealthStatus::Healthy, "{gib} GiB: {health}");
        assert_eq!(allocator.stats().driver_failures, 0);
    }
}

#[test]
fn what_is_held_besides_is_in_every_report() {
    let allocator = discrete();
    let copier = Copier::with_config(CopierConfig::default()).unwrap();
    let mut there = private(&allocator, 8 * MIB);
    let shown = || {
        let report = allocator.report();
        [
            allocator.stats().to_string(),
            allocator.dashboard().to_string(),
            report.to_string(),
        ]
    };
    for text in shown() {
        assert!(!text.contains("registered"), "{text}");
    }
    copier.copy(&vec![1_u8; 8 * MIB], &mut there).unwrap();
    let registered = allocator.register(vec![1_u8; 3 * MIB]).unwrap();
    let staging = allocator.stats().staging;
    assert!(staging.value > 0);
    let [line, dashboard, report] = shown();
    let (value, peak) = (staging.value, staging.peak);
    assert!(
        line.contains(&format!("staging {value} (peak {peak})")),
        "{line}"
    );
    assert!(line.contains("registered 3145728 (peak 3145728)"), "{line}");
    for text in [dashboard, report] {
        assert!(text.contains("6.00 MiB (peak 6.00 MiB)"), "{text}");
        assert!(text.contains("3.00 MiB (peak 3.00 MiB)"), "{text}");
    }
    drop(registered);
}
