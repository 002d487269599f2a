//! Memory that exists, where it can be used and where it cannot; objects of single buffers.

use weldpool::{AdoptOptions, Adopted, ErrorKind, Request, StorageMode};

use super::{MakeDevice, allocator};
use crate::Pages;

/// A part of a page is used where it is, with nothing around it touched, or copied with a reason.
pub fn adopted_memory_is_there_either_way(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let any = AdoptOptions {
        zero_copy_bytes_min: 0,
        ..AdoptOptions::default()
    };
    let (page, mut counted) = (Pages::PAGE_BYTES, (0, 0));
    for (from, bytes) in [(0, 2 * page), (100, 333), (page - 1, 2), (page + 7, page)] {
        let part = Pages::new(3).part(from..from + bytes).unwrap();
        let mut adopted = allocator.adopt_with(part, &any).unwrap();
        assert_eq!(adopted.len(), bytes);
        for (byte, at) in adopted.write::<u8>().unwrap().iter_mut().zip(0_usize..) {
            *byte = at as u8;
        }
        let private = Request::new(bytes).storage(StorageMode::Private);
        let mut middle = allocator.allocate_with(&private.queue(&queue)).unwrap();
        queue.copy(&adopted, &mut middle).unwrap();
        let mut seen = vec![0_u8; bytes];
        queue.read(&middle, &mut seen[..]).unwrap();
        assert!(
            seen.iter()
                .zip(0_usize..)
                .all(|(&byte, at)| byte == at as u8)
        );
        queue.fill(&mut adopted, 0xA5).unwrap();
        match adopted {
            Adopted::Wrapped(registered) => {
                counted.0 += 1;
                let part = registered.into_inner().unwrap();
                for (at, &byte) in part.all().iter().enumerate() {
                    let inside = (from..from + bytes).contains(&at);
                    assert_eq!(byte, if inside { 0xA5 } else { 0 }, "{at}");
                }
            }
            Adopted::Copied { .. } => counted.1 += 1,
        }
        let stats = allocator.stats().adopted;
        assert_eq!((stats.wrapped, stats.copied), counted);
    }
    let stats = allocator.stats();
    assert_eq!((stats.registered.value, stats.live.value), (0, 0));
}

/// A buffer has an object of its own that is the same each time, or it is said why not.
pub fn buffers_have_objects_or_say_why_not(make: MakeDevice) {
    let allocator = allocator(make);
    let mut buffers: Vec<_> = [1, 1000, 70_000, 3 << 20]
        .map(|bytes| allocator.allocate(bytes).unwrap())
        .into_iter()
        .collect();
    let mut seen = Vec::new();
    for buffer in &buffers {
        match buffer.object() {
            Ok(object) => {
                assert!(object.bytes() >= buffer.len());
                let again = buffer.object().unwrap();
                assert_eq!(again.resource(), object.resource());
                seen.push(object.resource());
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
        }
    }
    let mut others = seen.clone();
    others.dedup();
    assert_eq!(seen, others, "each its own");
    // Nothing of them is in the way of anything.
    for buffer in &mut buffers {
        buffer.write::<u8>().unwrap().fill(1);
    }
    drop(buffers);
    assert_eq!(allocator.stats().live.value, 0);
    let _bytes = allocator.clear();
    assert_eq!(allocator.stats().reserved.value, 0);
}
