//! What a copy waits for: work of other pools' queues, and other copies where there is one thread for all.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use weldpool::device::fake::FakeDiscrete;
use weldpool::device::host::HostDevice;
use weldpool::transfer::CopyOptions;
use weldpool::{Allocator, Buffer, Device, Queue};
use weldpool_testkit::{block, in_time};

use super::{KIB, LONG, MIB, copier, private};

/// Long enough for a copy that waits for nothing.
const WHILE: Duration = Duration::from_millis(50);

fn devices() -> [Arc<dyn Device>; 2] {
    [
        Arc::new(HostDevice::new().unwrap()),
        Arc::new(FakeDiscrete::new().unwrap()),
    ]
}

/// What a buffer holds, by a queue of its pool, which waits for its uses.
fn holds(queue: &Queue, buffer: &Buffer, value: u8) -> bool {
    let mut bytes = vec![0_u8; buffer.len()];
    queue.read(buffer, &mut bytes).unwrap();
    bytes.iter().all(|&byte| byte == value)
}

/// Two pools over one device, of which the second's queue works on memory of the first.
#[test]
fn copies_wait_for_queues_of_other_pools() {
    for device in devices() {
        let [ours, theirs] = [(); 2].map(|()| Allocator::builder(device.clone()).build().unwrap());
        let (own, foreign) = (ours.create_queue().unwrap(), theirs.create_queue().unwrap());
        let copier = copier(2);
        for bytes in [16 * KIB, MIB] {
            // Written by the other pool's queue, then read by a copy.
            let mut used = private(&ours, bytes);
            let (open, _) = block(&foreign);
            foreign.fill(&mut used, 6).unwrap();
            let mut host = vec![0_u8; bytes];
            thread::scope(|scope| {
                let copying = scope.spawn(|| copier.copy(&used, &mut host).unwrap());
                thread::sleep(WHILE);
                assert!(!copying.is_finished(), "it has not waited");
                open.send(()).unwrap();
            });
            assert!(host.iter().all(|&byte| byte == 6));

            // Read by the other pool's queue, then written by a copy.
            let (open, _) = block(&foreign);
            let mut taken = private(&theirs, bytes);
            foreign.copy(&used, &mut taken).unwrap();
            let copying = copier.copy_async(vec![7_u8; bytes], used, CopyOptions::new());
            thread::sleep(WHILE);
            assert_eq!(copying.progress().done_bytes, 0);
            open.send(()).unwrap();
            let outcome = copying.wait().unwrap();
            outcome.result.unwrap();
            let used = outcome.destination;
            assert!(holds(&own, &used, 7));
            assert!(holds(&foreign, &taken, 6), "what was there before the copy");

            // A copy under way, then work of both pools' queues.
            let view = used.share();
            let (open, _) = block(&own);
            own.fill(&mut view.clone(), 8).unwrap();
            let copying = copier.copy_async(view.clone(), vec![0_u8; bytes], CopyOptions::new());
            let opener = thread::spawn(move || {
                thread::sleep(WHILE);
                open.send(()).unwrap();
            });
            foreign.fill(&mut view.clone(), 9).unwrap();
            let outcome = copying.wait().unwrap();
            assert!(outcome.destination.iter().all(|&byte| byte == 8));
            opener.join().unwrap();
            foreign.fence().unwrap().wait(Some(LONG)).unwrap();
            let mut back = vec![0_u8; bytes];
            own.read(&view, &mut back).unwrap();
            assert!(back.iter().all(|&byte| byte == 9));
        }
    }
}

/// Three wait for each other, and the first for a queue that the end of the fourth lets go on.
#[test]
fn one_thread_is_enough_for_copies_that_wait_for_each_other() {
    for device in devices() {
        in_time(move || {
            let allocator = Allocator::builder(device).build().unwrap();
            for round in 1..5 {
                copy_through(&allocator, round);
            }
        });
    }
}

fn copy_through(allocator: &Allocator, value: u8) {
    let queue = allocator.create_queue().unwrap();
    let copier = copier(1);
    let mut first = private(allocator, MIB);
    let [second, third] = [(); 2].map(|()| private(allocator, MIB).share());
    let (open, _) = block(&queue);
    queue.fill(&mut first, value).unwrap();
    let whole = CopyOptions::new;
    let to_second = copier.copy_async(first, second.clone(), whole());
    let to_third = copier.copy_async(second, third.clone(), whole());
    let back = copier.copy_async(third, vec![0_u8; MIB], whole());
    let open = Mutex::new(Some(open));
    let opening = whole().progress(move |progress| {
        if progress.done_bytes == progress.total_bytes {
            drop(open.lock().unwrap().take());
        }
    });
    let last = copier.copy_async(vec![1_u8; MIB], private(allocator, MIB), opening);
    // To wait for a copy is to help with it, which this does only at the end.
    while back.progress().done_bytes < MIB {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(copier.stats().threads, 1);
    assert!(last.wait().unwrap().result.is_ok());
    assert!(to_second.wait().unwrap().result.is_ok());
    assert!(to_third.wait().unwrap().result.is_ok());
    let seen = back.wait().unwrap().destination;
    assert!(seen.iter().all(|&byte| byte == value));
}

/// A thread that goes round waits once for all copies that are not ready, not for each.
#[test]
fn copies_that_wait_hold_up_no_other_for_long() {
    const WAITING: usize = 400;
    let allocator = Allocator::builder(Arc::new(FakeDiscrete::new().unwrap()))
        .build()
        .unwrap();
    let queue = allocator.create_queue().unwrap();
    let copier = copier(1);
    let (open, _) = block(&queue);
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut there = private(&allocator, 4 * KIB);
            queue.fill(&mut there, 1).unwrap();
            copier.copy_async(vec![2_u8; 4 * KIB], there, CopyOptions::new())
        })
        .collect();
    let (arrived, has_arrived) = channel();
    let options = CopyOptions::new().progress(move |_| {
        let _sent = arrived.send(());
    });
    let there = private(&allocator, 4 * KIB);
    let _copying = copier.copy_async(vec![3_u8; 4 * KIB], there, options);
    // Twenty milliseconds for each would be eight seconds.
    let within = has_arrived.recv_timeout(Duration::from_secs(4));
    drop(open);
    within.unwrap();
    for copying in waiting {
        copying.wait().unwrap().result.unwrap();
    }
}
