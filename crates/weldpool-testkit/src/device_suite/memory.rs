//! Memory as requests get it: zeroed, aligned, reused, found by address.

use std::sync::Arc;

use weldpool::{Allocator, Buffer, ErrorKind, Request, StorageMode};

use super::{MakeDevice, address, allocator, with_config};
use crate::{Pages, foreign};

pub fn segments_are_aligned_disjoint_and_zero(make: MakeDevice) {
    let device = make();
    let granularity = device.properties().granularity;
    let segments: Vec<_> = (1..=8)
        .map(|count| {
            device
                .create_segment(count * granularity, StorageMode::Shared)
                .unwrap()
        })
        .collect();
    let mut ranges: Vec<_> = segments
        .iter()
        .filter_map(|segment| {
            let start = segment.host_address()?.as_ptr().addr();
            assert_eq!(start % granularity, 0);
            Some((start, start + segment.bytes()))
        })
        .collect();
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{ranges:?}"
    );
    for segment in segments {
        device.release_segment(segment).unwrap();
    }
    // Memory that was written and released comes back as zeroes.
    let allocator = with_config(make, |config| config.pooling = false);
    for _ in 0..3 {
        let mut buffer = allocator.allocate(5 * granularity).unwrap();
        assert!(buffer.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
        buffer.write::<u8>().unwrap().fill(0xA5);
    }
}

pub fn a_freed_buffer_is_reused_without_a_driver_call(make: MakeDevice) {
    let allocator = allocator(make);
    for bytes in [1, 256, 4096, 65_536, 100_000, 1 << 20, 40 << 20] {
        let first = allocator.allocate(bytes).unwrap();
        let before = (address(&first), allocator.stats());
        drop(first);
        let second = allocator.allocate(bytes).unwrap();
        let after = allocator.stats();
        assert_eq!(address(&second), before.0, "{bytes} bytes");
        assert_eq!(after.driver_calls, before.1.driver_calls, "{bytes} bytes");
        assert_eq!(after.hits, before.1.hits + 1, "{bytes} bytes");
        assert_eq!(after.live.value, bytes as u64);
        drop(second);
    }
    let stats = allocator.stats();
    assert_eq!((stats.live.value, stats.block_bytes), (0, 0));
    assert_eq!(stats.allocations, stats.frees);
    assert_eq!(stats.hits + stats.misses, stats.allocations);
    assert_eq!(stats.cached_bytes, stats.reserved.value);
    assert_eq!(stats.live.peak, 40 << 20);
}

pub fn every_size_and_alignment_is_kept(make: MakeDevice) {
    let allocator = allocator(make);
    let mut live = Vec::new();
    for bytes in [1, 3, 255, 257, 4095, 65_537, 1_000_003] {
        for shift in [0, 4, 8, 9, 12, 14, 21] {
            let alignment = 1 << shift;
            let buffer = allocator
                .allocate_with(&Request::new(bytes).alignment(alignment))
                .unwrap();
            assert_eq!(
                address(&buffer) % alignment.max(256),
                0,
                "{bytes} at {alignment}"
            );
            assert_eq!(buffer.len(), bytes);
            assert!(buffer.alignment() >= alignment && buffer.block_bytes() >= bytes);
            live.push(buffer);
        }
    }
    for (number, buffer) in live.iter_mut().enumerate() {
        buffer.write::<u8>().unwrap().fill(number as u8);
    }
    for (number, buffer) in live.iter().enumerate() {
        assert!(
            buffer
                .read::<u8>()
                .unwrap()
                .iter()
                .all(|&byte| byte == number as u8)
        );
    }
    drop(live);
    let mut dirty = allocator.allocate(4096).unwrap();
    dirty.write::<u8>().unwrap().fill(1);
    drop(dirty);
    let clean = allocator
        .allocate_with(&Request::new(4096).zeroed(true))
        .unwrap();
    assert!(clean.read::<u64>().unwrap().iter().all(|&word| word == 0));
}

/// Blocks of each storage mode, written and read on two queues, through reuse of their memory.
pub fn every_storage_mode_keeps_contents(make: MakeDevice) {
    let device = make();
    let allocator = Allocator::builder(Arc::clone(&device)).build().unwrap();
    let queues = [0, 1].map(|_| allocator.create_queue().unwrap());
    for &storage in &device.properties().storage_modes {
        let mut seen = allocator.allocate(300_000).unwrap();
        let mut live: Vec<(u8, Buffer)> = Vec::new();
        for step in 0..120_usize {
            let queue = &queues[step % 2];
            if live.len() > 6 {
                let (mark, buffer) = live.swap_remove(step * 7 % 6);
                queue.copy(&buffer, &mut seen).unwrap().wait(None).unwrap();
                let contents = seen.read::<u8>().unwrap();
                let kept = contents[..buffer.len()].iter().all(|&byte| byte == mark);
                assert!(kept, "{storage}: step {step}");
            }
            let bytes = [200, 5000, 70_000, 300_000][step % 4];
            let alignment = [256, 4096, 1 << 16][step % 3];
            let request = Request::new(bytes)
                .storage(storage)
                .alignment(alignment)
                .queue(queue);
            let mut buffer = allocator.allocate_with(&request).unwrap();
            let binding = buffer.binding();
            if let Some(address) = binding.device_address {
                // Where the host has an address too, larger alignments are that one's.
                let promised = match binding.host {
                    Some(_) => alignment.min(device.properties().granularity),
                    None => alignment,
                };
                assert_eq!(address % promised as u64, 0, "{storage}");
            }
            queue.fill(&mut buffer, step as u8).unwrap();
            live.push((step as u8, buffer));
        }
    }
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn addresses_find_their_buffers(make: MakeDevice) {
    let allocator = allocator(make);
    for &storage in &allocator.device().properties().storage_modes {
        addresses_find_their_buffers_in(&allocator, storage);
    }
}

fn addresses_find_their_buffers_in(allocator: &Allocator, storage: StorageMode) {
    let buffers: Vec<_> = [100, 70_000, 5 << 20]
        .map(|bytes| {
            let request = Request::new(bytes).name("found").storage(storage);
            allocator.allocate_with(&request).unwrap()
        })
        .into_iter()
        .collect();
    for buffer in &buffers {
        // Private memory has the device's address only.
        let binding = buffer.binding();
        let device = binding.device_address.unwrap_or(0) as usize;
        let start = binding
            .host
            .map_or(std::ptr::without_provenance_mut(device), |host| {
                host.as_ptr()
            });
        if start.is_null() {
            // It is only known by the driver's object, or kept from the host for the sake of portability.
            return;
        }
        for offset in [0, 1, buffer.len() - 1] {
            let info = allocator.find(start.wrapping_add(offset)).unwrap();
            assert_eq!((info.address, info.bytes), (start.addr(), buffer.len()));
            assert_eq!(info.name.as_str(), "found");
        }
        let beyond = allocator.find(start.wrapping_add(buffer.len()));
        assert!(beyond.is_none_or(|info| info.address != start.addr()));
    }
    assert_eq!(allocator.find(std::ptr::null()), None);
    assert_eq!(
        allocator.find(std::ptr::without_provenance(usize::MAX)),
        None
    );
    let raw: Vec<_> = buffers
        .into_iter()
        .map(|buffer| buffer.into_raw().unwrap())
        .collect();
    assert!(allocator.stats().live.value > 5 << 20);
    for address in raw {
        let reclaim = || foreign::reclaim(allocator, address);
        let buffer = reclaim().unwrap();
        assert_eq!(
            reclaim().unwrap_err().kind(),
            ErrorKind::InvalidRequest,
            "taken back already"
        );
        drop(buffer);
        assert_eq!(reclaim().unwrap_err().kind(), ErrorKind::InvalidRequest);
        assert_eq!(allocator.find(address.as_ptr()), None);
    }
    assert_eq!(allocator.stats().live.value, 0);
}

/// Memory of the program is used where it is, and comes back when work is done with it.
pub fn registered_memory_is_used_where_it_is(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let mut source = allocator.register(Pages::new(3)).unwrap();
    for (word, at) in source.write::<u32>().unwrap().iter_mut().zip(0..) {
        *word = at;
    }
    let bytes = source.len();
    assert_eq!(allocator.stats().registered.value, bytes as u64);
    let private = Request::new(bytes).storage(StorageMode::Private);
    let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
    let mut target = allocator.register(Pages::new(3)).unwrap();
    queue.copy(&source, &mut middle).unwrap();
    queue.copy(&middle, &mut target).unwrap();
    queue.fill(&mut source, 9).unwrap();
    let target = target.into_inner().unwrap();
    let source = source.into_inner().unwrap();
    let expected: Vec<u8> = (0..bytes as u32 / 4).flat_map(u32::to_ne_bytes).collect();
    assert!(target.contents() == expected);
    assert!(source.contents().iter().all(|&byte| byte == 9));
    assert_eq!(allocator.stats().registered.value, 0);
}
