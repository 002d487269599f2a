//! The allocator on the fakes: each memory call fails once, at every point of a workload.

use std::sync::Arc;

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete, Fault, When};
use weldpool::{Allocator, Buffer, ErrorKind, Request, StorageMode};

use super::{Fake, assert_all_returned};

fn memory_calls() -> impl Iterator<Item = Call> {
    let segments = [Call::CreateSegment, Call::ReleaseSegment];
    segments.into_iter().chain(Call::VIRTUAL_MEMORY)
}

/// Holes of every size between blocks that stay, then larger blocks, so that memory has to move.
fn workload(allocator: &Allocator, storage: StorageMode) -> usize {
    let queue = allocator.create_queue().unwrap();
    let mut failures = 0;
    let mut live: Vec<Buffer> = Vec::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for step in 0..70_usize {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if step % 3 == 2 && !live.is_empty() {
            drop(live.swap_remove((random >> 32) as usize % live.len()));
        }
        if step == 50 {
            let _bytes = allocator.clear();
        }
        let bytes = (1 + (random >> 20) as usize % (1 << 20)) * (1 + step / 5);
        let request = Request::new(bytes).storage(storage).queue(&queue);
        match allocator.allocate_with(&request) {
            Ok(mut buffer) => {
                // Only some, since contents cost time and the calls do not depend on them.
                if step % 10 == 0 {
                    let fence = queue.fill(&mut buffer, 1).unwrap();
                    fence.wait(None).unwrap();
                }
                live.push(buffer);
            }
            Err(_) => failures += 1,
        }
    }
    failures
}

fn fail_each<D: Fake + 'static>(make: fn() -> D, storage: StorageMode) {
    // How often each call is made when nothing fails.
    let count = |device: &D| -> Vec<u64> {
        let calls = memory_calls().map(|call| device.control().calls(call));
        calls.collect()
    };
    let device = Arc::new(make());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    assert_eq!(workload(&allocator, storage), 0);
    drop(allocator);
    let made = count(&device);
    assert!(made.iter().sum::<u64>() > 10, "{made:?}");
    for (call, made) in memory_calls().zip(made) {
        // All of the first calls, then some: later ones are made in the same places.
        let points = (1..=made).filter(|point| *point <= 8 || point % 13 == 0);
        for (point, error) in points.zip([ErrorKind::OutOfMemory, ErrorKind::System].iter().cycle())
        {
            let device = Arc::new(make());
            device.control().inject(Fault {
                call,
                when: When::Nth(point),
                error: *error,
            });
            let allocator = Allocator::builder(device.clone()).build().unwrap();
            let failures = workload(&allocator, storage);
            assert!(failures <= 1, "{call:?} {point}: {failures} failures");
            let stats = allocator.stats();
            assert_eq!(stats.live.value, 0, "{call:?} {point}");
            // The call that fails may be one of the first round's.
            let _bytes = allocator.clear() + allocator.clear();
            let stats = allocator.stats();
            assert_eq!(stats.reserved.value, 0, "{call:?} {point}: {stats}");
            drop(allocator);
            assert_all_returned(device.as_ref(), &format!("{call:?} {point}"));
            assert_eq!(device.control().violations(), [], "{call:?} {point}");
        }
    }
}

#[test]
fn each_memory_call_fails_once_on_the_discrete_fake() {
    fail_each(|| FakeDiscrete::new().unwrap(), StorageMode::Private);
}

#[test]
fn each_memory_call_fails_once_on_the_apple_fake() {
    fail_each(|| FakeApple::new().unwrap(), StorageMode::Private);
}

#[test]
fn an_address_that_would_not_be_found_again_is_not_given_up_for() {
    for (ordinal, known) in [(5, true), (6, false)] {
        let device = FakeDiscrete::builder().ordinal(ordinal).build().unwrap();
        let allocator = Allocator::builder(Arc::new(device)).build().unwrap();
        let request = Request::new(1 << 20).storage(StorageMode::Private);
        let buffer = allocator.allocate_with(&request).unwrap();
        let address = usize::try_from(buffer.binding().device_address.unwrap()).unwrap();
        let found = allocator.find(std::ptr::without_provenance(address));
        assert_eq!(found.is_some(), known, "{address:#x}");
        if !known {
            let buffer = buffer.into_raw().unwrap_err();
            assert_eq!(buffer.len(), 1 << 20);
        }
    }
}
