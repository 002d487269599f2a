//! The idle blocks of one list in one thread, and what the thread counted of the list.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use super::tally::Tally;
use crate::block::{Block, THREAD_MAX};
use crate::sync::{AtomicU8, AtomicU32, Ordering};

/// Most blocks in one bin.
const BIN_BLOCKS_MAX: usize = THREAD_MAX as usize;
/// Room that a bin is first given.
const FIRST_ROOM: usize = 8;

/// Nothing may be put here yet.
const CLOSED: u8 = 0;
/// The thread alone comes here.
const OWN: u8 = 1;
/// Others may come too; see [`Lending`](super::lending::Lending).
const LENT: u8 = 2;

type Slots = [Option<Block>; BIN_BLOCKS_MAX];

/// One list of one thread.
///
/// Whoever may touch the blocks is *inside*: of an own bin the thread that owns it, of a lent one whoever
/// has the right that the thread's [`Lending`](super::lending::Lending) gives.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Bin {
    pub(super) tally: Tally,
    /// There once the bin is open.
    slots: UnsafeCell<Option<Box<Slots>>>,
    count: AtomicU32,
    /// Most blocks that may be here.
    room: AtomicU32,
    /// Of each block; at most `u32::MAX` is told apart.
    block_bytes: AtomicU32,
    kind: AtomicU8,
}

// SAFETY: `slots` is only touched from inside, where one thread is at a time; see the methods, whose
// callers promise it.
unsafe impl Sync for Bin {}

impl Bin {
    /// Whether others come here too.
    #[inline]
    pub(crate) fn is_lent(&self) -> bool {
        self.kind.load(Ordering::Acquire) == LENT
    }

    /// Whether the thread alone comes here.
    pub(crate) fn is_own(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == OWN
    }

    /// Blocks that are here.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// Bytes of the blocks that are here.
    pub(crate) fn bytes(&self) -> usize {
        self.len() * self.block_bytes()
    }

    fn block_bytes(&self) -> usize {
        self.block_bytes.load(Ordering::Relaxed) as usize
    }

    /// Most blocks that may be here.
    fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed) as usize
    }

    /// Lets blocks be put here, with room for as many as there can be if the bin is lent and for none
    /// otherwise. Length of the blocks and `lent` are the same each time.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin.
    pub(crate) unsafe fn open(&self, block_bytes: usize, lent: bool) {
        if self.kind.load(Ordering::Relaxed) == CLOSED {
            // SAFETY: nobody but the owner touches the blocks of a closed bin.
            let slots = unsafe { &mut *self.slots.get() };
            *slots = Some(Box::new([const { None }; BIN_BLOCKS_MAX]));
            let (kind, room) = if lent { (LENT, THREAD_MAX) } else { (OWN, 0) };
            self.room.store(room.into(), Ordering::Relaxed);
            let bytes = u32::try_from(block_bytes).unwrap_or(u32::MAX);
            self.block_bytes.store(bytes, Ordering::Relaxed);
            self.kind.store(kind, Ordering::Release);
        }
    }

    /// Makes room for more blocks, `most` in all and further ones of at most so many bytes; says of how
    /// many bytes. For the owner.
    pub(crate) fn grow(&self, most: usize, bytes_max: usize) -> usize {
        let room = self.room();
        let grown = (most.min(BIN_BLOCKS_MAX).saturating_sub(room))
            .min(bytes_max / self.block_bytes().max(1))
            .min(room.max(FIRST_ROOM));
        self.set_room(room + grown);
        grown * self.block_bytes()
    }

    /// Takes back room that no block has; says of how many bytes. For the owner.
    pub(crate) fn shrink(&self) -> usize {
        let (room, len) = (self.room(), self.len());
        self.set_room(len);
        room.saturating_sub(len) * self.block_bytes()
    }

    fn set_room(&self, room: usize) {
        // At most `BIN_BLOCKS_MAX`.
        self.room.store(room as u32, Ordering::Relaxed);
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

    /// Takes the block that was put here last.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<Block> {
        let last = self.count.load(Ordering::Relaxed).checked_sub(1)?;
        // SAFETY: what was put here, the bin was open for.
        let slots = unsafe { self.slots() };
        // What stays behind stands for nothing: the count says so.
        let block = slots[last as usize % BIN_BLOCKS_MAX].as_ref();
        self.count.store(last, Ordering::Relaxed);
        // SAFETY: the slots below the count have blocks.
        Some(unsafe { block.unwrap_unchecked() }.last())
    }

    /// Whether there is room for one of the blocks of which a thread keeps at most so many.
    pub(crate) fn has_room(&self, thread_max: usize) -> bool {
        self.slot_for(thread_max).is_some()
    }

    /// The slot for one of the blocks of which a thread keeps at most so many, if there is room.
    #[inline]
    fn slot_for(&self, thread_max: usize) -> Option<u32> {
        let count = self.count.load(Ordering::Relaxed);
        let room = self.room.load(Ordering::Relaxed);
        (count < room && (count as usize) < thread_max).then_some(count)
    }

    /// Puts a block here, or gives it back where the bin is closed or full.
    ///
    /// # Safety
    ///
    /// The caller is inside.
    #[inline]
    pub(crate) unsafe fn push(&self, block: Block) -> Result<(), Block> {
        let Some(count) = self.slot_for(block.thread_max()) else {
            return Err(block);
        };
        // SAFETY: a closed bin has no room.
        let slots = unsafe { self.slots() };
        slots[count as usize % BIN_BLOCKS_MAX] = Some(block);
        self.count.store(count + 1, Ordering::Relaxed);
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
