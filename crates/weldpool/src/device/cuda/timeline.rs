//! The points of a stream that were signalled, as events.

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::context::Context;
use super::host_functions;
use super::raw::Handle;
use crate::device::Timeline;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// Points that may be waiting in one timeline; a signal beyond it is refused.
const WAITING_MAX: usize = 4096;
/// Points from which on whoever waits for room waits: with the work before them fewer than the driver takes before it
/// blocks itself, some 1,000 calls.
const ROOM: usize = 256;
/// Events kept for further signals.
const SPARE_MAX: usize = 64;

/// How long a wait asks without a pause, how long it only gives its processor away, and its pauses after
/// that.
const AWAKE: Duration = Duration::from_micros(20);
const YIELDING: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_micros(50);

/// A timeline whose values are events of one stream.
#[derive(Debug)]
pub(super) struct EventTimeline {
    context: Arc<Context>,
    /// What is known to be complete; written under the lock of `points`.
    completed: AtomicU64,
    points: Mutex<Points>,
    /// Held while a signal is made, so that events are recorded in the order of their values. Apart from `points`, since
    /// the driver may block in a record until a function that asks for them has returned.
    signalling: Mutex<()>,
}

#[derive(Debug, Default)]
struct Points {
    /// Signalled and not known to be complete, in the order of their values.
    waiting: VecDeque<(u64, Arc<Event>)>,
    spare: Vec<Arc<Event>>,
    signalled: u64,
}

/// An event of the driver's.
#[derive(Debug)]
pub(super) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

impl Event {
    fn new(context: &Arc<Context>) -> Result<Self> {
        Ok(Self {
            handle: context.call("cuEventCreate", |driver| driver.create_event())?,
            context: Arc::clone(context),
        })
    }

    fn record(&self, stream: Handle) -> Result<()> {
        // SAFETY: the event is ours, and the caller's stream is alive.
        let record = |driver: &'static super::raw::Driver| unsafe {
            driver.record_event(self.handle, stream)
        };
        self.context.call("cuEventRecord", record)
    }

    fn is_complete(&self) -> Result<bool> {
        // SAFETY: the event is ours.
        self.context.call("cuEventQuery", |driver| unsafe {
            driver.is_event_complete(self.handle)
        })
    }

    /// Makes later work of a stream of a context wait for the event.
    pub(super) fn delay(&self, context: &Context, stream: Handle) -> Result<()> {
        // SAFETY: the event is ours, and the caller's stream is alive.
        context.call("cuStreamWaitEvent", |driver| unsafe {
            driver.wait_event(stream, self.handle)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this was the only owner; the driver keeps the event until a stream has passed it.
        let destroy =
            |driver: &'static super::raw::Driver| unsafe { driver.destroy_event(self.handle) };
        if let Err(error) = self.context.give_back("cuEventDestroy", destroy) {
            tracing::warn!(%error, "an event stays");
        }
    }
}

impl EventTimeline {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self {
            context: Arc::clone(context),
            completed: AtomicU64::new(0),
            points: Mutex::default(),
            signalling: Mutex::default(),
        }
    }

    /// Whether what was signalled will never pass any more.
    pub(super) fn is_lost(&self) -> bool {
        self.context.is_lost()
    }

    /// Marks the present end of the stream.
    pub(super) fn signal(&self, stream: Handle) -> Result<u64> {
        let _signalling = self.signalling.lock();
        let event = match self.spare_event()? {
            Some(event) => event,
            None => Arc::new(Event::new(&self.context)?),
        };
        let recorded = event.record(stream);
        let mut points = self.points.lock();
        if let Err(error) = recorded {
            points.spare.push(event);
            return Err(error);
        }
        points.signalled += 1;
        let value = points.signalled;
        points.waiting.push_back((value, event));
        Ok(value)
    }

    /// An event to record anew, if there is one.
    fn spare_event(&self) -> Result<Option<Arc<Event>>> {
        let mut points = self.points.lock();
        if points.waiting.len() >= WAITING_MAX {
            self.advance(&mut points)?;
        }
        if points.waiting.len() >= WAITING_MAX {
            return Err(Error::new(
                ErrorKind::Busy,
                "4096 points of a stream wait to be passed; wait for one of them",
            ));
        }
        Ok(points.spare.pop())
    }

    /// Blocks until few enough points wait, or `timeout` is over; says whether they do.
    pub(super) fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        poll(timeout, || {
            let mut points = self.points.lock();
            if points.waiting.len() >= ROOM {
                self.advance(&mut points)?;
            }
            Ok(points.waiting.len() < ROOM)
        })
    }

    /// Takes note of the events that are complete.
    fn advance(&self, points: &mut Points) -> Result<()> {
        while let Some((value, event)) = points.waiting.front() {
            if !event.is_complete()? {
                break;
            }
            self.completed.store(*value, Ordering::Release);
            let event = points.waiting.pop_front().map(|(_, event)| event);
            // An event that somebody still waits for must not be recorded anew.
            let spare = event.filter(|event| Arc::strong_count(event) == 1);
            if points.spare.len() < SPARE_MAX {
                points.spare.extend(spare);
            }
        }
        Ok(())
    }

    /// Marks the present end of a stream that is given nothing any more: the new value passes with the last before.
    pub(super) fn signal_again(&self) -> u64 {
        let _signalling = self.signalling.lock();
        let mut points = self.points.lock();
        points.signalled += 1;
        let value = points.signalled;
        match points.waiting.back_mut() {
            Some((last, _)) => *last = value,
            None => self.completed.store(value, Ordering::Release),
        }
        value
    }

    /// What is known to be complete, without a question to the driver.
    fn known(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// The event that stands for a value; none if the value has passed.
    ///
    /// # Errors
    ///
    /// [`Busy`](ErrorKind::Busy) when the value was not signalled yet.
    pub(super) fn event_of(&self, value: u64) -> Result<Option<Arc<Event>>> {
        let points = self.points.lock();
        if value > points.signalled {
            return Err(Error::new(
                ErrorKind::Busy,
                "the point to wait for was not signalled yet",
            ));
        }
        if value <= self.known() {
            return Ok(None);
        }
        let at = points.waiting.partition_point(|(of, _)| *of < value);
        Ok(points.waiting.get(at).map(|(_, event)| Arc::clone(event)))
    }
}

impl Timeline for EventTimeline {
    fn completed(&self) -> Result<u64> {
        // The driver may not be asked there, and whoever asks it now may wait for that function.
        if host_functions::is_inside() {
            return Ok(self.known());
        }
        let advanced = self.advance(&mut self.points.lock());
        if self.context.has_stopped() {
            let told = advanced.err();
            let told = told.filter(|error| error.kind() == ErrorKind::DeviceLost);
            return Err(told.unwrap_or_else(super::context::lost));
        }
        // Where the driver does not tell, what is known stands.
        Ok(self.known())
    }

    /// Within a function that a queue calls, what is not known to have passed is [`Busy`](ErrorKind::Busy): the driver
    /// calls no function, of whichever stream, until this one has returned.
    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        poll(timeout, || {
            // Also on a lost context, where that is known.
            let passed = self.known() >= value || self.completed()? >= value;
            if !passed && host_functions::is_inside() {
                return Err(super::context::inside());
            }
            Ok(passed)
        })
    }
}

/// Asks until the answer is yes or the time is over, ever more rarely.
fn poll(timeout: Option<Duration>, mut ask: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = Instant::now();
    loop {
        if ask()? {
            return Ok(true);
        }
        let waited = start.elapsed();
        if timeout.is_some_and(|timeout| waited >= timeout) {
            return Ok(false);
        }
        if waited < AWAKE {
            std::hint::spin_loop();
        } else if waited < YIELDING {
            std::thread::yield_now();
        } else {
            let left = timeout.map_or(PAUSE, |timeout| timeout.saturating_sub(waited));
            std::thread::sleep(left.min(PAUSE));
        }
    }
}
