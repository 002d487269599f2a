//! What a device refuses on demand.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::{Device, ErrorKind, StorageMode};
use weldpool_testkit::FaultyDevice;

#[test]
fn functions_of_queues_call_no_driver_if_told_so() {
    for apart in [false, true] {
        let fake = Arc::new(FakeDiscrete::new().unwrap());
        let device = FaultyDevice::new(fake);
        let device = Arc::new(if apart {
            device.without_calls_from_functions()
        } else {
            device
        });
        let queue = device.create_queue().unwrap();
        let other = device.create_queue().unwrap();
        let seen = other.signal().unwrap();
        other.timeline().wait(seen, None).unwrap();
        let (say, said) = channel();
        let (inside, near) = (device.clone(), other.clone());
        queue
            .call(Box::new(move || {
                let zero = Some(Duration::ZERO);
                let asked = [
                    inside.create_queue().map(drop),
                    inside.budget().map(drop),
                    inside
                        .create_segment(32 << 20, StorageMode::Private)
                        .map(drop),
                    near.wait_for_room(zero).map(drop),
                    near.finish(),
                    near.timeline().wait(seen + 1, zero).map(drop),
                ];
                let known = near.timeline().completed();
                let passed = near.timeline().wait(seen, zero);
                assert_eq!(inside.may_be_called(), !apart);
                say.send((asked, known, passed)).unwrap();
            }))
            .unwrap();
        let (asked, known, passed) = said.recv_timeout(Duration::from_secs(20)).unwrap();
        for result in asked {
            let kind = result.err().map(|error| error.kind());
            assert_eq!(kind, apart.then_some(ErrorKind::Busy));
        }
        assert!(known.unwrap() >= seen);
        assert!(passed.unwrap());
        queue.finish().unwrap();
        assert!(device.may_be_called());
        device.create_queue().unwrap();
    }
}
