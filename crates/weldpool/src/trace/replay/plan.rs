//! What to do, prepared so that the timed loop only walks an array.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::{Event, Op};

/// Most streams of one trace.
const QUEUES_MAX: usize = 1 << 16;

/// One allocation or free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) bytes: u64,
    pub(super) time_us: u64,
    /// Where the buffer is kept.
    pub(super) slot: u32,
    pub(super) queue: u32,
    /// Which thread does it.
    pub(super) lane: u32,
    pub(super) op: Op,
}

/// The steps of a trace.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// Slots that the steps name.
    pub(super) slots: usize,
    /// Queues that the steps name: the streams of the trace.
    pub(super) queues: usize,
    /// Threads that have steps.
    pub(super) lanes: usize,
    pub(super) events: u64,
    pub(super) allocations: u64,
    /// Frees of what is not live.
    pub(super) skipped_frees: u64,
    /// The step after which most is live.
    pub(super) peak_step: Option<usize>,
}

impl Plan {
    pub(super) fn new(events: &[Event], threads: usize) -> TraceResult<Self> {
        let mut planner = Planner {
            threads,
            plan: Self {
                steps: Vec::with_capacity(events.len()),
                events: events.len() as u64,
                ..Self::default()
            },
            ..Planner::default()
        };
        for (number, event) in (1..).zip(events) {
            planner.add(event).map_err(|error| error.at_event(number))?;
        }
        planner.plan.queues = planner.queues.len();
        planner.plan.lanes = planner.lanes.len().clamp(1, threads);
        Ok(planner.plan)
    }
}

#[derive(Debug, Default)]
struct Planner {
    plan: Plan,
    threads: usize,
    /// Slots and sizes of what is live, by the trace's id.
    live: HashMap<u64, (u32, u64)>,
    free_slots: Vec<u32>,
    queues: HashMap<u64, u32>,
    /// Lanes by thread and stream.
    lanes: HashMap<(u64, u64), u32>,
    live_bytes: u64,
    peak_bytes: u64,
}

impl Planner {
    fn add(&mut self, event: &Event) -> TraceResult<()> {
        match event.op {
            Op::Free => match self.live.remove(&event.id) {
                Some((slot, bytes)) => self.free(event, slot, bytes),
                None => {
                    self.plan.skipped_frees += 1;
                    Ok(())
                }
            },
            Op::Allocate => {
                let slot = self.slot()?;
                let before = match self.live.entry(event.id) {
                    Entry::Vacant(entry) => {
                        entry.insert((slot, event.bytes));
                        None
                    }
                    // The trace lacks a free.
                    Entry::Occupied(mut entry) => Some(entry.insert((slot, event.bytes))),
                };
                if let Some((slot, bytes)) = before {
                    self.free(event, slot, bytes)?;
                }
                self.plan.allocations += 1;
                self.live_bytes = self.live_bytes.saturating_add(event.bytes);
                self.push(event, Op::Allocate, slot, event.bytes)?;
                if self.live_bytes > self.peak_bytes {
                    self.peak_bytes = self.live_bytes;
                    self.plan.peak_step = Some(self.plan.steps.len() - 1);
                }
                Ok(())
            }
        }
    }

    fn free(&mut self, event: &Event, slot: u32, bytes: u64) -> TraceResult<()> {
        if self.threads == 1 {
            self.free_slots.push(slot);
        }
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
        self.push(event, Op::Free, slot, bytes)
    }

    fn push(&mut self, event: &Event, op: Op, slot: u32, bytes: u64) -> TraceResult<()> {
        let queues = self.queues.len();
        let queue = match self.queues.entry(event.stream) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) if queues == QUEUES_MAX => {
                return Err(limit(format!(
                    "the trace has more than {QUEUES_MAX} streams; split it"
                )));
            }
            Entry::Vacant(entry) => *entry.insert(number(queues)?),
        };
        let lanes = number(self.lanes.len())?;
        let lane = *self
            .lanes
            .entry((event.thread, event.stream))
            .or_insert(lanes);
        self.plan.steps.push(Step {
            bytes,
            time_us: event.time_us,
            slot,
            queue,
            lane: lane % number(self.threads)?,
            op,
        });
        Ok(())
    }

    /// A slot nobody uses. Threads get a new one for each allocation, so that none has to wait
    /// until another has emptied it.
    fn slot(&mut self) -> TraceResult<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Ok(slot);
        }
        let slot = number(self.plan.slots)?;
        self.plan.slots += 1;
        Ok(slot)
    }
}

fn number(index: usize) -> TraceResult<u32> {
    u32::try_from(index).map_err(|_| {
        limit(format!(
            "the trace needs more than {index} numbers; split it"
        ))
    })
}

fn limit(message: String) -> TraceError {
    TraceError::new(TraceErrorKind::Limit, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: Op, id: u64, bytes: u64, stream: u64) -> Event {
        Event {
            op,
            id,
            bytes,
            stream,
            time_us: 0,
            thread: 0,
        }
    }

    #[test]
    fn slots_are_reused_and_the_peak_is_found() {
        let events = [
            event(Op::Free, 9, 0, 0),
            event(Op::Allocate, 1 << 40, 10, 5),
            event(Op::Allocate, 2, 20, 7),
            event(Op::Free, 1 << 40, 10, 7),
            event(Op::Allocate, 3, 11, 5),
            event(Op::Allocate, 3, 1, 5),
        ];
        let plan = Plan::new(&events, 1).unwrap();
        assert_eq!(plan.skipped_frees, 1);
        assert_eq!((plan.slots, plan.queues, plan.lanes), (3, 2, 1));
        assert_eq!(plan.peak_step, Some(3));
        assert_eq!(plan.steps[3].slot, 0, "taken over");
        let ops: Vec<_> = plan.steps.iter().map(|step| step.op).collect();
        let (a, f) = (Op::Allocate, Op::Free);
        assert_eq!(
            ops,
            [a, a, f, a, f, a],
            "an id allocated twice is freed between"
        );
    }

    #[test]
    fn streams_and_threads_are_split_over_lanes() {
        let mut events: Vec<_> = (0..6)
            .map(|index| event(Op::Allocate, index, 1, index % 3))
            .collect();
        let plan = Plan::new(&events, 2).unwrap();
        let lanes: Vec<_> = plan.steps.iter().map(|step| step.lane).collect();
        assert_eq!(lanes, [0, 1, 0, 0, 1, 0]);
        assert_eq!((plan.lanes, plan.slots), (2, 6));
        for event in &mut events {
            event.stream = 0;
        }
        assert_eq!(Plan::new(&events, 2).unwrap().lanes, 1);
        events[3].thread = 1;
        assert_eq!(Plan::new(&events, 2).unwrap().lanes, 2);
    }
}
