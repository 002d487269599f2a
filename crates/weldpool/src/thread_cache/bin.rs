//! The idle blocks of one list in one thread, and what the thread counted of the list.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use super::tally::Tally;
use crate::block::{Block, THREAD_MAX};
use crate::sync::{AtomicBool, AtomicU32, Ordering};

/// Most blocks in one bin.
const BIN_BLOCKS_MAX: usize = THREAD_MAX as usize;
/// Room that a bin is first given.
const FIRST_ROOM: usize = 8;

type Slots = [Option<Block>; BIN_BLOCKS_MAX];

/// One list of one thread.
///
/// Whoever may touch the blocks is *inside*: of an own bin the thread that owns it, of a lent one whoever
/// has the right that the thread's [`Lending`](super::lending::Lending) gives. A lent bin keeps its count
/// elsewhere, so that to the way of own bins it is empty and without room.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// There once the bin is open.
    slots: UnsafeCell<Option<Box<Slots>>>,
    own: Level,
    pub(crate) tally: Tally,
    lent: Level,
    /// Bytes of one block; at most `u32::MAX` is told apart.
    block_bytes: AtomicU32,
    is_lent: AtomicBool,
}

/// How many blocks there are, of at most so many.
#[derive(Default)]
struct Level {
    count: AtomicU32,
    /// Never above [`BIN_BLOCKS_MAX`], and zero while the bin is closed.
    room: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bin>() == crate::block::ListId::BIN_BYTES);

// SAFETY: `slots` is only touched from inside, where one thread is at a time; see the methods, whose
// callers promise it.
unsafe impl Sync for Bin {}

impl Level {
    #[inline]
    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// The last slot that has a block.
    #[inline]
    fn last(&self) -> Option<u32> {
        let (last, none) = self.count.load(Ordering::Relaxed).overflowing_sub(1);
        (!none).then_some(last)
    }

    /// The first slot that has none, if there is room.
    #[inline]
    fn end(&self) -> Option<u32> {
        let count = self.count.load(Ordering::Relaxed);
        (count < self.room.load(Ordering::Relaxed)).then_some(count)
    }

    #[inline]
    fn set(&self, count: u32) {
        self.count.store(count, Ordering::Relaxed);
    }
}

impl Bin {
    /// Whether others come here too.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Acquire)
    }

    fn level(&self) -> &Level {
        if self.is_lent() {
            &self.lent
        } else {
            &self.own
        }
    }

    /// Blocks that are here.
    pub(crate) fn len(&self) -> usize {
        self.level().len()
    }

    /// Bytes of the blocks that are here.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.block_bytes()
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes.load(Ordering::Relaxed) as usize
    }

    /// Lets blocks be put here, with room for `most` if the bin is lent and for none otherwise. Length of
    /// the blocks and `lent` are the same each time.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin.
    pub(crate) unsafe fn open(&self, block_bytes: usize, most: usize, lent: bool) {
        if self.block_bytes() == 0 {
            // SAFETY: nobody but the owner touches the slots of a closed bin.
            let slots = unsafe { &mut *self.slots.get() };
            *slots = Some(Box::new([const { None }; BIN_BLOCKS_MAX]));
            let bytes = u32::try_from(block_bytes).unwrap_or(u32::MAX);
            self.block_bytes.store(bytes, Ordering::Relaxed);
            if lent {
                // At most `BIN_BLOCKS_MAX`.
                let room = most.min(BIN_BLOCKS_MAX) as u32;
                self.lent.room.store(room, Ordering::Relaxed);
                self.is_lent.store(true, Ordering::Release);
            }
        }
    }

    /// Makes room in an own bin for more blocks, `most` in all and further ones of at most so many bytes;
    /// says of how many bytes. For the owner.
    pub(crate) fn grow(&self, most: usize, bytes_max: usize) -> usize {
        let room = self.own.room.load(Ordering::Relaxed) as usize;
        let grown = (most.min(BIN_BLOCKS_MAX).saturating_sub(room))
            .min(bytes_max / self.block_bytes().max(1))
            .min(room.max(FIRST_ROOM));
        // At most `BIN_BLOCKS_MAX`.
        self.own
            .room
            .store((room + grown) as u32, Ordering::Relaxed);
        grown * self.block_bytes()
    }

    /// Takes back room of an own bin that no block has; says of how many bytes. For the owner.
    pub(crate) fn shrink(&self) -> usize {
        let count = self.own.count.load(Ordering::Relaxed);
        let room = self.own.room.swap(count, Ordering::Relaxed);
        room.saturating_sub(count) as usize * self.block_bytes()
    }

    /// Whether there is room for a block.
    pub(crate) fn has_room(&self) -> bool {
        self.level().end().is_some()
    }

    /// # Safety
    ///
    /// The caller is inside, and the bin is open.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "whoever is inside is alone")]
    unsafe fn slots(&self) -> &mut Slots {
        // SAFETY: nobody else touches the slots now.
        let slots = unsafe { &mut *self.slots.get() };
        debug_assert!(slots.is_some());
        // SAFETY: the bin is open.
        unsafe { slots.as_mut().unwrap_unchecked() }
    }

    /// The slot of the block that was put here last, of a bin that is not lent.
    #[inline]
    pub(crate) fn last_own(&self) -> Option<u32> {
        self.own.last()
    }

    /// Likewise of a bin that is lent.
    #[inline]
    pub(crate) fn last_lent(&self) -> Option<u32> {
        self.lent.last()
    }

    /// Takes that block out.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin, and has just got the slot.
    #[inline]
    pub(crate) unsafe fn take_own(&self, last: u32) -> Block {
        // SAFETY: the owner is inside of what is not lent.
        unsafe { self.take_at(&self.own, last) }
    }

    /// Takes that block out.
    ///
    /// # Safety
    ///
    /// The caller is inside, and has just got the slot.
    #[inline]
    pub(crate) unsafe fn take_lent(&self, last: u32) -> Block {
        // SAFETY: the caller's promise.
        unsafe { self.take_at(&self.lent, last) }
    }

    /// Puts a block into a bin that is not lent, or gives it back where there is no room.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin.
    #[inline]
    pub(crate) unsafe fn push_own(&self, block: Block) -> Result<(), Block> {
        // SAFETY: the owner is inside of what is not lent, and what is lent has no room at this level.
        unsafe { self.push_at(&self.own, block) }
    }

    /// Puts a block into a bin that is lent, or gives it back where there is no room.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    #[inline]
    pub(crate) unsafe fn push_lent(&self, block: Block) -> Result<(), Block> {
        // SAFETY: the caller's promise.
        unsafe { self.push_at(&self.lent, block) }
    }

    /// Takes the block out that was put here last, past the warm path.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    pub(crate) unsafe fn pop(&self) -> Option<Block> {
        let level = self.level();
        let last = level.last()?;
        // SAFETY: the caller's promise.
        let block = unsafe { self.take_at(level, last) };
        self.tally.went(1);
        Some(block)
    }

    /// Puts a block here, past the warm path, or gives it back where there is no room.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    pub(crate) unsafe fn push(&self, block: Block) -> Result<(), Block> {
        self.tally.came(1);
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.push_at(self.level(), block) };
        if pushed.is_err() {
            self.tally.went(1);
        }
        pushed
    }

    /// # Safety
    ///
    /// The caller is inside, and the slot the level's last.
    #[inline]
    unsafe fn take_at(&self, level: &Level, last: u32) -> Block {
        // SAFETY: what was put here, the bin was open for.
        let slots = unsafe { self.slots() };
        // SAFETY: no count is above the room.
        let slot = unsafe { slots.get_unchecked(last as usize) };
        level.set(last);
        // What stays behind stands for nothing: the count says so.
        // SAFETY: the slots below the count have blocks.
        unsafe { slot.as_ref().unwrap_unchecked() }.last()
    }

    /// # Safety
    ///
    /// The caller is inside, or the level has no room.
    #[inline]
    unsafe fn push_at(&self, level: &Level, block: Block) -> Result<(), Block> {
        let Some(end) = level.end() else {
            return Err(block);
        };
        // SAFETY: a closed bin has no room.
        let slots = unsafe { self.slots() };
        // SAFETY: no room is above the number of slots.
        let slot = unsafe { slots.get_unchecked_mut(end as usize) };
        *slot = Some(block);
        level.set(end + 1);
        Ok(())
    }

    /// Takes everything out.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    pub(crate) unsafe fn drain(&self, drained: &mut Vec<Block>) {
        // SAFETY: the caller's promise.
        while let Some(block) = unsafe { self.pop() } {
            drained.push(block);
        }
    }

    /// Takes the half that lay longest.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    pub(crate) unsafe fn take_half(&self) -> Vec<Block> {
        let mut all = Vec::new();
        // SAFETY: the caller's promise.
        unsafe { self.drain(&mut all) };
        // The last out was the first in.
        let recent = all.len() - all.len() / 2;
        let half = all.split_off(recent);
        for block in all.into_iter().rev() {
            // SAFETY: the caller's promise.
            let put = unsafe { self.push(block) };
            debug_assert!(put.is_ok(), "there was room for twice as many");
        }
        half
    }
}
