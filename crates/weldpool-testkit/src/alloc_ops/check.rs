//! What must be true at any time.

use std::ptr::NonNull;

use super::machine::Machine;
use super::slot::Slot;

impl Machine {
    /// Asserts that the allocator finds the buffer by each of its addresses.
    pub(super) fn check_found(&self, slot: &Slot) {
        let Some(host) = slot.binding().host else {
            return;
        };
        self.check_found_at(host, slot.len);
    }

    pub(super) fn check_found_at(&self, host: NonNull<u8>, bytes: usize) {
        for offset in [0, bytes / 2, bytes - 1] {
            let found = self.allocator.find(host.as_ptr().wrapping_add(offset));
            let found = found.map(|found| (found.address, found.bytes));
            assert_eq!(found, Some((host.as_ptr().addr(), bytes)));
        }
        let beyond = self.allocator.find(host.as_ptr().wrapping_add(bytes));
        assert!(beyond.is_none_or(|beyond| beyond.address != host.as_ptr().addr()));
    }

    /// Asserts that the statistics are those of the model.
    pub(super) fn check(&self) {
        let stats = self.allocator.stats();
        let counts = &self.counts;
        assert_eq!(stats.live.value, counts.live, "live bytes");
        assert_eq!(stats.block_bytes, counts.block_bytes, "bytes of blocks");
        assert!(stats.live.peak >= counts.live_peak, "peak of live bytes");
        let live = self.slots.len() as u64;
        assert_eq!(stats.allocations - stats.frees, live, "live buffers");
        if counts.exact {
            assert_eq!(stats.allocations, counts.allocations, "allocations");
            assert_eq!(stats.frees, counts.frees, "frees");
        }
        let held = self.target.device.held().bytes();
        assert_eq!(stats.reserved.value, held, "bytes held from the driver");
        assert!(
            stats.block_bytes + stats.deferred_bytes <= held,
            "{} bytes in use and {} waiting of {held}",
            stats.block_bytes,
            stats.deferred_bytes
        );
        assert_eq!(
            self.allocator
                .live_report()
                .buffers
                .iter()
                .map(|one| one.bytes as u64)
                .sum::<u64>(),
            counts.live
        );
        for slot in &self.slots {
            self.check_found(slot);
        }
    }
}
