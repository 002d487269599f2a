//! The blocks that lie with one thread: taking them out, putting them back, and making room.

#![allow(unsafe_code)]

use super::bin::Bin;
use super::shard::Shard;
use super::{OWN_BLOCK_BYTES_MAX, OWN_BYTES_MAX};
use crate::block::{Block, ListId};
use crate::sync::{AtomicUsize, Ordering};

fn bytes_of(blocks: &[Block]) -> usize {
    blocks.iter().map(Block::bytes).sum()
}

#[inline]
fn add(counter: &AtomicUsize, amount: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(sum, Ordering::Relaxed);
}

/// What the counters are after an allocation.
struct Left {
    allocations: u64,
    headroom: u64,
}

impl Shard {
    /// A block of the list, counted as handed out.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    #[inline(always)]
    pub(super) unsafe fn pop(&self, list: ListId, requested: usize) -> Option<Block> {
        let bin = self.bins.get(list);
        let Some(last) = bin.last_own() else {
            return if bin.is_lent() {
                self.pop_lent(bin, requested)
            } else {
                None
            };
        };
        let left = self.after_allocation(bin, requested)?;
        self.count(bin, left, requested);
        // SAFETY: the owner is inside of what is not lent.
        Some(unsafe { bin.take_own(last) })
    }

    // The paths of lent bins are functions of their own, so that the others have no calls to make room
    // for.

    #[inline(never)]
    fn pop_lent(&self, bin: &Bin, requested: usize) -> Option<Block> {
        let _inside = self.lending.enter()?;
        let last = bin.last_lent()?;
        let left = self.after_allocation(bin, requested)?;
        self.count(bin, left, requested);
        // SAFETY: this thread is the owner, and inside.
        let block = unsafe { bin.take_lent(last) };
        self.count_out(block.bytes());
        Some(block)
    }

    /// What an allocation leaves of the counters; nothing for a sample, or at a new peak.
    #[inline(always)]
    fn after_allocation(&self, bin: &Bin, requested: usize) -> Option<Left> {
        Some(Left {
            allocations: bin.tally.left_after_one()?,
            headroom: self.headroom.after(requested as u64)?,
        })
    }

    #[inline(always)]
    fn count(&self, bin: &Bin, left: Left, requested: usize) {
        bin.tally.leave(left.allocations);
        self.headroom.leave(left.headroom);
        bin.tally.allocate_bytes(requested as u64);
    }

    /// Puts a block into its bin, counted as given back, if the bin is the thread's own and has room.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    #[inline(always)]
    pub(super) unsafe fn push_own(&self, block: Block) -> Result<(), Block> {
        let bin = self.bins.get(block.list());
        let requested = block.requested() as u64;
        // SAFETY: the caller is the owner.
        unsafe { bin.push_own(block) }?;
        self.count_pushed(bin, requested);
        Ok(())
    }

    #[inline(always)]
    fn count_pushed(&self, bin: &Bin, requested: u64) {
        bin.tally.free_bytes(requested);
        self.headroom.put(requested);
    }

    /// Likewise if the bin is lent.
    ///
    /// # Safety
    ///
    /// As for [`push_own`](Self::push_own).
    #[inline(always)]
    pub(super) unsafe fn push_lent(&self, block: Block) -> Result<(), Block> {
        let bin = self.bins.get(block.list());
        if !bin.is_lent() {
            return Err(block);
        }
        let (bytes, requested) = (block.bytes(), block.requested() as u64);
        let Some(_inside) = self.lending.enter() else {
            return Err(block);
        };
        let Some(lent) = self.lent_with(bytes).filter(|_| block.is_kept()) else {
            return Err(block);
        };
        // SAFETY: this thread is the owner, and inside.
        unsafe { bin.push_lent(block) }?;
        self.count_pushed(bin, requested);
        self.lent_bytes.store(lent, Ordering::Relaxed);
        Ok(())
    }

    /// Puts a block into its bin, which is opened and given room if need be. Only for the thread that
    /// owns the shard.
    pub(super) fn put(&self, block: Block) -> Result<(), Block> {
        if !self.bins.can_keep() || !block.is_kept() {
            return Err(block);
        }
        let Some(bin) = self.bins.make(block.list()) else {
            return Err(block);
        };
        let (bytes, most) = (block.bytes(), block.thread_max());
        let lent = bytes > OWN_BLOCK_BYTES_MAX;
        // SAFETY: the caller is the owner.
        unsafe { bin.open(bytes, most, lent) };
        let _held = self.lending.hold();
        if !lent {
            if !bin.has_room() {
                let own = self.own_room_bytes.load(Ordering::Relaxed);
                let grown = bin.grow(most, OWN_BYTES_MAX.saturating_sub(own));
                self.own_room_bytes.store(own + grown, Ordering::Relaxed);
            }
            // SAFETY: the owner is inside of its own bin.
            return unsafe { bin.push(block) };
        }
        let Some(lent) = self.lent_with(bytes) else {
            return Err(block);
        };
        // SAFETY: the owner has the right to what is lent.
        unsafe { bin.push(block) }?;
        self.lent_bytes.store(lent, Ordering::Relaxed);
        Ok(())
    }

    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    pub(super) unsafe fn take_surplus(&self, list: ListId) -> Option<Vec<Block>> {
        let bin = self.bins.get(list);
        let _held = self.lending.hold();
        if bin.is_lent() {
            // SAFETY: the owner has the right to what is lent.
            let surplus = unsafe { bin.take_half() };
            self.count_out(bytes_of(&surplus));
            return Some(surplus);
        }
        // SAFETY: the owner is inside of its own bin.
        let mut surplus = unsafe { bin.take_half() };
        let full = |shard: &Self| shard.own_room_bytes.load(Ordering::Relaxed) > OWN_BYTES_MAX / 2;
        if full(self) {
            let own = |(other, bin): &(usize, &Bin)| *other != list.index() && !bin.is_lent();
            // Room that nothing needs, and where that is not enough, room that something has.
            for (_, bin) in self.bins.used().filter(own) {
                self.shrink(bin);
            }
            for (_, bin) in self.bins.used().filter(own) {
                if full(self) {
                    // SAFETY: as above.
                    unsafe { bin.drain(&mut surplus) };
                    self.shrink(bin);
                }
            }
        }
        Some(surplus)
    }

    /// Takes room back that no block has, of one of the thread's own bins.
    fn shrink(&self, bin: &Bin) {
        add(&self.own_room_bytes, bin.shrink().wrapping_neg());
    }

    /// What the blocks of a list that lie here need of the peak's headroom. For the owner.
    pub(super) fn list_bytes(&self, list: ListId) -> u64 {
        self.bins.get(list).bytes() as u64
    }

    /// Takes blocks that were lent out of the account of what lies here. For whoever has the right.
    #[inline]
    pub(super) fn count_out(&self, bytes: usize) {
        add(&self.lent_bytes, bytes.wrapping_neg());
    }

    /// Takes what others may take of the lists that are `wanted`.
    pub(crate) fn drain_lent(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        if self.lent_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(_closed) = self.lending.close() {
            // SAFETY: the right is ours until it is dropped.
            unsafe { self.drain_lent_here(wanted, drained) };
        }
    }

    /// # Safety
    ///
    /// The caller has the right to what is lent.
    unsafe fn drain_lent_here(&self, wanted: impl Fn(usize) -> bool, drained: &mut Vec<Block>) {
        let before = drained.len();
        let lent = self.bins.used().filter(|(_, bin)| bin.is_lent());
        for (_, bin) in lent.filter(|(list, _)| wanted(*list)) {
            // SAFETY: the caller's promise.
            unsafe { bin.drain(drained) };
        }
        self.count_out(bytes_of(&drained[before..]));
    }

    /// Takes everything.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the shard.
    pub(super) unsafe fn drain_all(&self, drained: &mut Vec<Block>) {
        let _held = self.lending.hold();
        for (_, bin) in self.bins.used().filter(|(_, bin)| !bin.is_lent()) {
            // SAFETY: the owner is inside of its own bin.
            unsafe { bin.drain(drained) };
            self.shrink(bin);
        }
        // SAFETY: the owner has the right to what is lent.
        unsafe { self.drain_lent_here(|_| true, drained) };
    }
}
