//! What is asked for, and what a device offers.

use std::sync::Arc;

use weldpool::device::Exposure;
use weldpool::device::fake::{FakeApple, FakeDiscrete, Link};
use weldpool::device::host::HostDevice;
use weldpool::{Device, ErrorKind, Export, Request, StorageMode};
use weldpool_testkit::{export, import};

use super::{PAGE, open};

fn offers(device: &dyn Device, form: Option<Export>, peers: bool) -> Vec<StorageMode> {
    let exposure = Exposure {
        export: form,
        peers,
    };
    let offered = |storage: &StorageMode| device.offers(exposure, *storage);
    StorageMode::ALL.into_iter().filter(offered).collect()
}

#[test]
fn devices_say_what_they_offer() {
    let linux = |modes: &[StorageMode]| match cfg!(target_os = "linux") {
        true => modes.to_vec(),
        false => Vec::new(),
    };
    let (file, legacy) = (Some(Export::FileDescriptor), Some(Export::LegacyIpc));
    let host = HostDevice::new().unwrap();
    assert_eq!(offers(&host, file, false), linux(&StorageMode::ALL));
    assert_eq!(offers(&host, legacy, false), []);
    assert_eq!(offers(&host, None, true), []);
    let private = [StorageMode::Private];
    let alone = FakeDiscrete::new().unwrap();
    assert_eq!(offers(&alone, file, false), linux(&private));
    assert_eq!(offers(&alone, legacy, false), private);
    assert_eq!(offers(&alone, legacy, true), [], "it has no peers");
    let linked = FakeDiscrete::builder().link(&Link::new(2)).build().unwrap();
    assert_eq!(offers(&linked, None, true), private);
    assert_eq!(offers(&linked, legacy, true), private);
    let apple = FakeApple::new().unwrap();
    for form in [None, file, legacy] {
        assert_eq!(offers(&apple, form, true), []);
        assert_eq!(offers(&apple, form, false), []);
    }
}

#[test]
fn what_a_device_does_not_offer_is_refused() {
    for device in [
        Arc::new(HostDevice::new().unwrap()) as Arc<dyn Device>,
        Arc::new(FakeDiscrete::new().unwrap()),
        Arc::new(FakeApple::new().unwrap()),
    ] {
        let allocator = open(device);
        for request in [
            Request::new(PAGE).exportable(Export::LegacyIpc),
            Request::new(PAGE).visible_to_peers(true),
            Request::new(PAGE)
                .exportable(Export::FileDescriptor)
                .visible_to_peers(true),
        ] {
            let error = allocator.allocate_with(&request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
        let plain = allocator.allocate(PAGE).unwrap();
        let error = export(&plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("Request::exportable"), "{error}");
        drop(plain);
        let stats = allocator.stats();
        assert_eq!((stats.live.value, stats.failures), (0, 3));
    }
}

#[test]
fn the_last_word_of_a_request_counts() {
    let allocator = open(Arc::new(FakeDiscrete::new().unwrap()));
    let request = Request::new(PAGE)
        .storage(StorageMode::Private)
        .visible_to_peers(true)
        .exportable(Export::FileDescriptor)
        .exportable(Export::LegacyIpc)
        .visible_to_peers(false);
    let buffer = allocator.allocate_with(&request).unwrap();
    let exported = export(&buffer).unwrap();
    assert_eq!(exported.handle().export(), Export::LegacyIpc);
    let again = import(&allocator, &exported).unwrap();
    let error = export(&again).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "of others' memory");
}
