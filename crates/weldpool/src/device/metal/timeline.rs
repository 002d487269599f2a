//! How far a queue has come: what became of its command buffers, and a shared event for others to wait by.
//!
//! A failed command buffer tells of it by its handler alone, and those behind it may run and signal all the same. So a point
//! is reached when every command buffer up to its own has ended well, whatever the event says by then.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::raw::{Metal, Outcome, SharedEvent};
use crate::device::Timeline;
use crate::device::fence::{deadline_in, sleep};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex};

thread_local! {
    /// Whether a function of a queue runs here.
    static IN_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// The timeline of a queue.
#[derive(Debug)]
pub(super) struct EventTimeline<M: Metal> {
    event: M::Event,
    /// What the queue's functions are called by.
    gate: M::Event,
    /// What work of others in the queue's order waits for before it begins.
    announcements: M::Event,
    work: Mutex<Work>,
    changed: Condvar,
}

/// A command buffer of a queue, counted from 1.
type Number = u64;

/// What a queue was given to do.
#[derive(Debug, Default)]
struct Work {
    /// The last command buffer.
    entered: Number,
    /// All command buffers up to this one have ended.
    ended: Number,
    /// Those beyond it that have.
    beyond: BTreeSet<Number>,
    /// Points that are not reached, in their order, and the command buffers that signal them.
    points: VecDeque<(Number, u64)>,
    /// The last point that is.
    reached: u64,
    /// The first command buffer that failed, and why.
    failed: Option<(Number, Error)>,
    /// Functions that run.
    functions: usize,
    /// Submissions of others that have not ended.
    external: usize,
    /// What waited for the end of the queue's own work on the GPU was let go.
    let_go: bool,
}

impl Work {
    fn in_flight(&self) -> u64 {
        self.entered - self.ended - self.beyond.len() as u64
    }

    /// Why nothing of the queue's own runs any more, if that is so: what was committed behind the failed command buffer may
    /// still do, and so may a function.
    fn stopped(&self) -> Option<&Error> {
        let failed = self.failed.as_ref().map(|(_, why)| why);
        failed.filter(|_| self.in_flight() == 0 && self.functions == 0)
    }

    /// Nor what others submitted in its order. From then on nothing is taken in, so this is the last change.
    fn lost(&self) -> Option<&Error> {
        self.stopped().filter(|_| self.external == 0)
    }

    /// Whether a command buffer has failed and something in the queue's order may still run.
    fn is_failing(&self) -> bool {
        self.failed.is_some() && self.lost().is_none()
    }

    fn end(&mut self, number: Number) {
        self.beyond.insert(number);
        while self.beyond.remove(&(self.ended + 1)) {
            self.ended += 1;
        }
        let first_failed = self.failed.as_ref().map(|(number, _)| *number);
        while let Some(&(by, point)) = self.points.front()
            && by <= self.ended
            && first_failed.is_none_or(|failed| by < failed)
        {
            self.reached = point;
            self.points.pop_front();
        }
    }
}

fn lost(why: &Error) -> Error {
    Error::with_message(
        ErrorKind::DeviceLost,
        format!("a command buffer of the queue failed: {why}"),
    )
}

impl<M: Metal> EventTimeline<M> {
    pub(super) fn new(event: M::Event, gate: M::Event, announcements: M::Event) -> Self {
        Self {
            event,
            gate,
            announcements,
            work: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Signalled at each point, and raised beyond all values when the queue is lost.
    pub(super) fn event(&self) -> &M::Event {
        &self.event
    }

    /// Signalled before work of others, and raised beyond all values when the queue has stopped: such work keeps the queue
    /// from being lost, so it does not wait for that.
    pub(super) fn announcements(&self) -> &M::Event {
        &self.announcements
    }

    /// Raised before and after each function of the queue, and beyond all values when the queue has stopped.
    pub(super) fn gate(&self) -> &M::Event {
        &self.gate
    }

    /// A command buffer is about to be committed, which signals a point or none; its number.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](ErrorKind::DeviceLost) after one has failed.
    pub(super) fn enter(&self, point: Option<u64>) -> Result<Number> {
        let mut work = self.work.lock();
        if let Some((_, why)) = &work.failed {
            return Err(lost(why));
        }
        work.entered += 1;
        let number = work.entered;
        work.points.extend(point.map(|point| (number, point)));
        Ok(number)
    }

    /// The command buffer has come to its end.
    pub(super) fn leave(&self, number: Number, outcome: Outcome) {
        self.change(|work| {
            if let Err(error) = outcome {
                tracing::error!(%error, "a command buffer failed; its queue is lost");
                if work
                    .failed
                    .as_ref()
                    .is_none_or(|(first, _)| number < *first)
                {
                    work.failed = Some((number, error));
                }
            }
            work.end(number);
        });
    }

    /// It was never committed, and signals nothing.
    pub(super) fn withdraw(&self, number: Number, error: &Error) {
        // A queue that is lost is so from now on.
        let outcome = match error.kind() {
            ErrorKind::DeviceLost => Err(error.clone()),
            _ => Ok(()),
        };
        self.work.lock().points.retain(|(by, _)| *by != number);
        self.leave(number, outcome);
    }

    /// Begins a function, if it is still to be called.
    pub(super) fn begin_function(&self) -> bool {
        let mut work = self.work.lock();
        let begins = work.stopped().is_none();
        work.functions += usize::from(begins);
        IN_FUNCTION.set(begins);
        begins
    }

    /// Ends it, on the thread that began it, and lets the GPU go on behind it.
    pub(super) fn end_function(&self, value: u64) {
        // Before it is let go of: what the queue raises at its end is beyond this. When the GPU's wait took too long, later
        // functions may have raised the gate; so they may after the look, and then the call changes nothing.
        if self.gate.signaled_value() < value {
            self.gate.set_signaled_value(value);
        }
        IN_FUNCTION.set(false);
        self.change(|work| work.functions -= 1);
    }

    /// Others have submitted work in the queue's order.
    ///
    /// # Errors
    ///
    /// [`DeviceLost`](ErrorKind::DeviceLost) when the queue is lost, and whoever would wait for the work's end was let go: that is
    /// not taken back. Until then the queue is not lost before the work has ended.
    pub(super) fn begin_external(&self) -> Result<()> {
        let mut work = self.work.lock();
        if let Some(why) = work.lost() {
            return Err(lost(why));
        }
        work.external += 1;
        Ok(())
    }

    /// It has ended.
    pub(super) fn end_external(&self) {
        self.change(|work| work.external -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        let mut work = self.work.lock();
        change(&mut work);
        let lets_go = work.stopped().is_some() && !std::mem::replace(&mut work.let_go, true);
        // Other queues waited for the end of all work in its order.
        let lets_others_go = work.lost().is_some();
        drop(work);
        if lets_go {
            // What others announced begins, and functions that will not be called any more are let go.
            self.announcements.set_signaled_value(u64::MAX);
            self.gate.set_signaled_value(u64::MAX);
        }
        if lets_others_go {
            self.event.set_signaled_value(u64::MAX);
        }
        self.changed.notify_all();
    }

    /// Whether other queues may leave it to the GPU to wait for a point. Behind a failed command buffer the event says
    /// nothing of points, since what runs there signals them all the same; so the queue's loss is waited for, by the host,
    /// whose waits do not end before. Not from a function of a queue: without its end none is lost that waits for it. So a
    /// function must not wait for whoever waits here (documentation of `Queue::call`).
    pub(super) fn is_waited_for_by_the_gpu(&self) -> bool {
        let work = self.work.lock();
        !work.is_failing() || IN_FUNCTION.get()
    }

    /// What of the event stands for a point beside its own value: its last, if the queue has failed before the point.
    pub(super) fn beside(&self, point: u64) -> Option<u64> {
        let work = self.work.lock();
        (work.is_failing() && work.reached < point).then_some(u64::MAX)
    }

    /// Blocks until fewer than `most` command buffers are in flight; says whether they are.
    pub(super) fn wait_for_room(&self, most: u64, timeout: Option<Duration>) -> bool {
        let deadline = deadline_in(timeout);
        let mut work = self.work.lock();
        while work.in_flight() >= most && work.failed.is_none() {
            match sleep(&self.changed, work, deadline) {
                Some(woken) => work = woken,
                None => return false,
            }
        }
        true
    }

    /// The host looks at the event, behind which the writes of what has ended are visible to it (documentation of
    /// `MTLSharedEvent`).
    fn look(&self) {
        M::pooled(|| self.event.signaled_value());
    }
}

impl<M: Metal> Timeline for EventTimeline<M> {
    fn completed(&self) -> Result<u64> {
        let work = self.work.lock();
        if let Some(why) = work.lost() {
            return Err(lost(why));
        }
        let reached = work.reached;
        drop(work);
        self.look();
        Ok(reached)
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        let deadline = deadline_in(timeout);
        let mut work = self.work.lock();
        while work.reached < value {
            if let Some(why) = work.lost() {
                return Err(lost(why));
            }
            match sleep(&self.changed, work, deadline) {
                Some(woken) => work = woken,
                None => return Ok(false),
            }
        }
        drop(work);
        self.look();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake::{FakeApple, Metal as Model};

    const NOW: Option<Duration> = Some(Duration::ZERO);

    fn timeline(work: impl FnOnce(&EventTimeline<Model>)) {
        let device = FakeApple::new().unwrap();
        let metal = device.metal();
        Model::pooled(|| {
            let event = || metal.new_shared_event().unwrap();
            work(&EventTimeline::new(event(), event(), event()));
        });
        assert_eq!(device.violations(), []);
    }

    fn failed() -> Outcome {
        Err(Error::new(ErrorKind::System, "on purpose"))
    }

    #[test]
    fn a_point_is_reached_when_all_before_it_have_ended_well() {
        timeline(|points| {
            let first = points.enter(Some(1)).unwrap();
            let second = points.enter(None).unwrap();
            let third = points.enter(Some(2)).unwrap();
            points.leave(first, Ok(()));
            points.leave(third, Ok(()));
            assert_eq!(points.completed().unwrap(), 1);
            assert!(points.wait(1, NOW).unwrap());
            assert!(!points.wait(2, NOW).unwrap());
            points.leave(second, failed());
            // What passed has passed, and nothing else does.
            assert!(points.wait(1, None).unwrap());
            let lost = points.wait(2, None).unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::DeviceLost);
            assert_eq!(
                points.enter(None).unwrap_err().kind(),
                ErrorKind::DeviceLost
            );
            assert_eq!(points.event().signaled_value(), u64::MAX);
        });
    }

    #[test]
    fn a_queue_is_not_lost_while_a_function_or_others_work_runs() {
        timeline(|points| {
            let first = points.enter(None).unwrap();
            assert!(points.begin_function());
            points.begin_external().unwrap();
            points.leave(first, failed());
            assert_eq!(points.completed().unwrap(), 0);
            assert_eq!(points.event().signaled_value(), 0);
            assert_eq!(points.announcements().signaled_value(), 0);
            points.end_function(2);
            // What others announced is let go and waited for, by other queues too.
            assert_eq!(points.announcements().signaled_value(), u64::MAX);
            assert_eq!(points.event().signaled_value(), 0);
            assert!(!points.begin_function());
            assert_eq!(points.completed().unwrap(), 0);
            assert!(!points.wait(1, NOW).unwrap());
            points.begin_external().unwrap();
            points.end_external();
            assert!(!points.wait(1, NOW).unwrap(), "others' work still runs");
            points.end_external();
            assert_eq!(points.event().signaled_value(), u64::MAX);
            // Others who tell of work too late do not take the loss back.
            let late = points.begin_external().unwrap_err();
            let lost = points.completed().unwrap_err();
            let kinds = (late.kind(), lost.kind());
            assert_eq!(kinds, (ErrorKind::DeviceLost, ErrorKind::DeviceLost));
        });
    }

    #[test]
    fn points_behind_a_failure_are_waited_for_by_the_host_but_from_a_function() {
        timeline(|points| {
            let first = points.enter(Some(1)).unwrap();
            let second = points.enter(Some(2)).unwrap();
            points.leave(first, Ok(()));
            assert!(points.begin_function());
            assert!(points.is_waited_for_by_the_gpu());
            assert_eq!(points.beside(2), None);
            points.leave(second, failed());
            assert!(points.is_waited_for_by_the_gpu(), "the function is this");
            let elsewhere = || {
                std::thread::scope(|scope| {
                    let asked = scope.spawn(|| points.is_waited_for_by_the_gpu());
                    asked.join().unwrap()
                })
            };
            assert!(!elsewhere());
            assert_eq!((points.beside(1), points.beside(2)), (None, Some(u64::MAX)));
            points.end_function(2);
            assert!(elsewhere(), "lost, and let go");
            assert_eq!(points.beside(2), None);
        });
    }

    #[test]
    fn what_was_never_committed_signals_nothing() {
        timeline(|points| {
            let first = points.enter(Some(1)).unwrap();
            points.withdraw(first, &Error::new(ErrorKind::OutOfMemory, "on purpose"));
            assert_eq!(points.completed().unwrap(), 0);
            let second = points.enter(Some(1)).unwrap();
            points.leave(second, Ok(()));
            assert_eq!(points.completed().unwrap(), 1);
        });
    }
}
