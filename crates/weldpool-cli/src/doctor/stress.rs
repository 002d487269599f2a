//! Random programs on several threads, each held against a model; at their end everything must have come back.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weldpool::Device;
use weldpool_testkit::alloc_ops;

use super::event::Event;
use crate::output;

const DURATION: Duration = Duration::from_secs(5);
const QUICK: Duration = Duration::from_millis(200);
const THREADS_MAX: usize = 4;
/// How long memory of a fake may take to come back.
const RETURNED_MAX: Duration = Duration::from_secs(10);

/// Runs programs for a while. Each asserts that its allocator holds nothing at its end.
///
/// # Panics
///
/// When one fails; its number is told.
pub(super) fn run(device: &Arc<dyn Device>, quick: bool) {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.clamp(2, THREADS_MAX);
    let end = Instant::now() + if quick { QUICK } else { DURATION };
    let before = device.budget();
    let next = AtomicU64::new(1);
    let work = || {
        while Instant::now() < end {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let program = alloc_ops::random_program(number);
            let run = AssertUnwindSafe(|| alloc_ops::run_on(Arc::clone(device), &program));
            if let Err(panic) = catch_unwind(run) {
                output::note(format_args!("program {number} failed"));
                let message = format!("what follows failed in program {number} of alloc_ops");
                let _lost = Event::Note { message }.tell();
                resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                resume_unwind(panic);
            }
        }
    });
    if let (true, Ok(before)) = (device.properties().kind.is_fake(), before) {
        // Queues that were dropped still do their work, and end then.
        let end = Instant::now() + RETURNED_MAX;
        while device.budget().is_ok_and(|now| now != before) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let now = device.budget();
        assert_eq!(now.ok(), Some(before), "memory of the device was lost");
    }
    let programs = next.into_inner() - 1;
    let message = format!("{programs} programs on {threads} threads, everything came back");
    let _lost = Event::Note { message }.tell();
}
