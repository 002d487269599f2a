//! Allocating and freeing.

use weldpool::device::Exposure;
use weldpool::{Buffer, Device, ErrorKind, Request, StorageMode};

use super::exposed;
use super::input::Input;
use super::machine::{Machine, WORK_BYTES_MAX};
use super::model::Model;
use super::places::Start;
use super::slot::{Memory, Slot};
use crate::foreign;

/// Live buffers at once.
const SLOTS_MAX: usize = 48;
/// Live bytes at once, so that a machine can hold them.
const LIVE_BYTES_MAX: usize = 256 << 20;

impl Machine {
    pub(super) fn allocate(&mut self, input: &mut Input<'_>, on_thread: bool) {
        if self.slots.len() == SLOTS_MAX {
            return;
        }
        let power = input.of(&[8, 12, 16, 20, 22, 24]);
        let bytes = input.size(power);
        let alignment = input.of(&[1, 16, 256, 256, 256, 4096, 64 << 10, 3]);
        let storage = input.of(&StorageMode::ALL);
        let stream = match input.below(3) {
            0 => None,
            _ => self.pick_stream(input),
        };
        let zeroed = input.below(8) == 0 && bytes <= WORK_BYTES_MAX;
        if self.counts.live as usize + bytes > LIVE_BYTES_MAX {
            return;
        }
        let how = input.byte();
        let held_only = how.is_multiple_of(8);
        let exposure = exposed::choose(how / 8);
        let offered = exposed::is_none(exposure) || self.target.device.offers(exposure, storage);
        let mut request = Request::new(bytes)
            .alignment(alignment)
            .storage(storage)
            .zeroed(zeroed)
            .held_only(held_only)
            .visible_to_peers(exposure.peers);
        if let Some(form) = exposure.export {
            request = request.exportable(form);
        }
        if let Some(stream) = stream {
            request = request.queue(&self.streams[stream].queue);
        }
        let before = self.allocator.stats();
        let (before, calls) = (before.reserved.value, before.driver_calls);
        let allocated = if on_thread {
            let allocator = &self.allocator;
            on_another_thread(|| allocator.allocate_with(&request))
        } else {
            self.allocator.allocate_with(&request)
        };
        let lost = stream.is_some_and(|stream| self.streams[stream].lost);
        if held_only {
            assert_eq!(self.allocator.stats().driver_calls, calls);
        }
        match allocated {
            Ok(buffer) => {
                let after = self.allocator.stats().reserved.value;
                if let Some(limit) = self.limit {
                    assert!(
                        after <= before.max(limit),
                        "{after} bytes held with a limit of {limit}"
                    );
                }
                assert_eq!(buffer.len(), bytes);
                let mut model = Model::new(bytes);
                if zeroed {
                    model.fill(0..bytes, 0);
                }
                let number = stream.map(|stream| self.streams[stream].number);
                let least = alignment.max(256);
                self.add(buffer, exposure, least, model, number);
            }
            Err(error) => {
                let wrong = bytes == 0
                    || alignment == 3
                    || !self.target.storages.contains(&storage)
                    || !offered
                    || (zeroed && stream.is_none() && storage == StorageMode::Private);
                let permitted = match error.kind() {
                    ErrorKind::InvalidRequest | ErrorKind::Unsupported => wrong,
                    ErrorKind::OutOfMemory | ErrorKind::LimitExceeded => {
                        self.target.scarce
                            || self.limit.is_some()
                            || self.target.control().is_some() && zeroed
                    }
                    ErrorKind::Busy if held_only => true,
                    _ => lost && zeroed,
                };
                assert!(permitted || self.faults, "{error}");
                // Allocated, not zeroed, and freed.
                self.counts.exact &= !(zeroed && (self.faults || stream.is_some()));
            }
        }
    }

    /// Takes a new buffer in, after looking at everything that is known of it.
    fn add(
        &mut self,
        buffer: Buffer,
        exposure: Exposure,
        alignment: usize,
        model: Model,
        queue: Option<u64>,
    ) {
        let (bytes, block_bytes) = (buffer.len(), buffer.block_bytes());
        assert!(block_bytes >= bytes);
        let start = Start::of(&buffer.binding());
        if let Some(start) = start {
            // All of a segment that others reach is its block's, also what lies before the start.
            let there = match exposed::is_none(exposure) {
                true => block_bytes,
                false => bytes,
            };
            self.places.add(start, there);
            assert!(start.is_aligned(alignment), "{start:x?} for {alignment}");
            if let Some(address) = start.address() {
                assert!(
                    self.target.device.held().contains(address, there),
                    "{there} bytes at {address:#x} are not all there"
                );
            }
        }
        self.counts.live += bytes as u64;
        self.counts.live_peak = self.counts.live_peak.max(self.counts.live);
        self.counts.block_bytes += block_bytes as u64;
        self.counts.allocations += 1;
        let slot = Slot {
            start,
            len: bytes,
            block_bytes,
            storage: buffer.storage_mode(),
            memory: Memory::Own(buffer),
            model,
            export: exposure.export,
            queues: queue.into_iter().collect(),
            foreign: None,
        };
        self.check_found(&slot);
        self.slots.push(slot);
    }

    /// Takes a slot out, to be freed; the counts are as after the free.
    pub(super) fn remove(&mut self, index: usize) -> Slot {
        let slot = self.slots.swap_remove(index);
        if let Some(start) = slot.start {
            self.places.remove(start);
        }
        self.counts.live -= slot.len as u64;
        self.counts.block_bytes -= slot.block_bytes as u64;
        self.counts.frees += 1;
        slot
    }

    pub(super) fn free(&mut self, input: &mut Input<'_>) {
        if let Some(index) = self.pick(input) {
            if self.slots[index].foreign.is_some() {
                self.settle();
            }
            drop(self.remove(index));
        }
    }

    pub(super) fn free_on(&mut self, input: &mut Input<'_>) {
        let (Some(index), Some(stream)) = (self.pick(input), self.pick_stream(input)) else {
            return;
        };
        if !self.slots[index].may_use(self.streams[stream].number) {
            return;
        }
        let slot = self.remove(index);
        let queue = &self.streams[stream].queue;
        match slot.memory {
            Memory::Own(buffer) if input.below(4) == 0 => {
                on_another_thread(|| buffer.free_on(queue));
            }
            Memory::Own(buffer) => buffer.free_on(queue),
            shared @ Memory::Shared(..) => drop(shared),
        }
    }

    pub(super) fn other_thread(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            return self.allocate(input, true);
        }
        let Some(index) = self.pick(input) else {
            return;
        };
        if self.slots[index].foreign.is_some() {
            return;
        }
        let slot = self.remove(index);
        on_another_thread(move || drop(slot));
    }

    pub(super) fn raw(&mut self, input: &mut Input<'_>) {
        let Some(index) = self.pick(input) else {
            return;
        };
        let mut slot = self.slots.swap_remove(index);
        self.exchange(&slot);
        slot.memory = match slot.memory {
            Memory::Own(buffer) => match buffer.into_raw() {
                Ok(address) => {
                    self.check_found_at(address, slot.len);
                    match foreign::reclaim(&self.allocator, address) {
                        Ok(buffer) => Memory::Own(buffer),
                        Err(error) => panic!("{error}"),
                    }
                }
                Err(buffer) => {
                    assert!(slot.storage == StorageMode::Private);
                    Memory::Own(buffer)
                }
            },
            shared @ Memory::Shared(..) => shared,
        };
        self.slots.push(slot);
    }
}

pub(super) fn on_another_thread<T: Send>(function: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(function).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
