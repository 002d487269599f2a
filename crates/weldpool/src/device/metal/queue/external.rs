//! The events that others signal behind what they submitted themselves.
//!
//! Work that was announced earlier may end later, and a wait for an event is over at any value from that on. So each
//! announcement has an event to itself until it is given back.

#![forbid(unsafe_code)]

use crate::binding::Resource;
use crate::device::metal::raw::{Metal, Object as _, SharedEvent};
use crate::error::{Error, ErrorKind, Result};

/// Announcements that are remembered until they are given back; whoever drops one says nothing of it.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// By the announcement of this number.
    By(u64),
    /// By nobody, for work behind a later point of the queue than this: that waits for what signalled it last.
    ByNobody(u64),
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
    /// The event and value that work is to signal which waits for the point `behind` of the queue. Of too many that were
    /// not given back the oldest is forgotten.
    pub(super) fn announce(&mut self, metal: &M, behind: u64) -> Result<(Resource, u64)> {
        let is_free = |slot: &Slot<M>| matches!(slot.held, Held::ByNobody(point) if point < behind);
        let found = match self.slots.iter().position(is_free) {
            Some(free) => Some(free),
            None if self.slots.len() < ANNOUNCED_MAX => None,
            None => {
                let slots = self.slots.iter().enumerate();
                // What it raises is less than what its successor does, so nobody takes it for that.
                let oldest = slots.filter_map(|(index, slot)| match slot.held {
                    Held::By(number) => Some((number, index)),
                    Held::ByNobody(_) => None,
                });
                oldest.min().map(|(_, index)| index)
            }
        };
        let index = match found {
            Some(index) => index,
            None => {
                let event = metal.new_shared_event()?;
                event.set_label("weldpool external");
                let held = Held::ByNobody(0);
                self.slots.push(Slot {
                    event,
                    value: 0,
                    held,
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

    /// What is to be waited for behind an announced submission.
    pub(super) fn event_of(&self, signal: (Resource, u64)) -> Result<M::Event> {
        let slot = self.slots.iter().find(|slot| slot.is_held_for(signal));
        slot.map(|slot| slot.event.clone()).ok_or_else(|| {
            Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{ANNOUNCED_MAX} submissions were announced behind it and none was given back, so it was forgotten"),
            )
            .with_advice("wait for its event before its memory is used again, and keep fewer submissions open")
        })
    }

    /// It is waited for: its event is free for work behind a later point of the queue than `at`.
    pub(super) fn free(&mut self, signal: (Resource, u64), at: u64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.is_held_for(signal)) {
            slot.held = Held::ByNobody(at);
        }
    }
}

impl<M: Metal> Slot<M> {
    fn is_held_for(&self, (event, value): (Resource, u64)) -> bool {
        let held = matches!(self.held, Held::By(_));
        held && self.value == value && self.event.resource() == event
    }
}
