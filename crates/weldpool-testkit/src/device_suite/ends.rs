//! Buffers that outlive their allocator.

use std::sync::{Arc, Mutex};

use weldpool::{LeakHandler, Request};

use super::{MakeDevice, allocator, with_config};

pub fn leaks_are_reported_by_name(make: MakeDevice) {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let allocator = with_config(make, move |config| {
        config.on_leak = Some(LeakHandler::new(move |report| {
            sink.lock().unwrap().push(report.clone());
        }));
    });
    let leaked = [
        allocator
            .allocate_with(&Request::new(100).name("small"))
            .unwrap(),
        allocator
            .allocate_with(&Request::new(5000).name("large"))
            .unwrap(),
        allocator
            .allocate_with(&Request::new(300).name("small"))
            .unwrap(),
    ];
    let second = allocator.clone();
    drop(allocator);
    assert!(reports.lock().unwrap().is_empty(), "a handle is left");
    drop(second);
    let report = reports.lock().unwrap().pop().unwrap();
    assert_eq!((report.count(), report.bytes()), (3, 5400));
    assert_eq!(report.buffers[0].name.as_str(), "large");
    assert_eq!((report.buffers[1].count, report.buffers[1].bytes), (2, 400));
    assert!(
        report
            .to_string()
            .contains("3 buffers of 5400 bytes are alive"),
        "{report}"
    );
    drop(leaked);
}

pub fn buffers_outlive_their_allocator(make: MakeDevice) {
    let allocator = allocator(make);
    let mut buffer = allocator.allocate(10_000).unwrap();
    drop(allocator);
    buffer.write::<u8>().unwrap().fill(7);
    let view = buffer.share();
    let part = view.slice(9_999..10_000).unwrap();
    drop(view);
    assert_eq!(*part.read::<u8>().unwrap(), [7]);
}
