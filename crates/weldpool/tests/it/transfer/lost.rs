//! A queue of a copy that is lost while the copy runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weldpool::device::fake::{Call, FakeDiscrete};
use weldpool::transfer::{Copied, Copier, CopyOptions, CopyPath};
use weldpool::{Allocator, Buffer, ErrorKind, Result};
use weldpool_testkit::FaultyDevice;

use super::{KIB, MIB, copier, private};

/// A device whose queues are all lost with the next copy, if that was asked for.
struct Losing {
    fake: Arc<FakeDiscrete>,
    allocator: Allocator,
    next: Arc<AtomicBool>,
}

impl Losing {
    fn new() -> Self {
        let fake = Arc::new(FakeDiscrete::new().unwrap());
        let device = Arc::new(FaultyDevice::new(fake.clone()));
        let allocator = Allocator::builder(device.clone()).build().unwrap();
        let next = Arc::new(AtomicBool::new(false));
        let (of_copy, asked) = (fake.clone(), next.clone());
        device.before(Call::Copy, move || {
            if asked.swap(false, Ordering::Relaxed) {
                for queue in of_copy.control().queues() {
                    of_copy.control().lose_queue(queue);
                }
            }
        });
        Self {
            fake,
            allocator,
            next,
        }
    }

    fn queues_made(&self) -> u64 {
        self.fake.control().calls(Call::CreateQueue)
    }
}

/// Copies some way.
type Way = fn(&Copier, &mut [Buffer; 2], &mut Vec<u8>, &CopyOptions) -> Result<Copied>;

const WAYS: [(CopyPath, Way); 3] = [
    (CopyPath::Direct, |copier, [from, to], _, options| {
        copier.copy_with(from, to, options)
    }),
    (CopyPath::Staged, |copier, [_, to], host, options| {
        copier.copy_with(&*host, to, options)
    }),
    (CopyPath::Staged, |copier, [from, _], host, options| {
        copier.copy_with(from, host, options)
    }),
];

#[test]
fn it_serves_no_later_copy() {
    let copier = copier(2);
    // By the caller alone, and in chunks by several threads.
    for (bytes, options) in [
        (16 * KIB, CopyOptions::new()),
        (MIB, CopyOptions::new().progress(|_| ())),
    ] {
        for (number, (path, copy)) in WAYS.into_iter().enumerate() {
            let what = format!("way {number} of {bytes} bytes");
            let losing = Losing::new();
            let mut there = [(); 2].map(|()| private(&losing.allocator, bytes));
            let mut host = vec![5_u8; bytes];
            let mut again = || copy(&copier, &mut there, &mut host, &options);
            assert_eq!(again().unwrap().path, path, "{what}");
            let made = losing.queues_made();
            again().unwrap();
            assert_eq!(losing.queues_made(), made, "{what}: a queue is kept");
            losing.next.store(true, Ordering::Relaxed);
            let error = again().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{what}: {error}");
            for _ in 0..4 {
                let copied = again().map_err(|error| format!("{what}: {error}"));
                assert_eq!(copied.unwrap().bytes, bytes);
            }
            assert_eq!(losing.queues_made(), made + 1, "{what}: one in its place");
            drop(there);
            let _bytes = losing.allocator.clear();
            assert_eq!(losing.allocator.stats().reserved.value, 0, "{what}");
            assert_eq!(losing.fake.violations(), [], "{what}");
        }
    }
}
