//! Two GPUs of a Mac that are connected to each other.

use std::sync::Arc;

use weldpool::device::fake::{AppleGpu, FakeApple, FakeAppleBuilder, Step};
use weldpool::transfer::{Copier, CopyPath};
use weldpool::{Allocator, Buffer, Device, ErrorKind, Export, Request, StorageMode};

const MIB: usize = 1 << 20;

fn builder(ordinal: u16) -> FakeAppleBuilder {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    builder.ordinal(ordinal).peer_group(0xF00D, 2)
}

fn opened(builder: FakeAppleBuilder) -> (Arc<FakeApple>, Allocator) {
    let device = Arc::new(builder.build().unwrap());
    let allocator = Allocator::builder(device.clone()).build().unwrap();
    (device, allocator)
}

fn pair() -> [(Arc<FakeApple>, Allocator); 2] {
    [0, 1].map(|ordinal| opened(builder(ordinal)))
}

fn private(allocator: &Allocator, bytes: usize, visible: bool) -> Buffer {
    let request = Request::new(bytes).storage(StorageMode::Private);
    allocator
        .allocate_with(&request.visible_to_peers(visible))
        .unwrap()
}

fn contents(allocator: &Allocator, buffer: &Buffer) -> Vec<u8> {
    let queue = allocator.create_queue().unwrap();
    let mut seen = allocator.allocate(buffer.len()).unwrap();
    queue.copy(buffer, &mut seen).unwrap().wait(None).unwrap();
    seen.read::<u8>().unwrap().to_vec()
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[test]
fn peers_are_those_of_the_group() {
    let [(first, ours), (second, _)] = pair();
    let peers = |device: &FakeApple| Device::properties(device).peers.clone();
    assert_eq!((peers(&first), peers(&second)), (vec![1], vec![0]));
    assert!(peers(&FakeApple::new().unwrap()).is_empty());
    for wrong in [builder(2), builder(0).peer_group(0, 2)] {
        let error = wrong.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    }
    // Memory of other kinds, or for other processes, cannot be shown; nor where there is no peer.
    let shared = Request::new(100).visible_to_peers(true);
    let exported = Request::new(100)
        .storage(StorageMode::Private)
        .visible_to_peers(true)
        .exportable(Export::FileDescriptor);
    let (_, alone) = opened(FakeApple::builder().gpu(AppleGpu::Discrete));
    let nobody = Request::new(100)
        .storage(StorageMode::Private)
        .visible_to_peers(true);
    for (allocator, request) in [(&ours, shared), (&ours, exported), (&alone, nobody)] {
        let error = allocator.allocate_with(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn queues_read_what_is_visible() {
    let [(first, ours), (second, theirs)] = pair();
    let copier = Copier::new().unwrap();
    let mut shown = private(&ours, 3 * MIB, true);
    let data = pattern(3 * MIB);
    copier.copy(&data, &mut shown).unwrap();
    let queue = theirs.create_queue().unwrap();
    let mut local = private(&theirs, 3 * MIB, false);
    queue.copy(&shown, &mut local).unwrap().wait(None).unwrap();
    assert!(contents(&theirs, &local) == data);
    // Into shared memory, which the host reads.
    let mut shared = theirs.allocate(3 * MIB).unwrap();
    queue.copy(&shown, &mut shared).unwrap().wait(None).unwrap();
    assert!(*shared.read::<u8>().unwrap() == data[..]);
    // Freed while the peer's work may use it, it waits for that.
    queue.copy(&shown, &mut local).unwrap();
    drop(shown);
    queue.fence().unwrap().wait(None).unwrap();
    let _bytes = ours.clear();
    assert_eq!(ours.stats().live.value, 0);
    assert!(contents(&theirs, &local) == data);
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}

/// A view is read by blits alone, which want multiples of four.
#[test]
fn bytes_at_any_place_are_read() {
    let [(first, ours), (second, theirs)] = pair();
    let copier = Copier::new().unwrap();
    let bytes = 5 * MIB + 77;
    let data = pattern(bytes);
    let mut shown = private(&ours, bytes, true);
    copier.copy(&data, &mut shown).unwrap();
    let shown = shown.share();
    let target = theirs.allocate(bytes + 8).unwrap().share();
    let queue = theirs.create_queue().unwrap();
    for (from, to, length) in [
        (0, 1, 4),
        (3, 3, 100),
        (3, 4, 1),
        (1, 2, bytes - 1),
        (bytes - 3, 0, 3),
    ] {
        target.write::<u8>().unwrap().fill(0xAA);
        let source = shown.slice(from..from + length).unwrap();
        let mut place = target.slice(to..to + length).unwrap();
        queue.copy(&source, &mut place).unwrap().wait(None).unwrap();
        let contents = target.read::<u8>().unwrap();
        assert!(
            contents[to..to + length] == data[from..from + length],
            "{from} {to} {length}"
        );
        let around = contents[..to].iter().chain(&contents[to + length..]);
        assert!(
            around.into_iter().all(|&byte| byte == 0xAA),
            "{from} {to} {length}"
        );
    }
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}

#[test]
fn other_memory_is_not_reached_and_none_is_written() {
    let [(first, ours), (second, theirs)] = pair();
    let queue = theirs.create_queue().unwrap();
    let mut local = private(&theirs, MIB, false);
    let (mut hidden, mut shown) = (private(&ours, MIB, false), private(&ours, MIB, true));
    for refused in [
        queue.copy(&hidden, &mut local),
        queue.copy(&local, &mut hidden),
        queue.copy(&local, &mut shown),
        queue.fill(&mut shown, 1),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    // Nor by a device outside the group.
    let (stranger, strangers) = opened(FakeApple::builder().gpu(AppleGpu::Discrete).ordinal(1));
    let queue = strangers.create_queue().unwrap();
    let mut local = private(&strangers, MIB, false);
    let error = queue.copy(&shown, &mut local).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    for device in [first, second] {
        assert_eq!(device.violations(), []);
    }
    drop(stranger);
}

#[test]
fn a_copier_goes_straight_from_what_is_visible_and_round_by_the_host_otherwise() {
    let [(first, ours), (second, theirs)] = pair();
    let copier = Copier::new().unwrap();
    for bytes in [1001, 3 * MIB] {
        let data = pattern(bytes);
        let mut back = vec![0; bytes];
        for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
            for (from_shown, to_shown, path) in [
                (true, false, CopyPath::Peer),
                (true, true, CopyPath::Peer),
                (false, true, CopyPath::Staged),
                (false, false, CopyPath::Staged),
            ] {
                let mut source = private(from, bytes, from_shown);
                let mut target = private(to, bytes, to_shown);
                copier.copy(&data, &mut source).unwrap();
                let copied = copier.copy(&source, &mut target).unwrap();
                assert_eq!(copied.path, path, "{from_shown} {to_shown}");
                copier.copy(&target, &mut back).unwrap();
                assert!(back == data, "{bytes} bytes, {path:?}");
            }
        }
    }
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
}

/// A shared event orders work of several devices (documentation of `MTLSharedEvent`), so nobody waits on the host.
#[test]
fn devices_wait_for_each_other_by_themselves() {
    let [(first, ours), (second, theirs)] =
        [0, 1].map(|ordinal| opened(builder(ordinal).manual(true)));
    let (filling, copying) = (ours.create_queue().unwrap(), theirs.create_queue().unwrap());
    let mut shown = private(&ours, MIB, true);
    let mut local = theirs.allocate(MIB).unwrap();
    let filled = filling.fill(&mut shown, 5).unwrap();
    // It returns, though the other queue stands still.
    let copied = copying.copy(&shown, &mut local).unwrap();
    while second.step(0) == Step::Ran {}
    assert_eq!(second.step(0), Step::Waiting);
    assert!(!copied.is_complete().unwrap());
    while first.step(0) == Step::Ran {}
    assert!(filled.is_complete().unwrap());
    while second.step(0) == Step::Ran {}
    assert!(copied.is_complete().unwrap());
    assert!(local.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
    assert_eq!((first.violations(), second.violations()), (vec![], vec![]));
    // What the end submits is done too: work that nobody steps keeps what it uses.
    drop((copied, copying, local, filled, filling, shown, ours, theirs));
    while first.control().run_all() + second.control().run_all() > 0 {}
}
