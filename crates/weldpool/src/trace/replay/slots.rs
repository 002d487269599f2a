//! Where live buffers are kept between their allocation and their free, by number.

#![forbid(unsafe_code)]

use crate::buffer::Buffer;
use crate::sync::{AtomicU32, Mutex, Ordering};

/// What a free finds.
pub(super) enum Found {
    Buffer(Buffer),
    /// The allocation had failed.
    Nothing,
}

/// Slots that threads share: a buffer may be freed by another thread than allocated it.
pub(super) struct SharedSlots {
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    state: AtomicU32,
    buffer: Mutex<Option<Buffer>>,
}

const EMPTY: u32 = 0;
const DONE: u32 = 1;

impl SharedSlots {
    pub(super) fn new(count: usize) -> Self {
        Self {
            slots: (0..count).map(|_| Slot::default()).collect(),
        }
    }

    /// Puts the outcome of an allocation.
    pub(super) fn put(&self, slot: u32, buffer: Option<Buffer>) {
        let slot = &self.slots[slot as usize];
        *slot.buffer.lock() = buffer;
        slot.state.store(DONE, Ordering::Release);
    }

    /// Takes it, waiting until it has been put. The steps of each thread are in the order of the
    /// trace, so the first step of all that is not done never waits.
    pub(super) fn take(&self, slot: u32) -> Found {
        let slot = &self.slots[slot as usize];
        let mut spins = 0_u32;
        while slot.state.load(Ordering::Acquire) == EMPTY {
            spins += 1;
            if spins < 100 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        match slot.buffer.lock().take() {
            Some(buffer) => Found::Buffer(buffer),
            None => Found::Nothing,
        }
    }
}
