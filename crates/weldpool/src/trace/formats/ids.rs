//! From ids that files use again, such as addresses, to ids of one allocation each.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::trace::error::{TraceError, TraceErrorKind, TraceResult};
use crate::trace::event::{Event, Op, Skipped};

/// Most allocations that may be live at once.
const LIVE_MAX: usize = 1 << 26;

/// The allocations that are live at a point of a trace.
#[derive(Debug, Default)]
pub(super) struct LiveIds {
    live: HashMap<u64, Live>,
    next: u64,
    waiting: Option<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    id: u64,
    bytes: u64,
    stream: u64,
}

impl LiveIds {
    /// The second of two events that one event of the file stands for.
    pub(super) fn waiting(&mut self) -> Option<Event> {
        self.waiting.take()
    }

    /// The event with its new id, unless it is one to leave out.
    pub(super) fn renumber(
        &mut self,
        mut event: Event,
        skipped: &mut Skipped,
    ) -> TraceResult<Option<Event>> {
        let full = self.live.len() >= LIVE_MAX;
        match (event.op, self.live.entry(event.id)) {
            (Op::Free, Entry::Vacant(_)) => {
                skipped.frees += 1;
                Ok(None)
            }
            (Op::Free, Entry::Occupied(entry)) => {
                let live = entry.remove();
                event.id = live.id;
                // Some programs say nothing, or the rounded size, when they free.
                event.bytes = live.bytes;
                Ok((live.bytes > 0).then_some(event))
            }
            (Op::Allocate, entry) => {
                if full {
                    return Err(TraceError::new(
                        TraceErrorKind::Limit,
                        format!(
                            "more than {LIVE_MAX} allocations are live at once; split the trace"
                        ),
                    ));
                }
                let fresh = Live {
                    id: self.next,
                    bytes: event.bytes,
                    stream: event.stream,
                };
                let before = match entry {
                    Entry::Vacant(entry) => {
                        entry.insert(fresh);
                        None
                    }
                    Entry::Occupied(mut entry) => Some(entry.insert(fresh)),
                };
                if event.bytes == 0 {
                    skipped.empty += 1;
                } else {
                    event.id = self.next;
                    self.next += 1;
                }
                let freed = before.filter(|before| before.bytes > 0).map(|before| {
                    skipped.implied_frees += 1;
                    Event {
                        op: Op::Free,
                        id: before.id,
                        bytes: before.bytes,
                        stream: before.stream,
                        ..event
                    }
                });
                let allocated = (event.bytes > 0).then_some(event);
                if freed.is_some() {
                    self.waiting = allocated;
                    return Ok(freed);
                }
                Ok(allocated)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_ids_and_what_does_not_fit_is_counted() {
        let event = |op, id, bytes| Event {
            op,
            id,
            bytes,
            stream: 3,
            time_us: 0,
            thread: 0,
        };
        let mut ids = LiveIds::default();
        let mut skipped = Skipped::default();
        let mut events = Vec::new();
        for raw in [
            event(Op::Free, 9, 1),       // unknown
            event(Op::Allocate, 9, 100), // 0
            event(Op::Free, 9, 0),       // 0, with its size
            event(Op::Allocate, 9, 200), // 1
            event(Op::Allocate, 8, 0),   // empty
            event(Op::Free, 8, 0),       // the same
            event(Op::Allocate, 9, 300), // frees 1, is 2
        ] {
            events.extend(ids.renumber(raw, &mut skipped).unwrap());
            events.extend(ids.waiting());
        }
        assert_eq!(
            events,
            [
                event(Op::Allocate, 0, 100),
                event(Op::Free, 0, 100),
                event(Op::Allocate, 1, 200),
                event(Op::Free, 1, 200),
                event(Op::Allocate, 2, 300),
            ]
        );
        let expected = Skipped {
            frees: 1,
            empty: 1,
            implied_frees: 1,
            ..Skipped::default()
        };
        assert_eq!(skipped, expected);
    }
}
