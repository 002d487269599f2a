//! Contents as the host sees them, and buffers that are shared.

use weldpool::{Error, ErrorKind, StorageMode};

use super::input::Input;
use super::machine::Machine;
use super::slot::Memory;

impl Machine {
    pub(super) fn host_write(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        if self.slots[index].foreign.is_some() {
            self.settle();
        }
        self.seed = self.seed.wrapping_add(1);
        let slot = &mut self.slots[index];
        if let Err(error) = slot.write(self.seed) {
            self.check_refused(index, &error);
        }
    }

    pub(super) fn host_read(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let slot = &self.slots[index];
        if slot.foreign.is_some() {
            return;
        }
        let read = slot.read();
        match read {
            Ok(contents) => slot.check(&contents),
            Err(error) => self.check_refused(index, &error),
        }
    }

    /// Asserts that host access was refused for a reason.
    fn check_refused(&self, index: usize, error: &Error) {
        let slot = &self.slots[index];
        let reason = match error.kind() {
            ErrorKind::Unsupported => slot.storage == StorageMode::Private,
            ErrorKind::Busy => !slot.queues.is_empty(),
            _ => false,
        };
        assert!(reason, "{error}");
    }

    pub(super) fn share(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let mut slot = self.slots.swap_remove(index);
        if slot.foreign.is_some() {
            self.slots.push(slot);
            return;
        }
        let (one, other) = (input.byte(), input.byte());
        let at = |byte: u8| slot.len * usize::from(byte) / 255;
        let range = at(one.min(other))..at(one.max(other));
        slot.memory = match slot.memory {
            Memory::Own(buffer) => Memory::Shared(buffer.share(), None),
            Memory::Shared(view, None) => {
                let part = view.slice(range.clone());
                let part = match part {
                    Ok(part) => Some((part, range)).filter(|(_, range)| !range.is_empty()),
                    Err(error) => panic!("{error}"),
                };
                Memory::Shared(view, part)
            }
            Memory::Shared(view, Some(part)) => {
                assert!(!view.is_unique());
                drop(part);
                match view.try_into_buffer() {
                    Ok(buffer) => Memory::Own(buffer),
                    Err(_) => panic!("the only view is not the buffer"),
                }
            }
        };
        self.slots.push(slot);
    }
}
