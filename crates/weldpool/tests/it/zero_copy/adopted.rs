//! Memory that is used where it is or copied, as it turns out.

use std::sync::Arc;

use weldpool::device::fake::{Call, FakeApple, FakeDiscrete};
use weldpool::transfer::{Copier, CopyOptions};
use weldpool::{
    AdoptOptions, Adopted, Allocator, CopyReason, Device, ErrorKind, Request, StableBytes,
    StorageMode,
};
use weldpool_testkit::{FaultyDevice, Pages};

use super::{allocators, apple, pattern, seen_by_a_queue};

const PAGE: usize = Pages::PAGE_BYTES;

/// Whatever its length.
fn any() -> AdoptOptions {
    AdoptOptions {
        zero_copy_bytes_min: 0,
        ..AdoptOptions::default()
    }
}

fn written(pages: usize) -> Pages {
    let allocator = Allocator::host().unwrap();
    let mut memory = allocator.register(Pages::new(pages)).unwrap();
    let bytes = memory.len();
    let contents = pattern(0, bytes);
    memory.write::<u8>().unwrap().copy_from_slice(&contents);
    memory.into_inner().unwrap()
}

#[test]
fn it_is_an_operand_either_way_and_says_which() {
    for allocator in allocators() {
        for (options, reason) in [
            (any(), None),
            (AdoptOptions::default(), Some(CopyReason::Small)),
        ] {
            let mut adopted = allocator.adopt_with(written(2), &options).unwrap();
            let bytes = adopted.len();
            assert_eq!(bytes, 2 * PAGE);
            assert_eq!(adopted.copy_reason(), reason);
            assert_eq!(
                seen_by_a_queue(&allocator, &adopted, bytes),
                pattern(0, bytes)
            );
            let queue = allocator.create_queue().unwrap();
            queue.fill(&mut adopted, 5).unwrap();
            adopted.wait(None).unwrap();
            assert!(adopted.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
            adopted.write::<u8>().unwrap()[0] = 6;
            adopted.note_use(&queue).unwrap();
            adopted.wait(None).unwrap();
            assert_eq!(adopted.binding().bytes, bytes);
            match adopted {
                Adopted::Wrapped(registered) => {
                    let pages = registered.into_inner().unwrap();
                    assert_eq!(pages.contents()[..2], [6, 5], "the program's own");
                }
                Adopted::Copied { buffer, .. } => assert_eq!(buffer.name(), "adopted"),
            }
        }
        let stats = allocator.stats();
        let adopted = stats.adopted;
        assert_eq!((adopted.wrapped, adopted.copied), (1, 1));
        assert_eq!(adopted.wrapped_bytes, 2 * PAGE as u64);
        assert_eq!(adopted.copied_bytes, 2 * PAGE as u64);
        assert_eq!((stats.registered.value, stats.live.value), (0, 0));
    }
}

#[test]
fn copies_that_nobody_waits_for_own_it() {
    for allocator in allocators() {
        let copier = Copier::new().unwrap();
        for options in [any(), AdoptOptions::default()] {
            let source = allocator.adopt_with(written(1), &options).unwrap();
            let target = allocator.allocate(PAGE).unwrap();
            let done = copier.copy_async(source, target, CopyOptions::new());
            let done = done.wait().unwrap();
            assert_eq!(done.result.unwrap().bytes, PAGE);
            assert_eq!(done.destination.read::<u8>().unwrap()[..], pattern(0, PAGE));
        }
    }
}

#[test]
fn each_reason_is_told_and_the_contents_are_there() {
    /// Adopts pages, which cannot be used where they are.
    fn copied(allocator: &Allocator, expected: CopyReason) {
        let adopted = allocator.adopt_with(written(2), &any()).unwrap();
        assert_eq!(adopted.copy_reason(), Some(expected));
        assert_eq!(
            seen_by_a_queue(allocator, &adopted, 2 * PAGE),
            pattern(0, 2 * PAGE)
        );
        assert_eq!(allocator.stats().registered.value, 0);
        assert_eq!(allocator.stats().adopted.copied, 1);
    }

    let short = FakeApple::builder().empty_no_copy(true);
    copied(&apple(short.build().unwrap()), CopyReason::WrappedInPart);
    let few = FakeApple::builder().buffers_max(8);
    let allocator = apple(few.build().unwrap());
    // What is held for the copy, and for a look at it, counts too.
    let queue = allocator.create_queue().unwrap();
    let request = [StorageMode::Shared, StorageMode::Private]
        .map(|storage| Request::new(2 * PAGE).storage(storage));
    drop(request.map(|request| allocator.allocate_with(&request).unwrap()));
    let mut known = Vec::new();
    let reason = loop {
        match allocator.register(Pages::new(1)) {
            Ok(registered) => known.push(registered),
            Err(failed) => break failed.error.copy_reason(),
        }
    };
    assert_eq!((reason, known.len()), (Some(CopyReason::LimitReached), 5));
    drop(known.pop());
    let adopted = allocator.adopt_with(written(2), &any()).unwrap();
    let other = allocator.adopt_with(written(2), &any()).unwrap();
    assert_eq!(adopted.copy_reason(), None);
    assert_eq!(other.copy_reason(), Some(CopyReason::LimitReached));
    // To look at it takes buffers too.
    drop((known, adopted, queue));
    let seen = seen_by_a_queue(&allocator, &other, 2 * PAGE);
    assert_eq!(seen, pattern(0, 2 * PAGE));
    for inner in [
        Arc::new(FakeApple::new().unwrap()) as Arc<dyn Device>,
        Arc::new(FakeDiscrete::new().unwrap()),
    ] {
        for kind in [
            ErrorKind::OutOfMemory,
            ErrorKind::System,
            ErrorKind::Unsupported,
        ] {
            let device = Arc::new(FaultyDevice::new(Arc::clone(&inner)));
            device.fail(Call::Register, kind, 1);
            let allocator = Allocator::builder(device).build().unwrap();
            copied(&allocator, CopyReason::Refused);
        }
    }
}

#[test]
fn what_can_neither_be_used_nor_copied_comes_back() {
    let builder = FakeApple::builder()
        .memory(1 << 20)
        .max_buffer_length(4 << 20);
    let device = Arc::new(builder.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let pages = 2 << 20 >> PAGE.ilog2();
    let failed = allocator.adopt(Pages::new(pages)).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(failed.memory.contents().len(), 2 << 20);
    let failed = allocator.adopt(Vec::<u8>::new()).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::InvalidRequest);
    let empty = allocator.register(Vec::<u8>::new()).unwrap_err().error;
    assert_eq!(empty.copy_reason(), Some(CopyReason::Empty));
    let empty = allocator.adopt(Vec::<u8>::new()).unwrap_err().error;
    assert_eq!(empty.copy_reason(), Some(CopyReason::Empty));
    device.control().lose();
    let failed = allocator.adopt_with(written(1), &any()).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::DeviceLost);
    assert_eq!(failed.memory.contents(), pattern(0, PAGE));
    let stats = allocator.stats();
    assert_eq!((stats.adopted.wrapped, stats.adopted.copied), (0, 0));
}

#[test]
fn vectors_are_adopted_whatever_their_addresses() {
    for allocator in allocators() {
        let mut vector: Vec<u8> = pattern(0, 3 << 20);
        let start = vector.as_bytes();
        let adopted = allocator.adopt(vector).unwrap();
        match adopted.copy_reason() {
            None => assert_eq!(adopted.binding().host, Some(start.cast())),
            // On the model of Metal, whose pages are larger than the system's here.
            Some(reason) => assert_eq!(reason, CopyReason::PartialPages),
        }
        assert_eq!(adopted.read::<u8>().unwrap()[..], pattern(0, 3 << 20));
    }
}
