//! Work on queues, submitted through the allocator and past it.

use std::time::Duration;

use super::input::Input;
use super::machine::{Machine, Stream, WORK_BYTES_MAX};
use super::slot::Slot;
use crate::foreign;

impl Machine {
    pub(super) fn fill(&mut self, input: &mut Input<'_>) {
        let (Some(index), Some(stream)) = (self.pick(input), self.pick_stream(input)) else {
            return;
        };
        let (value, part) = (input.byte(), input.flag());
        let Stream { queue, number, .. } = &self.streams[stream];
        let slot = &mut self.slots[index];
        if slot.len > WORK_BYTES_MAX || !slot.may_use(*number) {
            return;
        }
        slot.used_by(*number);
        if let Err(error) = slot.fill(queue, value, part) {
            assert!(self.may_refuse(stream, &error), "{error}");
        }
    }

    pub(super) fn copy(&mut self, input: &mut Input<'_>) {
        let (Some(from), Some(to), Some(stream)) =
            (self.pick(input), self.pick(input), self.pick_stream(input))
        else {
            return;
        };
        let number = self.streams[stream].number;
        let fits = |slot: &Slot| slot.len <= WORK_BYTES_MAX && slot.may_use(number);
        if from == to
            || self.slots[from].len > self.slots[to].len
            || !fits(&self.slots[from])
            || !fits(&self.slots[to])
        {
            return;
        }
        let Ok([source, destination]) = self.slots.get_disjoint_mut([from, to]) else {
            return;
        };
        source.used_by(number);
        destination.used_by(number);
        if let Err(error) = source.copy_to(&self.streams[stream].queue, destination) {
            assert!(self.may_refuse(stream, &error), "{error}");
        }
    }

    /// Lets queues go on, or marks their ends.
    pub(super) fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.below(4);
        let Some(stream) = self.pick_stream(input) else {
            return;
        };
        let Stream { queue, number, .. } = &self.streams[stream];
        match (kind, self.target.control()) {
            (0, _) => match queue.fence() {
                Ok(fence) => {
                    let waited = fence.wait(Some(Duration::ZERO));
                    assert!(waited.is_ok() || !self.streams[stream].lost);
                }
                Err(error) => assert!(self.may_refuse(stream, &error), "{error}"),
            },
            (1, Some(control)) => drop(control.run_all()),
            (2, _) => self.settle(),
            (_, Some(control)) => {
                for _ in 0..=input.below(8) {
                    control.step(*number);
                }
            }
            (_, None) => {}
        }
    }

    /// Work that the allocator does not see.
    pub(super) fn foreign(&mut self, input: &mut Input<'_>) {
        let (Some(from), Some(to), Some(stream)) =
            (self.pick(input), self.pick(input), self.pick_stream(input))
        else {
            return;
        };
        let Stream { stream, number, .. } = &self.streams[stream];
        let suits = |slot: &Slot| {
            slot.len <= WORK_BYTES_MAX && slot.is_free_for(*number) && slot.start.is_some()
        };
        if !suits(&self.slots[to]) {
            return;
        }
        let value = input.byte();
        let fits = from != to && self.slots[from].len <= self.slots[to].len;
        if fits && suits(&self.slots[from]) {
            let Ok([from, to]) = self.slots.get_disjoint_mut([from, to]) else {
                return;
            };
            if foreign::copy(stream.as_ref(), &from.binding(), &to.binding()).is_ok() {
                to.model.copy(&from.model, 0..from.len, 0);
                for slot in [from, to] {
                    slot.used_by(*number);
                    slot.foreign = Some(*number);
                }
            }
        } else {
            let to = &mut self.slots[to];
            if foreign::fill(stream.as_ref(), &to.binding(), value).is_ok() {
                to.model.fill(0..to.len, value);
                to.used_by(*number);
                to.foreign = Some(*number);
            }
        }
    }
}
