//! Limits, queues that come and go, and calls that fail.

use std::sync::Arc;

use weldpool::{ErrorKind, StorageMode};

use super::buffers::on_another_thread;
use super::input::Input;
use super::machine::{Machine, Stream};
use crate::Call;

const QUEUES_MAX: usize = 4;

impl Machine {
    pub(super) fn control(&mut self, input: &mut Input<'_>, on_thread: bool) {
        match input.below(7) {
            0 if on_thread => {
                let allocator = &self.allocator;
                let _bytes = on_another_thread(|| allocator.clear());
            }
            0 => drop(self.allocator.clear()),
            1 => {
                let held = self.allocator.stats().reserved.value;
                let limit = match input.below(3) {
                    0 => None,
                    1 => Some(held),
                    _ => Some(u64::from(input.byte()) << 18),
                };
                match self.allocator.set_reserved_bytes_max(limit) {
                    Ok(before) => {
                        assert_eq!(before, self.limit);
                        self.limit = limit;
                    }
                    Err(error) => {
                        assert_eq!((limit, error.kind()), (Some(0), ErrorKind::InvalidConfig));
                    }
                }
            }
            2 => drop(
                self.allocator
                    .set_cached_bytes_max(u64::from(input.byte()) << 17),
            ),
            3 => drop(self.allocator.set_cached_bytes_max(u64::MAX)),
            4 => drop(self.allocator.set_pooling(input.flag())),
            5 => self.reserve(input, on_thread),
            _ => {
                let (bytes, count) = (input.size(16).max(1), input.below(8));
                match self.allocator.pre_allocate(bytes, count) {
                    Ok(made) => {
                        assert_eq!(made, count);
                        self.counts.allocations += count as u64;
                        self.counts.frees += count as u64;
                    }
                    Err(error) => {
                        let scarce = self.target.scarce || self.limit.is_some();
                        assert!(scarce || self.faults, "{error}");
                        self.counts.exact = false;
                    }
                }
            }
        }
    }

    fn reserve(&mut self, input: &mut Input<'_>, on_thread: bool) {
        let (bytes, storage) = (input.size(22), input.of(&StorageMode::ALL));
        let before = self.allocator.stats().reserved.value;
        let allocator = &self.allocator;
        let reserved = if on_thread {
            on_another_thread(|| allocator.reserve(bytes, storage))
        } else {
            allocator.reserve(bytes, storage)
        };
        let after = allocator.stats().reserved.value;
        match reserved {
            Ok(made) => {
                assert!(made >= bytes && after <= before + made as u64);
                let most = self.limit.unwrap_or(u64::MAX).max(before);
                assert!(after <= most, "{after} bytes held of {most}");
            }
            Err(error) => {
                let permitted = match error.kind() {
                    // Pooling may be off.
                    ErrorKind::InvalidRequest => true,
                    ErrorKind::Unsupported => !self.target.storages.contains(&storage),
                    ErrorKind::OutOfMemory => self.target.scarce,
                    ErrorKind::LimitExceeded => self.limit.is_some(),
                    _ => false,
                };
                assert!(permitted || self.faults, "{error}");
            }
        }
    }

    pub(super) fn queues(&mut self, input: &mut Input<'_>) {
        match input.below(4) {
            0 | 1 if self.streams.len() < QUEUES_MAX => {
                let Some((stream, number)) = self.target.create_queue() else {
                    assert!(self.faults);
                    return;
                };
                self.streams.push(Stream {
                    queue: self.allocator.adopt_queue(Arc::clone(&stream)),
                    stream,
                    number,
                    lost: false,
                });
            }
            2 => {
                let Some(index) = self.pick_stream(input) else {
                    return;
                };
                let number = self.streams[index].number;
                if self.slots.iter().any(|slot| slot.foreign == Some(number)) {
                    self.settle();
                }
                self.streams.swap_remove(index);
            }
            3 => {
                let Some(index) = self.pick_stream(input).filter(|_| input.below(4) == 0) else {
                    return;
                };
                let Some(control) = self.target.control() else {
                    return;
                };
                let stream = &mut self.streams[index];
                control.lose_queue(stream.number);
                stream.lost = true;
                // Work that others made wait for it goes on without it.
                for slot in &mut self.slots {
                    if !slot.queues.is_empty() {
                        slot.model.forget();
                    }
                    slot.foreign = slot.foreign.filter(|&number| number != stream.number);
                }
            }
            _ => {}
        }
    }

    pub(super) fn faults(&mut self, input: &mut Input<'_>) {
        let call = Call::ALL[input.below(Call::ALL.len())];
        let kind = input.of(&[ErrorKind::OutOfMemory, ErrorKind::System]);
        self.target.device.fail(call, kind, input.below(4));
        self.faults = true;
    }
}
