//! What holds of a queue's signals in every interleaving.

use crate::model::{check, thread};
use crate::signals::Signals;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, until_some};

/// A stream to which others submit as well: how much was submitted, and how much each signal covers.
#[derive(Debug, Default)]
struct Stream {
    state: Mutex<(u64, Vec<u64>)>,
}

impl Stream {
    fn submit(&self) -> u64 {
        let mut state = self.state.lock();
        state.0 += 1;
        state.0
    }

    fn signal(&self) -> Result<u64, ()> {
        let mut state = self.state.lock();
        let submitted = state.0;
        state.1.push(submitted);
        Ok(state.1.len() as u64)
    }

    /// What is over for certain when the timeline has reached `value`.
    fn covered(&self, value: u64) -> u64 {
        self.state.lock().1[value as usize - 1]
    }
}

#[test]
fn memory_freed_on_a_queue_is_not_passed_by_an_earlier_signal() {
    check(|| {
        let queue = Arc::new((Stream::default(), Signals::default()));
        let other = Arc::clone(&queue);
        let marking = thread::spawn(move || {
            let (stream, signals) = &*other;
            signals.mark(&mut signals.lock(), || stream.signal())
        });
        let (stream, signals) = &*queue;
        // Work that the allocator does not see, and a free in its order.
        let work = stream.submit();
        let point = signals.next();
        marking.join().unwrap().unwrap();
        while signals.last() < point {
            signals
                .mark(&mut signals.lock(), || stream.signal())
                .unwrap();
        }
        assert!(stream.covered(point) >= work, "passed before its work");
    });
}

/// A queue that is full while the function that it is at runs.
#[derive(Debug, Default)]
struct Full {
    signals: Signals,
    signalled: AtomicU64,
    room: AtomicBool,
}

impl Full {
    fn has_room(&self) -> bool {
        self.room.load(Ordering::Acquire)
    }

    fn wait_for_room(&self) {
        until_some(|| self.has_room().then_some(()));
    }

    fn signal(&self) -> Result<u64, ()> {
        Ok(self.signalled.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn mark(&self, last: &mut u64) {
        self.signals.mark(last, || self.signal()).unwrap();
    }
}

#[test]
fn a_function_signals_its_queue_while_others_wait_to_submit() {
    check(|| {
        let queue = Arc::new(Full::default());
        let other = Arc::clone(&queue);
        let function = thread::spawn(move || {
            let point = other.signals.next();
            other.mark(&mut other.signals.lock());
            other.room.store(true, Ordering::Release);
            point
        });
        let room = |wait| -> Result<bool, ()> {
            if wait {
                queue.wait_for_room();
            }
            Ok(queue.has_room())
        };
        let mut last = queue.signals.lock_with(room).unwrap();
        queue.mark(&mut last);
        assert!(*last >= function.join().unwrap());
    });
}

#[test]
fn a_function_frees_on_its_queue_while_the_driver_waits_for_it() {
    check(|| {
        let queue = Arc::new(Full::default());
        let other = Arc::clone(&queue);
        let function = thread::spawn(move || {
            let point = other.signals.next();
            other.room.store(true, Ordering::Release);
            point
        });
        // A driver may wait for room itself, whatever is asked before.
        let mut last = queue.signals.lock();
        let late = || {
            queue.wait_for_room();
            queue.signal()
        };
        queue.signals.mark(&mut last, late).unwrap();
        queue.mark(&mut last);
        assert!(*last >= function.join().unwrap());
    });
}
