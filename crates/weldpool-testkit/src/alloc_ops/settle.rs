//! The end of all work, and of everything.

use std::time::Duration;

use weldpool::{ErrorKind, Stats, StorageMode};

use super::machine::{Machine, Stream};
use super::slot::{Memory, Slot};
use super::target::Target;

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

    /// Ends everything, in one of the orders in which a program may, and asserts that nothing is left.
    pub(super) fn finish(mut self, ending: u8) {
        self.settle();
        self.check();
        match ending % 4 {
            1 => self.close_before_buffers(),
            2 => self.close_before_queues(),
            _ => self.close_last(),
        }
    }

    /// Drops the allocator, then the buffers, then the queues.
    fn close_before_buffers(self) {
        self.give_back(|stats| stats.deferred_bytes == 0);
        let Self {
            slots,
            streams,
            allocator,
            target,
            ..
        } = self;
        drop(allocator);
        drop(slots);
        check_returned(&target, streams);
    }

    /// Frees everything in the order of queues, then drops the allocator, then the queues.
    fn close_before_queues(mut self) {
        while !self.slots.is_empty() {
            let slot = self.remove(0);
            let stream = self.streams.iter().find(|stream| !stream.lost);
            match (slot.memory, stream) {
                (Memory::Own(buffer), Some(stream)) => buffer.free_on(&stream.queue),
                (memory, _) => drop(memory),
            }
        }
        self.settle();
        self.give_back(|stats| stats.deferred_bytes == 0);
        self.check();
        let Self {
            streams,
            allocator,
            target,
            ..
        } = self;
        drop(allocator);
        check_returned(&target, streams);
    }

    /// Frees everything, then ends the queues, and then the allocator.
    fn close_last(mut self) {
        while !self.slots.is_empty() {
            drop(self.remove(0));
        }
        self.settle();
        self.streams.clear();
        self.give_back(|stats| stats.reserved.value == 0);
        self.check();
        let stats = self.allocator.stats();
        assert_eq!(stats.reserved.value, 0, "bytes held at the end: {stats}");
        let Self {
            allocator, target, ..
        } = self;
        drop(allocator);
        target.check_end();
    }

    /// Asks everything idle back until that is done. A round may mark the ends of queues that only then go on,
    /// or unmap what the next one returns.
    fn give_back(&self, done: impl Fn(&Stats) -> bool) {
        for _ in 0..CLEARS_MAX {
            if let Some(control) = self.target.control() {
                control.run_all();
            }
            let _bytes = self.allocator.clear();
            if done(&self.allocator.stats()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Asserts that nothing is held though queues of the closed allocator are there, which still can be marked.
fn check_returned(target: &Target, streams: Vec<Stream>) {
    target.check_returned();
    for stream in streams {
        let marked = stream.queue.fence();
        assert!(marked.is_ok() || stream.lost, "{marked:?}");
    }
    if let Some(control) = target.control() {
        control.run_all();
    }
    target.check_end();
}
