//! Parts of pages.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use weldpool::device::Location;
use weldpool::device::fake::FakeApple;
use weldpool::{Allocator, CopyReason, Device, ErrorKind, RawBytes};
use weldpool_testkit::Pages;

use super::{allocators, apple, pattern, seen_by_a_queue};

const PAGE: usize = Pages::PAGE_BYTES;

/// A part of pages that outlive what is registered of it.
fn part(pages: &Pages, from: usize, bytes: usize) -> RawBytes {
    let start = NonNull::new(pages.start().as_ptr().wrapping_add(from)).unwrap();
    // SAFETY: it lies inside of the pages, which the test keeps and does not touch meanwhile.
    unsafe { RawBytes::new(start, bytes) }
}

#[test]
fn work_touches_the_part_and_nothing_around_it() {
    for allocator in allocators() {
        let pages = Pages::new(3);
        for (from, bytes) in [
            (100, 50),
            (PAGE - 3, 2 * PAGE),
            (PAGE, PAGE),
            (7, 3 * PAGE - 7),
        ] {
            let mut memory = allocator.register(part(&pages, from, bytes)).unwrap();
            let expected = pattern(from, bytes);
            memory.write::<u8>().unwrap().copy_from_slice(&expected);
            assert_eq!(seen_by_a_queue(&allocator, &memory, bytes), expected);
            let binding = memory.binding();
            assert_eq!(
                binding.host.unwrap().as_ptr(),
                pages.start().as_ptr().wrapping_add(from)
            );
            if let Some((_, offset)) = binding.resource {
                assert_eq!(offset, from % PAGE);
            }
            let queue = allocator.create_queue().unwrap();
            queue.fill(&mut memory, 0xEE).unwrap();
            drop(memory);
            for (at, byte) in pages.contents().iter().enumerate() {
                let inside = (from..from + bytes).contains(&at);
                assert_eq!(*byte, if inside { 0xEE } else { 0 }, "{at}");
            }
            let mut all = allocator.register(part(&pages, 0, 3 * PAGE)).unwrap();
            all.write::<u8>().unwrap().fill(0);
        }
        assert_eq!(allocator.stats().registered.value, 0);
    }
}

/// Where the system's pages are smaller than the device's, one may be mapped and the next not.
#[cfg(target_os = "linux")]
#[test]
fn a_page_that_is_not_mapped_whole_is_refused_and_copied() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use weldpool::AdoptOptions;

    let small = rustix::param::page_size();
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: the system picks free addresses.
    let start = unsafe { mmap_anonymous(std::ptr::null_mut(), 4 * PAGE, access, flags) }.unwrap();
    let first = start.addr().next_multiple_of(PAGE) - start.addr();
    let rest = |from: usize, to: usize| {
        // SAFETY: nobody uses that part of the mapping any more.
        unsafe { munmap(start.wrapping_byte_add(from), to - from) }.unwrap();
    };
    // Left are a whole page of the device's, and one of the system's behind it.
    rest(first + PAGE + small, 4 * PAGE);
    let memory = |from: usize, bytes| {
        let start = NonNull::new(start.cast::<u8>().wrapping_add(first + from)).unwrap();
        // SAFETY: it is mapped until the end of the test.
        unsafe { RawBytes::new(start, bytes) }
    };
    let allocator = apple(FakeApple::new().unwrap());
    drop(allocator.register(memory(5, PAGE - 5)).unwrap());
    if small < PAGE {
        for (from, bytes) in [(0, PAGE + 1), (PAGE, small), (PAGE + 7, 9)] {
            let error = allocator.register(memory(from, bytes)).unwrap_err().error;
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert_eq!(error.copy_reason(), Some(CopyReason::PartialPages));
            assert!(error.to_string().contains("16384"), "{error}");
        }
        let any = AdoptOptions {
            zero_copy_bytes_min: 0,
            ..AdoptOptions::default()
        };
        let adopted = allocator.adopt_with(memory(PAGE, small), &any).unwrap();
        assert_eq!(adopted.copy_reason(), Some(CopyReason::PartialPages));
        assert_eq!(adopted.read::<u8>().unwrap()[..], vec![0; small]);
    }
    rest(0, first + PAGE + small);
}

#[test]
fn parts_of_one_page_are_registered_beside_each_other() {
    for allocator in allocators() {
        let pages = Pages::new(1);
        let queue = allocator.create_queue().unwrap();
        let mut first = allocator.register(part(&pages, 0, 1000)).unwrap();
        let mut second = allocator.register(part(&pages, 1000, 3001)).unwrap();
        queue.fill(&mut first, 1).unwrap();
        queue.fill(&mut second, 2).unwrap();
        queue
            .copy(&first, &mut allocator.allocate(1000).unwrap())
            .unwrap();
        drop(first);
        second.wait(None).unwrap();
        assert!(second.read::<u8>().unwrap().iter().all(|&byte| byte == 2));
        drop(second);
        assert!(pages.contents()[..1000].iter().all(|&byte| byte == 1));
        assert_eq!(pages.contents()[4001], 0);
    }
}

#[test]
fn what_is_longer_than_a_buffer_may_be_is_refused_with_its_pages_counted() {
    let builder = FakeApple::builder().max_buffer_length(2 * PAGE as u64);
    let allocator = apple(builder.build().unwrap());
    let pages = Pages::new(3);
    drop(allocator.register(part(&pages, 5, 2 * PAGE - 5)).unwrap());
    for (from, bytes) in [(5, 2 * PAGE), (0, 2 * PAGE + 1)] {
        let error = allocator
            .register(part(&pages, from, bytes))
            .unwrap_err()
            .error;
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(error.copy_reason(), Some(CopyReason::TooLong));
        assert!(error.to_string().contains("maxBufferLength"), "{error}");
    }
    assert_eq!(allocator.stats().registered.value, 0);
}

#[test]
fn a_driver_that_wraps_less_than_it_was_asked_to_is_noticed() {
    let builder = FakeApple::builder().empty_no_copy(true);
    let allocator = apple(builder.build().unwrap());
    let failed = allocator.register(Pages::new(1)).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Unsupported);
    assert_eq!(failed.error.copy_reason(), Some(CopyReason::WrappedInPart));
    drop(failed.memory);
}

#[test]
fn there_are_no_more_buffers_than_the_system_allows() {
    let device = Arc::new(FakeApple::builder().buffers_max(3).build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let mut held: Vec<_> = (0..3)
        .map(|_| allocator.register(Pages::new(1)).unwrap())
        .collect();
    let failed = allocator.register(Pages::new(1)).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::LimitExceeded);
    assert_eq!(failed.error.copy_reason(), Some(CopyReason::LimitReached));
    let error = allocator.allocate(100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    drop(held.pop());
    held.push(allocator.register(failed.memory).unwrap());
    held.truncate(1);
    drop(allocator.allocate(100).unwrap());
    assert_eq!(
        device.violations(),
        [],
        "the device refuses before Metal does"
    );
}

#[test]
fn a_devices_work_is_held_to_the_part() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let pages = Pages::new(2);
    let memory = allocator.register(part(&pages, 64, 1000)).unwrap();
    let (resource, offset) = memory.binding().resource.unwrap();
    assert_eq!(offset, 64);
    let queue = device.create_queue().unwrap();
    for (at, bytes, inside) in [
        (64, 1000, true),
        (60, 4, false),
        (63, 1, false),
        (1060, 8, false),
        (64, 1001, false),
    ] {
        let place = Location {
            host: None,
            device: None,
            resource: Some((resource, at)),
        };
        // SAFETY: the memory is there until the queue has ended, and nobody touches it meanwhile.
        let filled = unsafe { queue.fill(place, bytes, 1) };
        let kind = filled.map_err(|error| error.kind());
        let refused = Err(ErrorKind::InvalidRequest);
        assert_eq!(kind, if inside { Ok(()) } else { refused }, "{at} {bytes}");
    }
    let value = queue.signal().unwrap();
    assert!(queue.timeline().wait(value, None).unwrap());
    drop(memory);
    assert_eq!((pages.contents()[63], pages.contents()[1064]), (0, 0));
    assert_eq!(device.violations(), []);
}

/// As a GPU capture does.
#[test]
fn memory_stays_registered_while_something_keeps_its_buffer() {
    let device = Arc::new(FakeApple::new().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    let memory = allocator.register(Pages::new(1)).unwrap();
    let (resource, _) = memory.binding().resource.unwrap();
    let kept = device.metal().buffer(resource).unwrap();
    let failed = memory.into_inner().unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Busy);
    let memory = failed.memory;
    assert_eq!(allocator.stats().registered.value, PAGE as u64);
    assert_eq!(memory.read::<u8>().unwrap().len(), PAGE);
    let mut target = allocator.allocate(PAGE).unwrap();
    let queue = allocator.create_queue().unwrap();
    assert!(
        queue.copy(&memory, &mut target).is_err(),
        "it is on its way out"
    );
    drop(kept);
    drop(memory.into_inner().unwrap());
    assert_eq!(allocator.stats().registered.value, 0);
}
