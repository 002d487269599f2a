//! Queued work, and when the memory that it uses is free again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use weldpool::{ErrorKind, Request};

use super::{MakeDevice, address, allocator, with_config};
use crate::block;
use crate::foreign::BareBytes;

pub fn freed_memory_waits_for_its_fence(make: MakeDevice) {
    let allocator = allocator(make);
    let (busy, other) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    for bytes in [4096, 300_000] {
        let mut source = allocator.allocate(bytes).unwrap();
        source.write::<u8>().unwrap().fill(3);
        let mut target = allocator.allocate(bytes).unwrap();
        let (open, _) = block(&busy);
        busy.copy(&source, &mut target).unwrap();
        let old = address(&source);
        drop(source);
        assert!(allocator.stats().deferred_bytes >= bytes as u64);
        // Neither the host nor another queue gets the memory that the copy has yet to read.
        let mut host = allocator.allocate(bytes).unwrap();
        assert_ne!(address(&host), old);
        host.write::<u8>().unwrap().fill(0xEE);
        let foreign = allocator
            .allocate_with(&Request::new(bytes).queue(&other))
            .unwrap();
        assert_ne!(address(&foreign), old);
        // The same queue does, at once; the host still has to wait.
        let mut same = allocator
            .allocate_with(&Request::new(bytes).queue(&busy))
            .unwrap();
        assert_eq!(address(&same), old);
        assert_eq!(same.write::<u8>().unwrap_err().kind(), ErrorKind::Busy);
        busy.fill(&mut same, 0xDD).unwrap();
        open.send(()).unwrap();
        target.wait(None).unwrap();
        assert!(
            target.read::<u8>().unwrap().iter().all(|&byte| byte == 3),
            "{bytes} bytes"
        );
        same.wait(None).unwrap();
        drop((same, host, foreign, target));
    }
    assert_eq!(allocator.stats().live.value, 0);
}

pub fn queues_wait_for_each_other(make: MakeDevice) {
    let allocator = allocator(make);
    let (first, second) = (
        allocator.create_queue().unwrap(),
        allocator.create_queue().unwrap(),
    );
    let mut middle = allocator.allocate(1 << 16).unwrap();
    let mut result = allocator.allocate(1 << 16).unwrap();
    let (open, _) = block(&first);
    first.fill(&mut middle, 5).unwrap();
    let copied = second.copy(&middle, &mut result).unwrap();
    let refilled = first.fill(&mut middle, 6).unwrap();
    assert_eq!(
        copied
            .wait(Some(Duration::from_millis(5)))
            .unwrap_err()
            .kind(),
        ErrorKind::Timeout
    );
    open.send(()).unwrap();
    copied.wait(None).unwrap();
    refilled.wait(None).unwrap();
    assert!(result.read::<u8>().unwrap().iter().all(|&byte| byte == 5));
    assert!(middle.read::<u8>().unwrap().iter().all(|&byte| byte == 6));
}

pub fn a_queue_may_be_dropped_before_its_work(make: MakeDevice) {
    let allocator = allocator(make);
    let mut target = allocator.allocate(8192).unwrap();
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let fence = queue.fill(&mut target, 4).unwrap();
    drop(queue);
    open.send(()).unwrap();
    fence.wait(Some(Duration::from_secs(20))).unwrap();
    assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 4));
}

pub fn a_fence_that_never_passes_costs_only_its_memory(make: MakeDevice) {
    // Room for one large and one small segment, whatever they are rounded to.
    let granularity = make().properties().granularity as u64;
    let allocator = with_config(make, |config| {
        config.reserved_bytes_max = Some((4 << 20) + granularity);
        config.wait_max = Duration::from_millis(20);
    });
    let queue = allocator.create_queue().unwrap();
    let (open, _) = block(&queue);
    let mut stuck = allocator.allocate(3 << 20).unwrap();
    queue.fill(&mut stuck, 1).unwrap();
    drop(stuck);
    let error = allocator.allocate(3 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitExceeded);
    drop(allocator.allocate(1 << 16).unwrap());
    open.send(()).unwrap();
    queue.fence().unwrap().wait(None).unwrap();
    drop(allocator.allocate(3 << 20).unwrap());
    assert_eq!(allocator.stats().deferred_bytes, 0);
}

pub fn a_function_frees_on_its_own_queue_while_others_fill_it(make: MakeDevice) {
    const SUBMISSIONS: usize = 3000;
    let (done, over) = channel();
    thread::spawn(move || {
        let allocator = allocator(make);
        let queue = Arc::new(allocator.create_queue().unwrap());
        let [unused, mut used, mut dropped, mut target] =
            [1 << 20, 300_000, 4096, 64].map(|bytes| allocator.allocate(bytes).unwrap());
        for buffer in [&mut used, &mut dropped] {
            queue.fill(buffer, 1).unwrap();
        }
        let submitted = Arc::new(AtomicUsize::new(0));
        let (seen, inside) = (Arc::clone(&submitted), Arc::clone(&queue));
        let called = queue.call(move || {
            // Until nothing more fits in.
            let mut before = usize::MAX;
            loop {
                let now = seen.load(Ordering::Relaxed);
                if now == before {
                    break;
                }
                before = now;
                thread::sleep(Duration::from_millis(200));
            }
            unused.free_on(&inside);
            used.free_on(&inside);
            drop(dropped);
        });
        for _ in 0..SUBMISSIONS {
            queue.fill(&mut target, 2).unwrap();
            submitted.fetch_add(1, Ordering::Relaxed);
        }
        called.unwrap().wait(None).unwrap();
        queue.fence().unwrap().wait(None).unwrap();
        assert!(target.read::<u8>().unwrap().iter().all(|&byte| byte == 2));
        drop(target);
        assert_eq!(allocator.stats().live.value, 0);
        done.send(()).unwrap();
    });
    let ended = over.recv_timeout(Duration::from_secs(60));
    ended.expect("the function and the submissions end");
}

pub fn functions_see_what_came_before_and_work_sees_what_they_wrote(make: MakeDevice) {
    const BYTES: usize = 300_000;
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let [mut between, mut target] = [(); 2].map(|()| allocator.allocate(BYTES).unwrap());
    let (report, reported) = channel();
    // All of it is submitted before any of it has run: the copies are committed before the functions write.
    let (open, _) = block(&queue);
    let mut copied = Vec::new();
    for round in 1..=4_u8 {
        queue.fill(&mut between, round).unwrap();
        let (mut bytes, report) = (BareBytes::of(&between).unwrap(), report.clone());
        let called = queue.call(move || {
            let contents = bytes.contents();
            let as_filled = contents.iter().all(|&byte| byte == round);
            contents.fill(round + 100);
            report.send(as_filled).unwrap();
        });
        called.unwrap();
        queue.copy(&between, &mut target).unwrap();
        let mut kept = allocator.allocate(BYTES).unwrap();
        queue.copy(&target, &mut kept).unwrap();
        copied.push((round, kept));
    }
    open.send(()).unwrap();
    queue.fence().unwrap().wait(None).unwrap();
    drop(report);
    assert!(reported.iter().eq([true; 4]));
    for (round, kept) in copied {
        let kept = kept.read::<u8>().unwrap();
        assert!(kept.iter().all(|&byte| byte == round + 100), "{round}");
    }
}

pub fn copies_check_length_and_overlap(make: MakeDevice) {
    let allocator = allocator(make);
    let queue = allocator.create_queue().unwrap();
    let long = allocator.allocate(100).unwrap();
    let mut short = allocator.allocate(99).unwrap();
    assert_eq!(
        queue.copy(&long, &mut short).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let whole = long.share();
    let mut late = whole.slice(40..100).unwrap();
    let early = whole.slice(0..60).unwrap();
    assert_eq!(
        queue.copy(&early, &mut late).unwrap_err().kind(),
        ErrorKind::InvalidRequest
    );
    let guard = whole.read::<u8>().unwrap();
    let first = whole.slice(0..40).unwrap();
    assert_eq!(
        queue.copy(&first, &mut late).unwrap_err().kind(),
        ErrorKind::Busy
    );
    drop(guard);
    first.write::<u8>().unwrap().fill(8);
    queue.copy(&first, &mut late).unwrap().wait(None).unwrap();
    assert_eq!(late.read::<u8>().unwrap()[..40], [8; 40]);
    queue.copy(&first, &mut short).unwrap().wait(None).unwrap();
    assert_eq!(short.read::<u8>().unwrap()[..40], [8; 40]);
}
