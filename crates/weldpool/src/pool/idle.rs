//! Idle memory: emptying caches, collecting what work has left, and how much there is.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::Pool;
use super::arenas::Pair;
use crate::arena::{Arena, Want};
use crate::block::{Block, Point};
use crate::thread_cache;
use crate::wait::{Wait, left_out};

/// Longest wait for memory in flight instead of growing.
const EXCHANGE_WAIT_MAX: Duration = Duration::from_millis(5);

impl Pool {
    /// Empties what threads cache, as far as it can be taken from them, and the class pools, into the
    /// arenas; unless `all`, each class keeps what it is to keep. Returns the bytes.
    pub(super) fn drain_caches(&self, all: bool) -> usize {
        let mut drained = Vec::new();
        thread_cache::drain_own(self, &mut drained);
        let shards = self.shards.lock().clone();
        for shard in shards {
            shard.drain_lent(|_| true, &mut drained);
        }
        self.classes.drain(&mut drained);
        if !all {
            drained = self
                .classes
                .keep_least(drained, |class| self.tuned.kept(class));
        }
        let bytes = drained.iter().map(Block::bytes).sum();
        self.give_back(drained);
        self.release_empty_spans();
        bytes
    }

    /// Gives spans without a small block back to their arenas.
    pub(super) fn release_empty_spans(&self) {
        for (arena, small) in self.arenas.iter() {
            for span in small.take_empty() {
                arena.release(span, None, self.is_contended());
            }
        }
    }

    /// Makes memory free whose work is over; with `signal`, marks the queues that have pending memory
    /// which no signal covers yet. True if there was any.
    pub(super) fn collect(&self, signal: bool) -> bool {
        let mut any = false;
        if !self.deferred.is_empty() {
            for block in self.deferred.collect() {
                any = true;
                self.release(block);
            }
        }
        if self.orders.is_empty() {
            return any;
        }
        self.orders.forget_ended();
        let queues = self.pending_queues();
        if signal {
            for &(queue, value) in &queues {
                self.orders.cover(Point { queue, value });
            }
        }
        self.pass(&queues) | any
    }

    /// The queues that memory of the arenas waits for, and the greatest value of each.
    fn pending_queues(&self) -> Vec<(u32, u64)> {
        let mut queues = Vec::new();
        for (arena, small) in self.arenas.iter() {
            arena.pending_queues(&mut queues);
            small.pending_queues(&mut queues);
        }
        queues.sort_unstable();
        queues.reverse();
        queues.dedup_by_key(|(queue, _)| *queue);
        queues
    }

    /// Makes memory of the arenas free for everybody that waited for what these queues have done by now. True if
    /// there was any. No block is released, and no memory of the device.
    fn pass(&self, queues: &[(u32, u64)]) -> bool {
        let mut any = false;
        for &(queue, _) in queues {
            let completed = match self.orders.completed(queue) {
                _ if left_out(Wait::Collect) => u64::MAX,
                completed => completed,
            };
            for (arena, small) in self.arenas.iter() {
                any |= arena.pass(queue, completed);
                any |= small.pass(queue, completed);
            }
        }
        any
    }

    /// Waits up to `timeout` in all for the work that pending memory waits for.
    pub(super) fn wait(&self, timeout: Duration) {
        let start = Instant::now();
        self.deferred.wait(timeout);
        for (queue, value) in self.pending_queues() {
            let left = timeout.saturating_sub(start.elapsed());
            let _late = self.orders.wait(Point { queue, value }, left);
        }
        self.collect(true);
    }

    /// Waits for work in flight where its memory saves growing: by mapping it together, or by exchanging
    /// segments or handles.
    pub(super) fn await_work(&self, arena: &Arena, want: &Want) {
        if arena.maps_memory() {
            self.await_others(arena, want);
        }
        self.await_exchange(arena, want);
    }

    fn await_others(&self, arena: &Arena, want: &Want) {
        let longest = self.wait_for_others_max();
        let start = Instant::now();
        let mut last = None;
        while let Some((point, allowed)) = arena.others_after(want, longest) {
            let left = allowed.saturating_sub(start.elapsed());
            if last == Some(point) || left.is_zero() {
                break;
            }
            self.reserve.charge_wait(left);
            if !self.orders.wait(point, left) {
                break;
            }
            self.collect(false);
            last = Some(point);
        }
    }

    fn await_exchange(&self, arena: &Arena, want: &Want) {
        let start = Instant::now();
        let (mut last, mut asked) = (None, false);
        while let Some(point) = arena.exchange_after(want) {
            asked = true;
            let left = EXCHANGE_WAIT_MAX.saturating_sub(start.elapsed());
            if last == Some(point) || left.is_zero() || !self.orders.wait(point, left) {
                break;
            }
            self.collect(false);
            last = Some(point);
        }
        if asked {
            self.reserve.note_waited(start);
        }
    }

    /// Returns all idle memory to the device; says how many bytes.
    pub(crate) fn clear(&self) -> usize {
        self.collect(true);
        self.drain_caches(true);
        self.trim(usize::MAX)
    }

    pub(super) fn idle_bytes(&self) -> u64 {
        let used = self.block_bytes(&self.counted()) + self.deferred_bytes();
        self.device.reserved().value.saturating_sub(used)
    }

    /// No less than the bytes that are idle; a shorter walk.
    pub(super) fn idle_bytes_at_most(&self) -> u64 {
        self.device
            .reserved()
            .value
            .saturating_sub(self.live_bytes())
    }

    /// Bytes that work is still to use, as far as that is known without a signal; what is over is told
    /// as idle, and stays where it is.
    pub(super) fn awaited_bytes(&self) -> u64 {
        if self.deferred_bytes() == 0 {
            return 0;
        }
        self.pass(&self.pending_queues());
        let over = self.deferred.over_bytes();
        self.deferred_bytes().saturating_sub(over)
    }

    pub(super) fn deferred_bytes(&self) -> u64 {
        let pending = |(arena, small): &Pair| arena.free().pending + small.free().pending;
        let arenas: usize = self.arenas.iter().map(pending).sum();
        self.deferred.bytes() + arenas as u64
    }
}
