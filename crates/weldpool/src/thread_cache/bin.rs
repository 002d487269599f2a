//! The idle blocks of one list in one thread, and what the thread counted of the list.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use super::tally::Tally;
use crate::block::{Block, THREAD_MAX};
use crate::sync::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, OnceLock, Ordering, raise, spin_while,
};

/// Most blocks in one bin.
const BIN_BLOCKS_MAX: usize = THREAD_MAX as usize;

/// Nothing may be put here yet.
const CLOSED: u8 = 0;
/// The thread alone comes here.
const OWN: u8 = 1;
/// Others may come too, under the lock.
const SHARED: u8 = 2;

/// One list of one thread.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Bin {
    kind: AtomicU8,
    locked: AtomicBool,
    count: AtomicU32,
    blocks: UnsafeCell<Option<Box<[Option<Block>; BIN_BLOCKS_MAX]>>>,
    pub(crate) tally: Tally,
}

// SAFETY: `blocks` is only touched by the owner while the kind is `OWN`, and only under the lock
// while it is `SHARED`; see the methods, whose callers promise who they are.
unsafe impl Sync for Bin {}

impl Bin {
    /// Whether the thread alone comes here, and blocks may be put here.
    #[inline]
    pub(crate) fn is_own(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == OWN
    }

    /// Whether others come here too, and blocks may be put here.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == SHARED
    }

    /// Lets blocks be put here; `shared` says whether others may take them, and is the same each time.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin.
    pub(crate) unsafe fn open(&self, shared: bool) {
        if self.kind.load(Ordering::Relaxed) == CLOSED {
            // SAFETY: nobody but the owner touches the blocks of a closed bin.
            let blocks = unsafe { &mut *self.blocks.get() };
            *blocks = Some(Box::new([const { None }; BIN_BLOCKS_MAX]));
            let kind = if shared { SHARED } else { OWN };
            self.kind.store(kind, Ordering::Release);
        }
    }

    /// Takes the block that was put here last.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin, which is its own.
    #[inline]
    pub(crate) unsafe fn pop_own(&self) -> Option<Block> {
        // SAFETY: the owner comes alone to such a bin.
        unsafe { self.pop_here() }
    }

    /// Puts a block here, if there are fewer than `most`, which is at most [`THREAD_MAX`].
    ///
    /// # Safety
    ///
    /// As for [`pop_own`](Self::pop_own).
    #[inline]
    pub(crate) unsafe fn push_own(&self, block: Block, most: usize) -> Result<(), Block> {
        // SAFETY: the owner comes alone to such a bin.
        unsafe { self.push_here(block, most) }
    }

    /// Takes the block that was put here last; nothing if the bin is not shared.
    #[inline]
    pub(crate) fn pop_shared(&self) -> Option<Block> {
        if !self.is_shared() {
            return None;
        }
        let _held = self.lock();
        // SAFETY: the lock is held.
        unsafe { self.pop_here() }
    }

    /// Puts a block here, if there are fewer than `most`, which is at most [`THREAD_MAX`], and the bin is
    /// shared.
    #[inline]
    pub(crate) fn push_shared(&self, block: Block, most: usize) -> Result<(), Block> {
        if !self.is_shared() {
            return Err(block);
        }
        let _held = self.lock();
        // SAFETY: the lock is held.
        unsafe { self.push_here(block, most) }
    }

    /// Takes everything out for the owner, or for anybody of a bin that others may come to. Others get
    /// nothing of the owner's own.
    ///
    /// # Safety
    ///
    /// `owner` only if the caller is the thread that owns the bin.
    pub(crate) unsafe fn drain(&self, owner: bool, drained: &mut Vec<Block>) {
        let kind = self.kind.load(Ordering::Acquire);
        let _held = (kind == SHARED).then(|| self.lock());
        if kind == SHARED || (kind == OWN && owner) {
            // SAFETY: the lock is held, or the owner comes alone.
            while let Some(block) = unsafe { self.pop_here() } {
                drained.push(block);
            }
        }
    }

    /// Takes the half that lay longest.
    ///
    /// # Safety
    ///
    /// The caller is the thread that owns the bin.
    pub(crate) unsafe fn take_half(&self) -> Vec<Block> {
        let mut all = Vec::new();
        // SAFETY: the caller is the owner.
        unsafe { self.drain(true, &mut all) };
        // The last out was the first in.
        let recent = all.len() - all.len() / 2;
        let half = all.split_off(recent);
        for block in all.into_iter().rev() {
            let put = if self.is_own() {
                // SAFETY: the caller is the owner.
                unsafe { self.push_own(block, BIN_BLOCKS_MAX) }
            } else {
                self.push_shared(block, BIN_BLOCKS_MAX)
            };
            debug_assert!(put.is_ok(), "there was room for twice as many");
        }
        half
    }

    /// # Safety
    ///
    /// The caller is the owner of an `OWN` bin or holds the lock of a `SHARED` one.
    #[inline]
    unsafe fn pop_here(&self) -> Option<Block> {
        let count = self.count.load(Ordering::Relaxed);
        let last = count.checked_sub(1)?;
        self.count.store(last, Ordering::Relaxed);
        // SAFETY: nobody else touches the blocks now; see above.
        let blocks = unsafe { &*self.blocks.get() };
        // What stays behind stands for nothing: the count says so.
        let block = blocks.as_ref()?[last as usize % BIN_BLOCKS_MAX].as_ref();
        block.map(Block::last)
    }

    /// # Safety
    ///
    /// As for [`pop_here`](Self::pop_here).
    #[inline]
    unsafe fn push_here(&self, block: Block, most: usize) -> Result<(), Block> {
        let count = self.count.load(Ordering::Relaxed);
        if count as usize >= most {
            return Err(block);
        }
        // SAFETY: nobody else touches the blocks now; see above.
        let Some(blocks) = (unsafe { &mut *self.blocks.get() }) else {
            return Err(block);
        };
        blocks[count as usize % BIN_BLOCKS_MAX] = Some(block);
        self.count.store(count + 1, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn lock(&self) -> Held<'_> {
        while raise(&self.locked) {
            // Whoever holds it takes a few dozen instructions, unless it was preempted.
            spin_while(&self.locked);
        }
        Held(&self.locked)
    }
}

/// The lock of a bin, held until dropped.
struct Held<'a>(&'a AtomicBool);

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Bins per group.
const GROUP: usize = 64;

/// The bins of one thread, one per list, in groups that are made when first used.
pub(crate) struct Bins(Box<[OnceLock<Box<Group>>]>);

struct Group {
    /// Which bins were ever used.
    used: AtomicU64,
    bins: [Bin; GROUP],
}

impl Bins {
    pub(crate) fn new(lists: usize) -> Self {
        Self(
            (0..lists.div_ceil(GROUP))
                .map(|_| OnceLock::new())
                .collect(),
        )
    }

    /// The bin of a list, if its group was made.
    #[inline]
    pub(crate) fn get(&self, list: usize) -> Option<&Bin> {
        let group = self.0.get(list / GROUP)?.get()?;
        Some(&group.bins[list % GROUP])
    }

    /// The bin of a list, to be used; none beyond the last list.
    pub(crate) fn make(&self, list: usize) -> Option<&Bin> {
        let group = self.0.get(list / GROUP)?.get_or_init(|| {
            Box::new(Group {
                used: AtomicU64::new(0),
                bins: std::array::from_fn(|_| Bin::default()),
            })
        });
        group.used.fetch_or(1 << (list % GROUP), Ordering::Relaxed);
        Some(&group.bins[list % GROUP])
    }

    /// The bins that were ever used, with their lists' numbers.
    pub(crate) fn used(&self) -> impl Iterator<Item = (usize, &Bin)> {
        let groups = self.0.iter().enumerate();
        groups.flat_map(|(number, group)| {
            let group = group.get();
            let used = group.map_or(0, |group| group.used.load(Ordering::Relaxed));
            let bins = group
                .into_iter()
                .flat_map(|group| group.bins.iter().enumerate());
            bins.filter(move |(index, _)| used >> index & 1 == 1)
                .map(move |(index, bin)| (number * GROUP + index, bin))
        })
    }
}
