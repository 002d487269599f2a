//! Copies in functions that queues call, of a device whose driver must not be called from there.

use std::sync::Arc;
use std::sync::mpsc::channel;

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::transfer::CopyOptions;
use weldpool::{Allocator, ErrorKind, Queue};
use weldpool_testkit::{FaultyDevice, in_time};

use super::{KIB, MIB, copier, private, receive};

fn apart() -> (Arc<FakeDiscrete>, Allocator) {
    let fake = Arc::new(FakeDiscrete::new().unwrap());
    let device = FaultyDevice::new(fake.clone()).without_calls_from_functions();
    let allocator = Allocator::builder(Arc::new(device)).build().unwrap();
    (fake, allocator)
}

/// What a function says that the queue calls.
fn inside<T: Send + 'static>(queue: &Queue, function: impl FnOnce() -> T + Send + 'static) -> T {
    let (say, said) = channel();
    queue.call(move || say.send(function()).unwrap()).unwrap();
    receive(&said, "the function ends")
}

#[test]
fn a_copy_is_refused_before_anything_is_submitted() {
    in_time(refused_before_anything_is_submitted);
}

fn refused_before_anything_is_submitted() {
    for bytes in [16 * KIB, 192 * KIB, MIB] {
        for options in [CopyOptions::new(), CopyOptions::new().progress(|_| ())] {
            let (fake, allocator) = apart();
            let queue = allocator.create_queue().unwrap();
            let copier = Arc::new(copier(2));
            let [from, mut to] = [(); 2].map(|()| private(&allocator, bytes));
            let mut host = vec![5_u8; bytes];
            // So that there are idle queues.
            copier.copy(&host, &mut to).unwrap();
            copier.copy(&from, &mut to).unwrap();
            let submitted = fake.control().calls(Call::Copy);
            let used = Arc::clone(&copier);
            let refused = options.clone();
            let (errors, from, mut to, mut host) = inside(&queue, move || {
                let errors = [
                    used.copy_with(&from, &mut to, &refused),
                    used.copy_with(&host, &mut to, &refused),
                    used.copy_with(&to, &mut host, &refused),
                ];
                let errors = errors.map(|copied| copied.err().map(|error| error.kind()));
                (errors, from, to, host)
            });
            assert_eq!(errors, [Some(ErrorKind::Busy); 3], "{bytes} bytes");
            assert_eq!(fake.control().calls(Call::Copy), submitted);
            // The queue goes on, and so do copies.
            queue.fence().unwrap().wait(None).unwrap();
            let made = fake.control().calls(Call::CreateQueue);
            copier.copy_with(&host, &mut to, &options).unwrap();
            copier.copy_with(&from, &mut to, &options).unwrap();
            copier.copy_with(&to, &mut host, &options).unwrap();
            assert_eq!(
                fake.control().calls(Call::CreateQueue),
                made,
                "they are kept"
            );
        }
    }
}

#[test]
fn whoever_waits_there_for_a_copy_does_not_help() {
    in_time(waits_there_for_a_copy);
}

fn waits_there_for_a_copy() {
    let (_, allocator) = apart();
    let queue = allocator.create_queue().unwrap();
    let copier = copier(1);
    let (reached, is_reached) = channel();
    let options = CopyOptions::new().progress(move |_| {
        let _sent = reached.send(());
        std::thread::sleep(std::time::Duration::from_millis(1));
    });
    let copying = copier.copy_async(vec![7_u8; MIB], private(&allocator, MIB), options);
    receive(&is_reached, "the copy begins");
    let outcome = inside(&queue, move || copying.wait().unwrap());
    assert_eq!(outcome.result.unwrap().bytes, MIB);
    let mut back = vec![0_u8; MIB];
    copier.copy(&outcome.destination, &mut back).unwrap();
    assert!(back.iter().all(|&byte| byte == 7));
}

#[test]
fn copies_are_given_up_there() {
    in_time(given_up_there);
}

fn given_up_there() {
    let (_, allocator) = apart();
    let queue = allocator.create_queue().unwrap();
    let copier = copier(2);
    for round in 0..100 {
        let (reached, is_reached) = channel();
        let options = CopyOptions::new().progress(move |_| {
            let _sent = reached.send(());
        });
        let copying = copier.copy_async(vec![7_u8; MIB], private(&allocator, MIB), options);
        if round % 2 == 0 {
            receive(&is_reached, "the copy begins");
        }
        // Dropped there, or cancelled there and seen to its end.
        let cancelled = inside(&queue, move || {
            if round % 4 < 2 {
                return None;
            }
            copying.cancel();
            Some(copying)
        });
        if let Some(copying) = cancelled {
            let outcome = copying.wait().unwrap();
            let kind = outcome.result.err().map(|error| error.kind());
            assert!(
                kind.is_none_or(|kind| kind == ErrorKind::Cancelled),
                "{kind:?}"
            );
        }
    }
    drop(copier);
    queue.fence().unwrap().wait(None).unwrap();
    assert_eq!(allocator.stats().live.value, 0);
}
