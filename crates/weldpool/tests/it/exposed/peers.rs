//! Memory that a device's peers reach.

use std::sync::Arc;

use weldpool::device::fake::{FakeDiscrete, Link, Rule};
use weldpool::transfer::{Copier, CopyPath};
use weldpool::{Allocator, Buffer, ErrorKind, Export, Request, StorageMode};
use weldpool_testkit::{export, import};

use super::{MIB, fill, holds, open, private};

/// Two linked devices.
fn pair() -> [(Arc<FakeDiscrete>, Allocator); 2] {
    let link = Link::new(2);
    [0, 1].map(|ordinal| {
        let built = FakeDiscrete::builder().ordinal(ordinal).link(&link).build();
        let device = Arc::new(built.unwrap());
        (device.clone(), open(device))
    })
}

fn visible(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator
        .allocate_with(&request.visible_to_peers(true))
        .unwrap()
}

fn plain(allocator: &Allocator, bytes: usize) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator.allocate_with(&request).unwrap()
}

#[test]
fn peers_are_those_of_the_link() {
    let [(first, _), (second, _)] = pair();
    let peers = |device: &FakeDiscrete| weldpool::Device::properties(device).peers.clone();
    assert_eq!((peers(&first), peers(&second)), (vec![1], vec![0]));
    assert!(peers(&FakeDiscrete::new().unwrap()).is_empty());
    let beyond = FakeDiscrete::builder().ordinal(2).link(&Link::new(2));
    let error = beyond.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn queues_copy_from_and_to_what_is_visible() {
    let [(first, ours), (second, theirs)] = pair();
    let mut shown = visible(&ours, 3 * MIB);
    fill(&ours, &mut shown, 1);
    let queue = theirs.create_queue().unwrap();
    let mut local = plain(&theirs, 3 * MIB);
    queue.copy(&shown, &mut local).unwrap().wait(None).unwrap();
    assert!(holds(&theirs, &local, 1));
    fill(&theirs, &mut local, 2);
    let fence = queue.copy(&local, &mut shown).unwrap();
    fence.wait(None).unwrap();
    assert!(holds(&ours, &shown, 2));
    // Freed while the peer's work may use it, it waits for that.
    queue.fill(&mut shown, 3).unwrap();
    drop(shown);
    queue.fence().unwrap().wait(None).unwrap();
    let _bytes = ours.clear();
    assert_eq!(ours.stats().reserved.value, 0);
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}

#[test]
fn other_memory_is_not_reached() {
    let [(_, ours), (second, theirs)] = pair();
    let queue = theirs.create_queue().unwrap();
    let mut hidden = plain(&ours, MIB);
    let request = private(2 * MIB, Export::LegacyIpc);
    let mut exported = ours.allocate_with(&request).unwrap();
    for buffer in [&mut hidden, &mut exported] {
        let error = queue.fill(buffer, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        let text = error.to_string();
        assert!(text.contains("Request::visible_to_peers"), "{text}");
    }
    // A queue of the host says what does reach it.
    let host = Allocator::host().unwrap();
    let (queue, mut local) = (host.create_queue().unwrap(), host.allocate(MIB).unwrap());
    let copied = queue.copy(&hidden, &mut local).map(drop);
    for result in [copied, queue.fill(&mut hidden, 1).map(drop)] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("private memory of fake:discrete:0"), "{text}");
        assert!(text.contains("Runtime::copy"), "{text}");
    }
    let rules: Vec<_> = second.violations().iter().map(|one| one.rule).collect();
    assert_eq!(rules, [Rule::PeerAccess; 2]);
}

#[test]
fn an_address_of_a_device_that_is_not_linked_is_refused() {
    let device = || Arc::new(FakeDiscrete::new().unwrap());
    let (first, second) = (device(), device());
    let (ours, theirs) = (open(first.clone()), open(second.clone()));
    let queue = theirs.create_queue().unwrap();
    // Both devices number their addresses alike.
    let (mut foreign, mut own) = (plain(&ours, MIB), plain(&theirs, MIB));
    let refused = [
        queue.copy(&foreign, &mut own),
        queue.copy(&own, &mut foreign),
        queue.fill(&mut foreign, 1),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}

#[test]
fn memory_can_be_visible_and_exported() {
    let [(first, ours), (_, theirs)] = pair();
    let request = private(2 * MIB, Export::LegacyIpc).visible_to_peers(true);
    let mut buffer = ours.allocate_with(&request).unwrap();
    let queue = theirs.create_queue().unwrap();
    queue.fill(&mut buffer, 4).unwrap().wait(None).unwrap();
    let imported = import(&ours, &export(&buffer).unwrap()).unwrap();
    assert!(holds(&ours, &imported, 4));
    drop(imported);
    let stats = ours.stats();
    assert_eq!(
        stats.segments, 2,
        "the segment, and one to look at contents"
    );
    drop(buffer);
    assert_eq!(first.violations(), []);
}

#[test]
fn a_copier_goes_straight_to_what_is_visible_and_round_by_the_host_otherwise() {
    let [(first, ours), (second, theirs)] = pair();
    let copier = Copier::new().unwrap();
    for bytes in [1000, 3 * MIB] {
        let data: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
        let mut back = vec![0; bytes];
        for (shown, from, to) in [
            (true, &ours, &theirs),
            (true, &theirs, &ours),
            (false, &ours, &theirs),
        ] {
            for target_is_shown in [true, false] {
                let make = |allocator, is_shown| match shown && is_shown {
                    true => visible(allocator, bytes),
                    false => plain(allocator, bytes),
                };
                let mut source = make(from, !target_is_shown);
                let mut target = make(to, target_is_shown);
                copier.copy(&data, &mut source).unwrap();
                let path = copier.copy(&source, &mut target).unwrap().path;
                assert_eq!(
                    path,
                    if shown {
                        CopyPath::Peer
                    } else {
                        CopyPath::Staged
                    }
                );
                copier.copy(&target, &mut back).unwrap();
                assert!(back == data, "{bytes} bytes, {path:?}");
            }
        }
    }
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}
