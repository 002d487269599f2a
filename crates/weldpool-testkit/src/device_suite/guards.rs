//! Access to contents from the host, and what keeps it away.

use std::time::Duration;

use weldpool::{ErrorKind, Request, StorageMode};

use super::{MakeDevice, allocator};
use crate::{block, foreign};

pub fn guards_check_type_length_and_each_other(make: MakeDevice) {
    let allocator = allocator(make);
    let mut buffer = allocator.allocate(12).unwrap();
    assert_eq!(
        buffer.read::<u64>().unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    buffer.write::<u32>().unwrap().copy_from_slice(&[1, 2, 3]);
    let whole = buffer.share();
    let tail = whole.slice(4..12).unwrap();
    assert_eq!(*tail.read::<u32>().unwrap(), [2, 3]);
    assert_eq!(
        whole.slice(1..9).unwrap().read::<u32>().unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "it is the wrong range under test"
    )]
    let wrong = [0..13, 5..4, usize::MAX - 1..usize::MAX];
    for range in wrong {
        assert_eq!(
            whole.slice(range).unwrap_err().kind(),
            ErrorKind::InvalidRequest
        );
    }
    let reading = whole.read::<u8>().unwrap();
    let _also = tail.read::<u8>().unwrap();
    assert_eq!(tail.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    drop((reading, _also));
    let writing = tail.write::<u8>().unwrap();
    assert_eq!(whole.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    drop(writing);
    assert!(whole.slice(6..6).unwrap().read::<u16>().unwrap().is_empty());
    let whole = whole.try_into_buffer().unwrap_err();
    drop(tail);
    assert!(whole.is_unique());
    assert_eq!(whole.try_into_buffer().unwrap().len(), 12);
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn private_storage_refuses_the_host(make: MakeDevice) {
    let allocator = allocator(make);
    let request = Request::new(1000).storage(StorageMode::Private);
    if !allocator
        .device()
        .properties()
        .storage_modes
        .contains(&StorageMode::Private)
    {
        assert_eq!(
            allocator.allocate_with(&request).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        return;
    }
    let mut private = allocator.allocate_with(&request).unwrap();
    assert_eq!(
        private.read::<u8>().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(
        private.write::<u8>().unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert!(private.binding().host.is_none());
    let queue = allocator.create_queue().unwrap();
    queue.fill(&mut private, 9).unwrap();
    let mut shared = allocator.allocate(1000).unwrap();
    queue
        .copy(&private, &mut shared)
        .unwrap()
        .wait(None)
        .unwrap();
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 9));
    // Its address is the device's, if that has any.
    let device = private.binding().device_address;
    let private = match private.into_raw() {
        Ok(address) => {
            assert_eq!(Some(address.as_ptr().addr() as u64), device);
            foreign::reclaim(&allocator, address).unwrap()
        }
        Err(private) => {
            assert_eq!(device, None);
            private
        }
    };
    drop(private);
    let zeroed = allocator
        .allocate_with(&request.zeroed(true).queue(&queue))
        .unwrap();
    queue
        .copy(&zeroed, &mut shared)
        .unwrap()
        .wait(None)
        .unwrap();
    assert!(shared.read::<u8>().unwrap().iter().all(|&byte| byte == 0));
}

pub fn work_in_flight_keeps_guards_away(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let mut source = allocator.allocate(4096).unwrap();
    source.write::<u8>().unwrap().fill(1);
    let mut target = allocator.allocate(4096).unwrap();
    let (open, _) = block(&queue);
    let fence = queue.copy(&source, &mut target).unwrap();
    assert!(!fence.is_complete().unwrap());
    assert_eq!(
        fence
            .wait(Some(Duration::from_millis(2)))
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
    assert!(source.read::<u8>().is_ok(), "two readers do not race");
    assert_eq!(source.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(target.read::<u8>().unwrap_err().kind(), ErrorKind::Busy);
    open.send(()).unwrap();
    target.wait(None).unwrap();
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 1));
    source.write::<u8>().unwrap().fill(2);
}
