//! The rules of managed storage, of views of peers' memory, and of a virtual machine, each broken once.

#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;

use crate::device::fake::apple::commands::Queue;
use crate::device::fake::apple::encoder::Encoder;
use crate::device::fake::apple::pools::pooled;
use crate::device::fake::{AppleGpu, Buffer, FakeApple, HeapDescriptor, Rule, Step};
use crate::device::metal::raw::{
    BlitEncoder, CommandBuffer, CommandQueue, ComputeEncoder, Encoder as _, Metal as _,
    SharedEvent as _,
};
use crate::device::{HostRange, StorageMode};
use crate::error::ErrorKind;

const PAGE: usize = 4096;

fn intel() -> FakeApple {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    builder.build().unwrap()
}

/// A device of peer group 1, of two.
fn peer(ordinal: u16) -> FakeApple {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete);
    builder.ordinal(ordinal).peer_group(1, 2).build().unwrap()
}

fn buffer(device: &FakeApple, storage: StorageMode) -> Buffer {
    device.metal().new_buffer(PAGE, storage).unwrap()
}

fn queue(device: &FakeApple) -> Queue {
    pooled(|| device.metal().new_command_queue(16).unwrap())
}

/// Commits blits; they are done when the call returns.
fn run(queue: &Queue, encode: impl FnOnce(&Encoder)) {
    let done = commit(queue, encode);
    done();
}

/// Commits blits; waits for them in the function that it gives.
fn commit(queue: &Queue, encode: impl FnOnce(&Encoder)) -> Box<dyn FnOnce()> {
    pooled(|| {
        let commands = queue.command_buffer().unwrap();
        let blit = commands.blit_encoder().unwrap();
        encode(&blit);
        blit.end();
        let event = blit.metal().new_shared_event().unwrap();
        commands.signal(&event, 1);
        commands.commit();
        Box::new(move || assert!(pooled(|| event.wait(1, 60_000))))
    })
}

fn place(buffer: &Buffer, at: usize) -> NonNull<u8> {
    assert!(at < buffer.length());
    // SAFETY: the place is inside the buffer.
    unsafe { buffer.contents().unwrap().add(at) }
}

/// Writes as the host does.
fn write(buffer: &Buffer, range: Range<usize>, value: u8) {
    for at in range {
        // SAFETY: contents are mapped, and no work uses them.
        unsafe { place(buffer, at).write(value) };
    }
}

fn read(buffer: &Buffer, at: usize) -> u8 {
    // SAFETY: as for `write`.
    unsafe { place(buffer, at).read() }
}

/// What the device sees in a buffer.
fn seen(device: &FakeApple, queue: &Queue, buffer: &Buffer, at: usize) -> u8 {
    let shared = self::buffer(device, StorageMode::Shared);
    run(queue, |blit| blit.copy((buffer, at), (&shared, 0), 4));
    read(&shared, 0)
}

fn broken(device: &FakeApple) -> Vec<Rule> {
    let violations = device.violations();
    violations.iter().map(|one| one.rule).collect()
}

#[test]
fn work_sees_what_the_host_wrote_once_it_was_announced() {
    let device = intel();
    let (queue, managed) = (queue(&device), buffer(&device, StorageMode::Managed));
    write(&managed, 0..PAGE, 7);
    assert_ne!(seen(&device, &queue, &managed, 0), 7, "a stale copy");
    assert_eq!(broken(&device), [Rule::ManagedAnnounced]);
    // Of what was announced, and no more.
    managed.did_modify_range(0..64);
    assert_eq!(seen(&device, &queue, &managed, 0), 7);
    assert_eq!(broken(&device).len(), 1);
    assert_ne!(seen(&device, &queue, &managed, 64), 7);
    assert_eq!(broken(&device), [Rule::ManagedAnnounced; 2]);
}

#[test]
fn an_announcement_is_too_late_for_what_was_committed() {
    let builder = FakeApple::builder().gpu(AppleGpu::Discrete).manual(true);
    let device = builder.build().unwrap();
    let (queue, managed) = (queue(&device), buffer(&device, StorageMode::Managed));
    let shared = buffer(&device, StorageMode::Shared);
    let done = commit(&queue, |blit| blit.copy((&managed, 0), (&shared, 0), 4));
    write(&managed, 0..4, 7);
    managed.did_modify_range(0..4);
    assert_eq!(device.step(0), Step::Ran);
    done();
    assert_ne!(read(&shared, 0), 7);
    let done = commit(&queue, |blit| blit.copy((&managed, 0), (&shared, 0), 4));
    assert_eq!(device.step(0), Step::Ran);
    done();
    assert_eq!(read(&shared, 0), 7);
    assert_eq!(broken(&device), []);
}

#[test]
fn the_host_sees_what_work_wrote_once_it_was_synchronised() {
    let device = intel();
    let (queue, managed) = (queue(&device), buffer(&device, StorageMode::Managed));
    run(&queue, |blit| blit.fill(&managed, 0..PAGE, 9));
    assert_eq!(read(&managed, 5), 0, "a stale copy");
    run(&queue, |blit| blit.synchronize(&managed));
    assert_eq!(read(&managed, 5), 9);
    assert_eq!(broken(&device), []);
    // The host would write over what it does not see.
    run(&queue, |blit| blit.fill(&managed, 0..64, 3));
    write(&managed, 32..40, 1);
    managed.did_modify_range(32..40);
    assert_eq!(broken(&device), [Rule::ManagedSynchronized]);
}

/// Why no two buffers of a program lie on one managed buffer of Metal's.
#[test]
fn a_synchronisation_is_of_the_whole_buffer() {
    let device = intel();
    let (queue, managed) = (queue(&device), buffer(&device, StorageMode::Managed));
    write(&managed, 0..PAGE, 1);
    managed.did_modify_range(0..PAGE);
    run(&queue, |blit| {
        blit.fill(&managed, 0..64, 2);
        blit.synchronize(&managed);
    });
    write(&managed, 128..132, 5);
    run(&queue, |blit| {
        blit.fill(&managed, 0..64, 3);
        blit.synchronize(&managed);
    });
    assert_eq!((read(&managed, 0), read(&managed, 128)), (3, 1));
}

#[test]
fn only_managed_storage_is_told_of_changes_and_synchronised() {
    let device = intel();
    let queue = queue(&device);
    for storage in [StorageMode::Shared, StorageMode::Private] {
        let other = buffer(&device, storage);
        other.did_modify_range(0..4);
        run(&queue, |blit| blit.synchronize(&other));
    }
    assert_eq!(broken(&device), [Rule::OnlyManaged; 4]);
    let managed = buffer(&device, StorageMode::Managed);
    managed.did_modify_range(PAGE - 4..PAGE + 4);
    assert_eq!(broken(&device).last(), Some(&Rule::InsideBuffer));
    for storage in [StorageMode::Managed, StorageMode::Shared] {
        let heap = HeapDescriptor {
            bytes: PAGE,
            storage,
        };
        assert!(device.metal().new_heap(&heap).is_err());
        assert_eq!(broken(&device).last(), Some(&Rule::HeapStorage));
    }
    let unified = FakeApple::new().unwrap();
    let error = unified.metal().new_buffer(PAGE, StorageMode::Managed);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidRequest);
    assert_eq!(broken(&unified), [Rule::OnlyManaged]);
}

#[test]
fn buffers_are_bound_where_the_gpu_wants_them() {
    for (gpu, offset, breaks) in [
        (AppleGpu::Discrete, 128, true),
        (AppleGpu::Discrete, 512, false),
        (AppleGpu::Silicon, 128, false),
        (AppleGpu::Silicon, 2, true),
    ] {
        let device = FakeApple::builder().gpu(gpu).build().unwrap();
        let (queue, shared) = (queue(&device), buffer(&device, StorageMode::Shared));
        pooled(|| {
            let commands = queue.command_buffer().unwrap();
            let encoder = commands.compute_encoder().unwrap();
            encoder.set_buffer(&shared, offset, 0);
            encoder.end();
        });
        let rules: &[Rule] = if breaks { &[Rule::BindAlignment] } else { &[] };
        assert_eq!(broken(&device), rules, "{gpu:?} at {offset}");
    }
}

#[test]
fn a_view_of_a_peers_memory_is_that_memory() {
    let (ours, theirs) = (peer(0), peer(1));
    let private = buffer(&ours, StorageMode::Private);
    run(&queue(&ours), |blit| blit.fill(&private, 0..PAGE, 4));
    let held = theirs.metal().current_allocated_size();
    let view = theirs.metal().new_remote_view(&private).unwrap();
    assert_eq!(theirs.metal().current_allocated_size(), held);
    assert_eq!(
        view.remote_storage_buffer().unwrap().resource(),
        private.resource()
    );
    assert_eq!(view.contents(), None);
    assert_eq!(seen(&theirs, &queue(&theirs), &view, 64), 4);
    run(&queue(&ours), |blit| blit.fill(&private, 0..PAGE, 6));
    assert_eq!(seen(&theirs, &queue(&theirs), &view, 64), 6);
    assert_eq!((broken(&ours), broken(&theirs)), (vec![], vec![]));
}

#[test]
fn a_view_is_of_private_memory_of_a_peer() {
    let (ours, theirs, stranger) = (peer(0), peer(1), intel());
    for (device, of, storage) in [
        (&theirs, &ours, StorageMode::Shared),
        (&theirs, &ours, StorageMode::Managed),
        (&stranger, &ours, StorageMode::Private),
        (&stranger, &stranger, StorageMode::Private),
        (&ours, &ours, StorageMode::Private),
    ] {
        let of = buffer(of, storage);
        let error = device.metal().new_remote_view(&of).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!(broken(device).last(), Some(&Rule::RemoteView));
    }
}

#[test]
fn a_view_is_the_source_of_blits_alone() {
    let (ours, theirs) = (peer(0), peer(1));
    let private = buffer(&ours, StorageMode::Private);
    let view = theirs.metal().new_remote_view(&private).unwrap();
    let (queue, local) = (queue(&theirs), buffer(&theirs, StorageMode::Private));
    run(&queue, |blit| blit.copy((&local, 0), (&view, 0), 4));
    run(&queue, |blit| blit.fill(&view, 0..4, 1));
    assert_eq!(broken(&theirs), [Rule::RemoteView; 2]);
    pooled(|| use_in_a_kernel(&theirs, &queue, &view, &local));
    assert_eq!(broken(&theirs), [Rule::RemoteView; 3]);
}

fn use_in_a_kernel(device: &FakeApple, queue: &Queue, from: &Buffer, to: &Buffer) {
    let commands = queue.command_buffer().unwrap();
    let encoder = commands.compute_encoder().unwrap();
    let copy = device.metal().new_pipeline("", "weldpool_copy").unwrap();
    encoder.set_pipeline(&copy);
    encoder.set_buffer(from, 0, 0);
    encoder.set_buffer(to, 0, 1);
    encoder.set_bytes(&[0; 16], 2);
    encoder.dispatch(1);
    encoder.end();
}

#[test]
fn a_virtual_machine_has_no_heaps_and_wraps_whole_pages_alone() {
    let builder = FakeApple::builder().gpu(AppleGpu::Paravirtual);
    let device = builder.build().unwrap();
    let page = pooled(|| device.metal().page_bytes());
    let heap = HeapDescriptor {
        bytes: page,
        storage: StorageMode::Shared,
    };
    assert!(device.metal().new_heap(&heap).is_err());
    assert_eq!(broken(&device), []);
    let mut bytes = vec![0_u8; 16];
    let memory = HostRange {
        address: NonNull::from(bytes.as_mut_slice()).cast(),
        bytes: 16,
        read_only: false,
    };
    let wrapped = pooled(|| {
        device
            .metal()
            .new_buffer_no_copy(memory, Box::new(|| {}))
            .unwrap()
    });
    assert_eq!(wrapped.length(), 0);
    assert_eq!(broken(&device), [Rule::WholePages]);
}
