//! Reuse in the order of the device's work: blocks that were freed while submitted work may still
//! use them.
//!
//! Such a block may be handed out again at once for work on the same queue, since that runs after
//! the old work; to everybody else only after the old work's fences have passed.

use std::time::{Duration, Instant};

use crate::block::Block;
use crate::device::StorageMode;
use crate::in_flight::Use;
use crate::queue::QueueId;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// Blocks that wait for fences.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    waiting: Mutex<Vec<Waiting>>,
    count: AtomicUsize,
    bytes: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    block: Block,
    uses: Vec<Use>,
}

impl Deferred {
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn put(&self, block: Block, uses: Vec<Use>) {
        self.bytes.fetch_add(block.bytes as u64, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        waiting.push(Waiting { block, uses });
        self.count.store(waiting.len(), Ordering::Release);
    }

    /// A block for work on `queue` that only work on the same queue still uses, with those uses: the
    /// host may not touch it before they are over.
    pub(crate) fn take_for_queue(
        &self,
        queue: QueueId,
        storage: StorageMode,
        bytes: usize,
        alignment: usize,
    ) -> Option<(Block, Vec<Use>)> {
        let mut waiting = self.waiting.lock();
        let index = waiting.iter().position(|one| {
            one.block.bytes == bytes
                && one.block.entry.storage == storage
                && one.block.is_aligned(alignment)
                && one.uses.iter().all(|used| used.fence.queue() == queue)
        })?;
        let Waiting { block, uses } = waiting.swap_remove(index);
        self.count.store(waiting.len(), Ordering::Release);
        self.bytes.fetch_sub(block.bytes as u64, Ordering::Relaxed);
        Some((block, uses))
    }

    /// Takes the blocks whose work is over.
    pub(crate) fn collect(&self) -> Vec<Block> {
        let mut waiting = self.waiting.lock();
        let mut over = Vec::new();
        let mut index = 0;
        while index < waiting.len() {
            if waiting[index].uses.iter().all(Use::is_over) {
                over.push(waiting.swap_remove(index).block);
            } else {
                index += 1;
            }
        }
        self.count.store(waiting.len(), Ordering::Release);
        let bytes: u64 = over.iter().map(|block| block.bytes as u64).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        over
    }

    /// Waits up to `timeout` in all for the work of every block that waits now.
    pub(crate) fn wait(&self, timeout: Duration) {
        let start = Instant::now();
        let fences: Vec<_> = {
            let waiting = self.waiting.lock();
            waiting
                .iter()
                .flat_map(|one| one.uses.iter().map(|used| used.fence.clone()))
                .collect()
        };
        for fence in fences {
            let left = timeout.saturating_sub(start.elapsed());
            // A fence that fails or is late leaves its block where it is.
            let _late = fence.wait(Some(left));
        }
    }

    /// Gives up the blocks that still wait, without freeing the memory under them.
    pub(crate) fn leak(&self) {
        std::mem::forget(std::mem::take(&mut *self.waiting.lock()));
    }
}
