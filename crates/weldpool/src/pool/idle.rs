//! Idle memory: emptying caches, collecting what work has left, and how much there is.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::Pool;
use super::arenas::Pair;
use super::place::Place;
use super::shelves::is_little;
use crate::arena::{Arena, SMALL_BYTES_MAX, Want};
use crate::block::{Block, Point};
use crate::profiling::SlowPath;
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
        self.classes.drain(|_| true, &mut drained);
        if !all {
            drained = self.keep_least(drained);
        }
        self.put_in_arenas(drained)
    }

    /// Empties, for a request past free memory, what threads lend and the class pools into the arenas; for a
    /// large one only large blocks where small ones are little beside what is live, since they leave no more than
    /// their spans. Returns the bytes.
    pub(super) fn drain_caches_for(&self, place: Place, live: u64) -> usize {
        let small_stay =
            !place.is_small() && self.keeps_small() && is_little(self.idle_small_bytes(), live);
        if !small_stay {
            return self.drain_caches(false);
        }
        let drained = self.drain_lists(|list| self.classes.block_bytes(list) > SMALL_BYTES_MAX);
        self.put_in_arenas(self.keep_least(drained))
    }

    /// Bytes of idle small blocks in class pools and where threads lend them; O(threads x lists in use).
    fn idle_small_bytes(&self) -> u64 {
        let small = |list: usize| {
            let bytes = self.classes.block_bytes(list);
            (bytes <= SMALL_BYTES_MAX).then_some(bytes)
        };
        let shards = self.shards.lock();
        let lent: u64 = shards.iter().map(|shard| shard.lent_bytes_of(small)).sum();
        lent + self.classes.idle_bytes_of(small)
    }

    /// What is left of drained blocks once each class has kept what it is to keep.
    pub(super) fn keep_least(&self, drained: Vec<Block>) -> Vec<Block> {
        self.classes
            .keep_least(drained, |class| self.tuned.kept(class))
    }

    /// Gives drained blocks, and the spans that are empty then, to the arenas. Returns the bytes of the blocks.
    pub(super) fn put_in_arenas(&self, drained: Vec<Block>) -> usize {
        let bytes = drained.iter().map(Block::bytes).sum();
        self.give_back(drained);
        self.release_empty_spans();
        bytes
    }

    /// Takes the idle blocks of the lists that are `wanted` out of the class pools, and out of threads' caches
    /// where others may take them.
    pub(super) fn drain_lists(&self, wanted: impl Fn(usize) -> bool) -> Vec<Block> {
        let mut drained = Vec::new();
        let shards = self.shards.lock().clone();
        for shard in shards {
            shard.drain_lent(&wanted, &mut drained);
        }
        self.classes.drain(&wanted, &mut drained);
        drained
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
            if signal {
                self.deferred.cover();
            }
            for block in self.deferred.collect(|_| true) {
                any = true;
                self.release(block);
            }
        }
        self.collect_pending(signal) | any
    }

    /// The same for memory of the arenas, of which none goes back to the device.
    pub(super) fn collect_pending(&self, signal: bool) -> bool {
        if self.orders.is_empty() {
            return false;
        }
        self.orders.forget_ended(false);
        let queues = self.pending_queues();
        if signal {
            for &(queue, value) in &queues {
                self.orders.cover(Point { queue, value });
            }
        }
        self.pass(&queues)
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
        let bytes = || usize::try_from(self.deferred_bytes()).unwrap_or(usize::MAX);
        let _span = self.device.spans().begin_with(SlowPath::Wait, bytes);
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
        let Some(first) = arena.others_after(want) else {
            return;
        };
        let longest = self.wait_for_others_max();
        let Some(allowed) = self.reserve.affordable_wait(longest, want.live) else {
            return;
        };
        // Paid for once, though several queues may be waited for.
        self.reserve.charge_wait(allowed);
        let _span = self.device.span(SlowPath::Wait, want.bytes);
        let start = Instant::now();
        let mut next = Some(first);
        while let Some(point) = next {
            let left = allowed.saturating_sub(start.elapsed());
            if left.is_zero() || !self.orders.wait(point, left) {
                break;
            }
            self.collect(false);
            next = arena.others_after(want).filter(|&after| after != point);
        }
    }

    fn await_exchange(&self, arena: &Arena, want: &Want) {
        let start = Instant::now();
        let (mut last, mut asked) = (None, None);
        while let Some(point) = arena.exchange_after(want) {
            asked = asked.or_else(|| Some(self.device.span(SlowPath::Wait, want.bytes)));
            let left = EXCHANGE_WAIT_MAX.saturating_sub(start.elapsed());
            if last == Some(point) || left.is_zero() || !self.orders.wait(point, left) {
                break;
            }
            self.collect(false);
            last = Some(point);
        }
        if asked.is_some() {
            self.reserve.note_waited(start);
        }
    }

    /// Returns all idle memory to the device; says how many bytes.
    pub(crate) fn clear(&self) -> usize {
        self.collect(true);
        self.drain_caches(true);
        self.trim(usize::MAX) + self.clear_rooms()
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

    /// Whether no more than `most` bytes are idle; the longer walks only where there is doubt.
    pub(super) fn idles_within(&self, most: u64) -> bool {
        self.device.reserved().value <= most
            || self.idle_bytes_at_most() <= most
            || self.idle_bytes() <= most
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::device::host::HostDevice;
    use crate::strategy::Adaptive;
    use crate::sync::Arc;
    use crate::{Allocator, Config, Request};

    /// A request that waits for one queue after the other pays for how long it may wait in all.
    #[test]
    fn a_wait_for_several_queues_is_paid_for_once() {
        const MIB: usize = 1 << 20;
        let longest = Duration::from_secs(1);
        let config = Config {
            // Of 30 MiB that is three seconds.
            driver_ns_per_operation: 10_000_000,
            strategy: Some(Arc::new(Adaptive::new(1.0, longest).unwrap())),
            ..Config::default()
        };
        let device = Arc::new(HostDevice::new().unwrap());
        let allocator = Allocator::builder(device).config(config).build().unwrap();
        let pool = allocator.pool();
        drop([(); 3].map(|()| allocator.allocate(10 * MIB).unwrap()));
        assert!(allocator.clear() > 0);
        // The one with more is waited for first.
        for (mib, sleep) in [(11, 50), (9, 150)] {
            let queue = allocator.create_queue().unwrap();
            let request = Request::new(mib * MIB).queue(&queue);
            let buffer = allocator.allocate_with(&request).unwrap();
            let sleep = Duration::from_millis(sleep);
            queue.call(move || std::thread::sleep(sleep)).unwrap();
            buffer.free_on(&queue);
        }
        let left = || pool.reserve.affordable_wait(Duration::MAX, 0).unwrap();
        let (before, reserved) = (left(), allocator.stats().reserved.value);
        let start = Instant::now();
        let _both = allocator.allocate(15 * MIB).unwrap();
        assert!(start.elapsed() > Duration::from_millis(40), "it waited");
        assert_eq!(allocator.stats().reserved.value, reserved, "for both");
        let paid = before.saturating_sub(left());
        assert!((longest / 2..longest * 5 / 4).contains(&paid), "{paid:?}");
    }
}
