//! The events that others signal behind what they submitted themselves.
//!
//! Work that was announced earlier may end later, and a wait for an event is over at any value from that on. So each
//! announcement has an event to itself until its work has ended. That it waits for what had the event before is not enough:
//! its event is raised by the host if it fails, and it may begin earlier when the queue has failed.

#![forbid(unsafe_code)]

use crate::binding::Resource;
use crate::device::metal::raw::{Metal, Object as _, SharedEvent};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Ordering};

/// Announcements that are remembered until they are given back; whoever drops one says nothing of it. Those that were given
/// back do not count: the queue has a command buffer in flight for each whose work has not ended.
const ANNOUNCED_MAX: usize = 64;

/// The announcements of a queue.
#[derive(Debug)]
pub(super) struct Announced<M: Metal> {
    count: u64,
    slots: Vec<Slot<M>>,
}

/// An event, and whose it is.
#[derive(Debug)]
struct Slot<M: Metal> {
    event: M::Event,
    /// What it is raised to by the last announcement that it was given to.
    value: u64,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// By the announcement of this number.
    By(u64),
    /// By nobody any more, once the work that had it last has ended. The event's own value would say so too, but who looks
    /// at it from here would see the end of work, which the host is to see by fences; the listener is told in any case.
    ByNobody(Arc<AtomicBool>),
}

impl<M: Metal> Default for Announced<M> {
    fn default() -> Self {
        Self {
            count: 0,
            slots: Vec::new(),
        }
    }
}

impl<M: Metal> Announced<M> {
    /// The event and value that work is to signal. Of too many that were not given back the oldest is forgotten.
    pub(super) fn announce(&mut self, metal: &M) -> Result<(Resource, u64)> {
        let slots = self.slots.iter().enumerate();
        let open = slots.filter_map(|(index, slot)| match slot.held {
            Held::By(number) => Some((number, index)),
            Held::ByNobody(_) => None,
        });
        let found = if open.clone().count() < ANNOUNCED_MAX {
            self.slots.iter().position(Slot::is_free)
        } else {
            // What it raises is less than what its successor does, so nobody takes it for that.
            open.min().map(|(_, index)| index)
        };
        let index = match found {
            Some(index) => index,
            None => {
                let event = metal.new_shared_event()?;
                event.set_label("weldpool external");
                self.slots.push(Slot {
                    event,
                    value: 0,
                    held: Held::By(0),
                });
                self.slots.len() - 1
            }
        };
        self.count += 1;
        let slot = &mut self.slots[index];
        slot.value += 1;
        slot.held = Held::By(self.count);
        Ok((slot.event.resource(), slot.value))
    }

    /// It was submitted: the event to wait for, and what is to be set when that has the value.
    pub(super) fn give_back(
        &mut self,
        signal: (Resource, u64),
    ) -> Result<(M::Event, Arc<AtomicBool>)> {
        let mut slots = self.slots.iter_mut();
        let slot = slots.find(|slot| slot.is_held_for(signal)).ok_or_else(|| {
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{ANNOUNCED_MAX} submissions that were announced behind it were not given back, so it was forgotten"),
            )
            .with_advice("wait for its event before its memory is used again, and keep fewer submissions open")
        })?;
        let ended = Arc::<AtomicBool>::default();
        slot.held = Held::ByNobody(Arc::clone(&ended));
        Ok((slot.event.clone(), ended))
    }
}

impl<M: Metal> Slot<M> {
    fn is_free(&self) -> bool {
        matches!(&self.held, Held::ByNobody(ended) if ended.load(Ordering::Acquire))
    }

    fn is_held_for(&self, (event, value): (Resource, u64)) -> bool {
        let held = matches!(self.held, Held::By(_));
        held && self.value == value && self.event.resource() == event
    }
}
