//! Memory that others reach, and what this process itself imports of it.

use weldpool::device::Exposure;
use weldpool::{ErrorKind, Export};

use super::machine::Machine;
use super::places::Start;
use super::slot::{Memory, Slot};
use crate::sharing;

/// Who is to reach a buffer besides, by a number below 32: mostly nobody.
pub(super) fn choose(number: u8) -> Exposure {
    let (export, peers) = match number {
        0 => (Some(Export::FileDescriptor), false),
        1 => (Some(Export::FileDescriptor), true),
        2 => (Some(Export::LegacyIpc), false),
        3 => (None, true),
        _ => (None, false),
    };
    Exposure { export, peers }
}

pub(super) fn is_none(exposure: Exposure) -> bool {
    exposure == Exposure::default()
}

impl Machine {
    /// Exports a buffer that no work uses, and imports it beside itself for a moment.
    pub(super) fn exchange(&mut self, slot: &Slot) {
        let Memory::Own(buffer) = &slot.memory else {
            return;
        };
        // A driver may refuse a legacy handle of its own process, as CUDA does.
        if slot.export != Some(Export::FileDescriptor) || !slot.queues.is_empty() {
            return;
        }
        let exported = match sharing::export(buffer) {
            Ok(exported) => exported,
            Err(error) => return assert!(self.faults, "{error}"),
        };
        assert_eq!(exported.len(), slot.len);
        let before = self.allocator.stats().reserved.value;
        let imported = match sharing::import(&self.allocator, &exported) {
            Ok(imported) => imported,
            Err(error) => {
                let limited = error.kind() == ErrorKind::LimitExceeded && self.limit.is_some();
                return assert!(limited || self.faults, "{error}");
            }
        };
        drop(exported);
        assert_eq!(imported.len(), slot.len);
        assert_ne!(Start::of(&imported.binding()), slot.start);
        let after = self.allocator.stats();
        assert_eq!(after.live.value, self.counts.live + slot.len as u64);
        if let Some(limit) = self.limit {
            assert!(after.reserved.value <= before.max(limit));
        }
        if let Ok(contents) = imported.read() {
            slot.check(&contents);
        }
        self.counts.live_peak = self.counts.live_peak.max(after.live.value);
        self.counts.allocations += 1;
        self.counts.frees += 1;
    }
}
