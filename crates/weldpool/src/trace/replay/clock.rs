//! The trace's own clock, and queues whose work it drives.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use crate::device::{DeviceQueue, Location, Timeline};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

thread_local! {
    /// The time of this thread's lane, where a replay has several.
    static LANE_US: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Trace time in microseconds. It follows the events, and jumps ahead when somebody waits.
///
/// The lanes of a replay on several threads run ahead of each other, so each has a time of its own:
/// whether work is done is asked at the time of the event that asks. Other threads see the time of
/// the lane that is furthest.
#[derive(Debug)]
pub(super) struct TraceClock {
    furthest_us: AtomicU64,
    latency_us: u64,
    stalls: AtomicU64,
    stalled_us: AtomicU64,
    timelines: Mutex<Vec<Arc<TraceTimeline>>>,
}

impl TraceClock {
    /// A clock at zero, for queues whose work is done `latency_us` after it was submitted.
    pub(super) fn new(latency_us: u64) -> Self {
        Self {
            furthest_us: AtomicU64::new(0),
            latency_us,
            stalls: AtomicU64::new(0),
            stalled_us: AtomicU64::new(0),
            timelines: Mutex::new(Vec::new()),
        }
    }

    /// Gives this thread, which ends with the replay, a time of its own.
    pub(super) fn begin_lane() {
        LANE_US.set(Some(0));
    }

    pub(super) fn now_us(&self) -> u64 {
        // Also asked by threads whose locals are gone.
        match LANE_US.try_with(Cell::get) {
            Ok(Some(lane_us)) => lane_us,
            _ => self.furthest_us.load(Ordering::Acquire),
        }
    }

    /// Goes on to `time_us`, never back.
    pub(super) fn advance(&self, time_us: u64) {
        if let Some(lane_us) = LANE_US.get() {
            LANE_US.set(Some(lane_us.max(time_us)));
        }
        if self.furthest_us.load(Ordering::Relaxed) < time_us {
            self.furthest_us.fetch_max(time_us, Ordering::AcqRel);
        }
    }

    /// Waits that moved the clock.
    pub(super) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// Trace time that went by in waits, in microseconds.
    pub(super) fn stalled_us(&self) -> u64 {
        self.stalled_us.load(Ordering::Relaxed)
    }

    pub(super) fn create_queue(self: &Arc<Self>) -> Arc<dyn DeviceQueue> {
        let ours = Arc::new(TraceTimeline {
            clock: Arc::clone(self),
            completed: AtomicU64::new(0),
            next_due_us: AtomicU64::new(u64::MAX),
            marks: Mutex::new(Marks::default()),
        });
        self.timelines.lock().push(Arc::clone(&ours));
        Arc::new(TraceQueue {
            timeline: Arc::clone(&ours) as Arc<dyn Timeline>,
            ours,
        })
    }

    /// Ends the replay: all work is done, and the timelines forget each other.
    pub(super) fn end(&self) {
        self.advance(u64::MAX);
        self.timelines.lock().clear();
    }

    /// When `timeline`, if it is one of ours, passes `value`.
    fn due_us(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Option<u64> {
        let timelines = self.timelines.lock();
        let other = timelines
            .iter()
            .find(|one| std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(timeline)))?;
        Some(other.due_us(value))
    }
}

/// A stream of the trace. No work is ever submitted to it, only points are marked.
#[derive(Debug)]
struct TraceQueue {
    ours: Arc<TraceTimeline>,
    timeline: Arc<dyn Timeline>,
}

#[derive(Debug)]
struct TraceTimeline {
    clock: Arc<TraceClock>,
    completed: AtomicU64,
    /// When the first mark that is not counted in `completed` passes; lets most questions do
    /// without the lock.
    next_due_us: AtomicU64,
    marks: Mutex<Marks>,
}

/// Signals that have not been seen to pass.
#[derive(Debug, Default)]
struct Marks {
    /// Value and time, both ascending. Signals that pass together are one mark.
    waiting: VecDeque<(u64, u64)>,
    signalled: u64,
    /// Later work waits for another queue until then.
    not_before_us: u64,
}

fn no_work() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "a queue of a replayed trace runs no work",
    )
}

// SAFETY: no work can be submitted, so every value may count as passed at any time.
unsafe impl DeviceQueue for TraceQueue {
    unsafe fn copy(&self, _: Location, _: Location, _: usize) -> Result<()> {
        Err(no_work())
    }

    unsafe fn fill(&self, _: Location, _: usize, _: u8) -> Result<()> {
        Err(no_work())
    }

    fn call(&self, _: Box<dyn FnOnce() + Send>) -> Result<()> {
        Err(no_work())
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        let Some(due_us) = self.ours.clock.due_us(timeline, value) else {
            // Another device's queue has no trace time; its work is over before ours goes on.
            return timeline.wait(value, None).map(drop);
        };
        let mut marks = self.ours.marks.lock();
        marks.not_before_us = marks.not_before_us.max(due_us);
        Ok(())
    }

    fn signal(&self) -> Result<u64> {
        let clock = &self.ours.clock;
        let mut marks = self.ours.marks.lock();
        marks.signalled += 1;
        let value = marks.signalled;
        let done_us = clock.now_us().saturating_add(clock.latency_us);
        let due_us = done_us.max(marks.not_before_us);
        match marks.waiting.back_mut() {
            // Work runs in order, so a later signal never passes before an earlier one.
            Some((last, last_due_us)) if *last_due_us >= due_us => *last = value,
            _ => marks.waiting.push_back((value, due_us)),
        }
        if marks.waiting.len() == 1 {
            self.ours.next_due_us.store(due_us, Ordering::Release);
        }
        Ok(value)
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}

impl TraceTimeline {
    /// When `value` passes; 0 when it has.
    fn due_us(&self, value: u64) -> u64 {
        if self.completed.load(Ordering::Acquire) >= value {
            return 0;
        }
        let marks = self.marks.lock();
        let waiting = marks.waiting.iter().find(|(last, _)| *last >= value);
        match waiting {
            Some((_, due_us)) => *due_us,
            None if value <= marks.signalled => 0,
            None => u64::MAX,
        }
    }
}

impl Timeline for TraceTimeline {
    fn completed(&self) -> Result<u64> {
        let now_us = self.clock.now_us();
        if now_us < self.next_due_us.load(Ordering::Acquire) {
            return Ok(self.completed.load(Ordering::Acquire));
        }
        let mut marks = self.marks.lock();
        while let Some((value, due_us)) = marks.waiting.front().copied() {
            if due_us > now_us {
                break;
            }
            marks.waiting.pop_front();
            self.completed.store(value, Ordering::Release);
        }
        let next_due_us = marks
            .waiting
            .front()
            .map_or(u64::MAX, |(_, due_us)| *due_us);
        self.next_due_us.store(next_due_us, Ordering::Release);
        Ok(self.completed.load(Ordering::Acquire))
    }

    /// Nobody else moves the clock while a replay waits, so waiting is moving it.
    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        if self.completed()? >= value {
            return Ok(true);
        }
        let due_us = self.due_us(value);
        let patience_us = timeout.map_or(u64::MAX, |timeout| {
            u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)
        });
        let until_us = due_us.min(self.clock.now_us().saturating_add(patience_us));
        if until_us == u64::MAX {
            // Never signalled: no time will pass it.
            return Ok(false);
        }
        if until_us > self.clock.now_us() {
            self.clock.stalls.fetch_add(1, Ordering::Relaxed);
            let stalled_us = until_us - self.clock.now_us();
            self.clock
                .stalled_us
                .fetch_add(stalled_us, Ordering::Relaxed);
            self.clock.advance(until_us);
        }
        Ok(self.completed()? >= value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock whose timelines forget each other, as at the end of a replay.
    struct Ended(Arc<TraceClock>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.end();
        }
    }

    impl std::ops::Deref for Ended {
        type Target = Arc<TraceClock>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    fn clock() -> Ended {
        Ended(Arc::new(TraceClock::new(1000)))
    }

    #[test]
    fn signals_pass_with_trace_time() {
        let clock = clock();
        let queue = clock.create_queue();
        let first = queue.signal().unwrap();
        let same = queue.signal().unwrap();
        clock.advance(400);
        let second = queue.signal().unwrap();
        assert!(first < same && same < second);
        for (time_us, passed) in [(999, 0), (1000, same), (1399, same), (1400, second)] {
            clock.advance(time_us);
            assert_eq!(queue.timeline().completed().unwrap(), passed, "{time_us}");
        }
        clock.advance(3);
        assert_eq!(clock.now_us(), 1400, "time does not go back");
    }

    #[test]
    fn a_wait_moves_the_clock_as_far_as_its_patience_and_counts() {
        let clock = clock();
        let queue = clock.create_queue();
        let value = queue.signal().unwrap();
        let timeline = queue.timeline();
        assert!(!timeline.wait(value, Some(Duration::ZERO)).unwrap());
        assert_eq!((clock.now_us(), clock.stalls()), (0, 0));
        assert!(
            !timeline
                .wait(value, Some(Duration::from_micros(10)))
                .unwrap()
        );
        assert_eq!((clock.now_us(), clock.stalls()), (10, 1));
        assert!(timeline.wait(value, None).unwrap());
        assert_eq!((clock.now_us(), clock.stalls()), (1000, 2));
        assert!(timeline.wait(value, None).unwrap());
        assert_eq!(clock.stalls(), 2, "what has passed is not waited for");
        assert!(!timeline.wait(value + 1, None).unwrap(), "never signalled");
    }

    #[test]
    fn lanes_have_times_of_their_own() {
        let clock = clock();
        let queue = clock.create_queue();
        std::thread::scope(|scope| {
            let lane = scope.spawn(|| {
                TraceClock::begin_lane();
                clock.advance(10);
                let value = queue.signal().unwrap();
                clock.advance(900);
                (value, queue.timeline().completed().unwrap())
            });
            let (value, completed) = lane.join().unwrap();
            assert_eq!(completed, 0, "900 us are not 1010");
            clock.advance(1010);
            assert_eq!(queue.timeline().completed().unwrap(), value);
            let late = scope.spawn(|| {
                TraceClock::begin_lane();
                clock.advance(20);
                clock.now_us()
            });
            assert_eq!(late.join().unwrap(), 20, "another lane is at 1010");
        });
    }

    #[test]
    fn a_queue_waits_for_another() {
        let clock = clock();
        let (slow, fast) = (clock.create_queue(), clock.create_queue());
        clock.advance(5000);
        let far = slow.signal().unwrap();
        let before = fast.signal().unwrap();
        slow.wait_for(fast.timeline(), before).unwrap();
        clock.advance(5500);
        let later = slow.signal().unwrap();
        fast.wait_for(slow.timeline(), later).unwrap();
        clock.advance(5600);
        let after = fast.signal().unwrap();
        // As fast as its own latency allows, since what it waits for passes before.
        clock.advance(6500);
        assert_eq!(slow.timeline().completed().unwrap(), later);
        assert!(far < later);
        assert_eq!(fast.timeline().completed().unwrap(), before);
        clock.advance(6600);
        assert_eq!(fast.timeline().completed().unwrap(), after);
    }

    #[test]
    fn waiting_for_work_that_ends_later_delays_what_follows() {
        let clock = clock();
        let (a, b) = (clock.create_queue(), clock.create_queue());
        let first = a.signal().unwrap(); // passes at 1000
        b.wait_for(a.timeline(), first).unwrap();
        let chained = b.signal().unwrap(); // at 1000
        clock.advance(500);
        let own = a.signal().unwrap(); // at 1500
        b.wait_for(a.timeline(), own).unwrap();
        let behind = b.signal().unwrap(); // at 1500
        clock.advance(1499);
        assert_eq!(b.timeline().completed().unwrap(), chained);
        clock.advance(1500);
        assert_eq!(b.timeline().completed().unwrap(), behind);
    }
}
