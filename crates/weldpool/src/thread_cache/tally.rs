//! Counters of one list in one thread.

#![forbid(unsafe_code)]

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, until_some};

/// Set once `left` was drawn.
const DRAWN: u64 = 1 << 63;
/// Stands in `end` while that and `left` change together.
const CHANGING: u64 = u64::MAX;

/// Counters of one list, which one thread writes, so that counting is a load and a store; each store that
/// the warm path is spared shows. It counts neither frees nor, where requests are of the usual length,
/// bytes: those follow from how many blocks are idle.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Tally {
    /// Allocations before the next sample.
    left: AtomicU64,
    /// What live requests are longer than the usual length, in all; wraps.
    odd: AtomicU64,
    /// The length of most requests; the same in all threads, and 0 until one is known.
    usual: AtomicU32,
    /// The number of allocations at which `left` is zero, and [`DRAWN`].
    end: AtomicU64,
    /// Blocks that are live or idle here: that came, past the warm path, less those that left; wraps, as
    /// others may free what this thread allocates.
    blocks: AtomicU64,
    /// Live bytes when the list was last told of them; wraps.
    told: AtomicU64,
}

/// Sums over threads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TallySum {
    pub(crate) allocations: u64,
    /// Blocks that users hold.
    pub(crate) live: u64,
    /// Bytes that users requested of those.
    pub(crate) live_bytes: u64,
}

fn set(counter: &AtomicU64, value: u64) {
    counter.store(value, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64, amount: u64) {
    set(counter, get(counter).wrapping_add(amount));
}

impl Tally {
    /// What is left of the allocations before the next sample, after one; none if this is the sample.
    #[inline]
    pub(crate) fn left_after_one(&self) -> Option<u64> {
        let (left, none) = self.left.load(Ordering::Relaxed).overflowing_sub(1);
        (!none).then_some(left)
    }

    /// Counts the allocation that leaves so many.
    #[inline]
    pub(crate) fn leave(&self, left: u64) {
        self.left.store(left, Ordering::Relaxed);
    }

    /// Counts the bytes of an allocation.
    #[inline]
    pub(crate) fn allocate_bytes(&self, requested: u64) {
        let usual = u64::from(self.usual.load(Ordering::Relaxed));
        if requested != usual {
            let odd = self.odd.load(Ordering::Relaxed);
            let odd = odd.wrapping_add(requested.wrapping_sub(usual));
            self.odd.store(odd, Ordering::Relaxed);
        }
    }

    /// Counts the bytes of a free.
    #[inline]
    pub(crate) fn free_bytes(&self, requested: u64) {
        let usual = u64::from(self.usual.load(Ordering::Relaxed));
        if requested != usual {
            let odd = self.odd.load(Ordering::Relaxed);
            let odd = odd.wrapping_sub(requested.wrapping_sub(usual));
            self.odd.store(odd, Ordering::Relaxed);
        }
    }

    pub(crate) fn usual(&self) -> u32 {
        self.usual.load(Ordering::Relaxed)
    }

    /// Sets the usual length; `idle` is the number of blocks.
    pub(crate) fn set_usual(&self, bytes: u32, idle: usize) {
        let before = self.usual();
        if bytes != before {
            let longer = u64::from(bytes).wrapping_sub(u64::from(before));
            let live = self.read(idle).live;
            add(&self.odd, live.wrapping_mul(longer).wrapping_neg());
            self.usual.store(bytes, Ordering::Relaxed);
        }
    }

    /// Whether the next allocation, which the warm path does not count, is to be a sample. `draw` says
    /// after how many further ones the next is.
    pub(crate) fn charge(&self, draw: impl Fn() -> u64) -> bool {
        let renew = |allocations: u64| {
            let drawn = draw();
            self.change(allocations.wrapping_add(drawn) | DRAWN, drawn);
        };
        if get(&self.end) & DRAWN == 0 {
            renew(get(&self.end));
        }
        let (left, end) = (get(&self.left), get(&self.end));
        match left.checked_sub(1) {
            Some(left) => self.change(end.wrapping_sub(1), left),
            None => renew(end),
        }
        left == 0
    }

    /// Sets both, so that nobody reads one of before and one of after.
    fn change(&self, end: u64, left: u64) {
        set(&self.end, CHANGING);
        // Whoever sees what `left` is from now on sees that `end` changed.
        fence(Ordering::Release);
        set(&self.left, left);
        self.end.store(end, Ordering::Release);
    }

    fn allocations(&self) -> u64 {
        until_some(|| {
            let end = self.end.load(Ordering::Acquire);
            let left = self.left.load(Ordering::Acquire);
            let is_one = end != CHANGING && end == self.end.load(Ordering::Relaxed);
            is_one.then(|| (end & !DRAWN).wrapping_sub(left))
        })
    }

    /// Counts an allocation that the warm path does not, of a block that was not idle here.
    pub(crate) fn count_allocation(&self, requested: u64) {
        add(&self.end, 1);
        add(&self.blocks, 1);
        self.allocate_bytes(requested);
    }

    /// Counts a free that the warm path does not, of a block that is not idle here yet.
    pub(crate) fn count_free(&self, requested: u64) {
        add(&self.blocks, 1_u64.wrapping_neg());
        self.free_bytes(requested);
    }

    /// Counts idle blocks that came, past the warm path; call it before they are here.
    pub(crate) fn came(&self, count: usize) {
        add(&self.blocks, count as u64);
    }

    /// Counts idle blocks that left, past the warm path; call it when they are gone.
    pub(crate) fn went(&self, count: usize) {
        add(&self.blocks, (count as u64).wrapping_neg());
    }

    /// What live bytes are more than when this was last called; wraps. `idle` is the number of blocks.
    pub(crate) fn tell(&self, idle: usize) -> u64 {
        let bytes = self.read(idle).live_bytes;
        let more = bytes.wrapping_sub(get(&self.told));
        set(&self.told, bytes);
        more
    }

    /// Adds what another tally counted, whose thread has ended and has no idle blocks any more.
    pub(crate) fn absorb(&self, other: &Self) {
        add(&self.end, other.read(0).allocations);
        for (own, other) in [
            (&self.odd, &other.odd),
            (&self.blocks, &other.blocks),
            (&self.told, &other.told),
        ] {
            add(own, get(other));
        }
    }

    /// Forgets what was counted; nothing is live.
    pub(crate) fn reset(&self, idle: usize) {
        set(&self.end, get(&self.left) | (get(&self.end) & DRAWN));
        set(&self.blocks, idle as u64);
        set(&self.odd, 0);
        set(&self.told, 0);
    }

    fn read(&self, idle: usize) -> TallySum {
        let live = get(&self.blocks).wrapping_sub(idle as u64);
        let usual = u64::from(self.usual.load(Ordering::Relaxed));
        TallySum {
            allocations: self.allocations(),
            live,
            live_bytes: live.wrapping_mul(usual).wrapping_add(get(&self.odd)),
        }
    }
}

impl TallySum {
    /// Adds a tally of a list of which so many blocks are idle.
    pub(crate) fn add(&mut self, tally: &Tally, idle: usize) {
        let read = tally.read(idle);
        self.allocations = self.allocations.wrapping_add(read.allocations);
        self.live = self.live.wrapping_add(read.live);
        self.live_bytes = self.live_bytes.wrapping_add(read.live_bytes);
    }

    /// Buffers given back.
    pub(crate) fn frees(&self) -> u64 {
        self.allocations.wrapping_sub(self.live)
    }
}
