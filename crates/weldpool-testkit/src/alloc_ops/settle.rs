//! The end of all work, and of everything.

use std::time::Duration;

use weldpool::{ErrorKind, StorageMode};

use super::machine::Machine;
use super::slot::Slot;

/// Times that everything is asked for at the end; the host's queues go on by themselves.
const CLEARS_MAX: usize = 1000;

impl Machine {
    /// Lets all work that was submitted end, after which no buffer is in use.
    pub(super) fn settle(&mut self) {
        let faults = std::mem::replace(&mut self.faults, false);
        if faults {
            self.target.device.clear_faults();
        }
        // A queue with no room for a fence gets it once it has gone on.
        for _ in 0..2 {
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            let mut fences = Vec::new();
            for stream in &self.streams {
                match stream.queue.fence() {
                    Ok(fence) => fences.push((fence, stream.lost)),
                    Err(error) => assert!(stream.lost, "a queue cannot be marked: {error}"),
                }
            }
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            for (fence, lost) in fences {
                let waited = fence.wait(Some(Duration::from_secs(5)));
                assert!(waited.is_ok() || lost, "a queue does not go on: {waited:?}");
            }
        }
        // Queues that were dropped are marked, at the latest, when memory is asked back.
        let in_use = |slot: &Slot| slot.wait(Duration::ZERO).is_err();
        if self.slots.iter().any(in_use) {
            let _bytes = self.allocator.clear();
            if let Some(control) = self.target.control() {
                control.run_all();
            }
        }
        for slot in &mut self.slots {
            slot.queues.clear();
            slot.foreign = None;
            // The work of a lost queue is over, though it never ended.
            let waited = slot
                .wait(Duration::from_secs(5))
                .map_err(|error| error.kind());
            assert!(
                matches!(waited, Ok(()) | Err(ErrorKind::DeviceLost)),
                "work does not end: {waited:?}"
            );
            if slot.storage != StorageMode::Private {
                match slot.read() {
                    Ok(contents) => slot.check(&contents),
                    Err(error) => panic!("no work is left, but {error}"),
                }
            }
        }
    }

    /// Frees everything and asserts that nothing is left.
    pub(super) fn finish(mut self) {
        self.settle();
        self.check();
        while !self.slots.is_empty() {
            drop(self.remove(0));
        }
        self.settle();
        self.streams.clear();
        // A round may mark the ends of queues that only then go on, or unmap what the next one returns.
        for _ in 0..CLEARS_MAX {
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            let _bytes = self.allocator.clear();
            if self.allocator.stats().reserved.value == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.check();
        let stats = self.allocator.stats();
        assert_eq!(stats.reserved.value, 0, "bytes held at the end: {stats}");
        let Self {
            allocator, target, ..
        } = self;
        drop(allocator);
        target.check_end();
    }
}
