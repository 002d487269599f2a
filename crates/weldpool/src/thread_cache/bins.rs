//! The bins of one thread, one per list.

#![allow(unsafe_code)]

use super::bin::Bin;
use crate::block::ListId;
use crate::sync::{AtomicPtr, AtomicU64, OnceLock, Ordering};

const GROUP: usize = ListId::GROUP;

/// Bins in groups that are made when first used.
pub(crate) struct Bins {
    lists: usize,
    /// Each the empty group until its own is made.
    groups: [AtomicPtr<Group>; ListId::GROUPS],
}

struct Group {
    /// Which bins were ever used.
    used: AtomicU64,
    bins: [Bin; GROUP],
}

impl Group {
    fn new() -> Self {
        Self {
            used: AtomicU64::new(0),
            bins: std::array::from_fn(|_| Bin::default()),
        }
    }

    /// Stands for groups that were not made. Its bins are never opened, so nothing is found in them and
    /// there is no room.
    fn empty() -> *mut Self {
        static EMPTY: OnceLock<Group> = OnceLock::new();
        std::ptr::from_ref(EMPTY.get_or_init(Self::new)).cast_mut()
    }
}

impl Bins {
    /// Bins for so many lists.
    pub(crate) fn new(lists: usize) -> Self {
        Self {
            lists: lists.min(ListId::MOST),
            groups: std::array::from_fn(|_| AtomicPtr::new(Group::empty())),
        }
    }

    /// The bin of a list; one that nothing was ever put into if there is none.
    #[inline]
    pub(crate) fn get(&self, list: ListId) -> &Bin {
        let group = self.groups[list.group()].load(Ordering::Acquire);
        // SAFETY: the empty group, which is static, or one that `make` made and `drop` alone frees.
        let group = unsafe { &*group };
        &group.bins[list.in_group()]
    }

    /// The bin of a list, to be used; none for blocks without a list.
    pub(crate) fn make(&self, list: ListId) -> Option<&Bin> {
        if list.index() >= self.lists {
            return None;
        }
        let place = &self.groups[list.group()];
        let empty = Group::empty();
        if place.load(Ordering::Acquire) == empty {
            let made = Box::into_raw(Box::new(Group::new()));
            let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
            if place.compare_exchange(empty, made, done, failed).is_err() {
                // SAFETY: it was made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
            }
        }
        // SAFETY: as in `get`.
        let group = unsafe { &*place.load(Ordering::Acquire) };
        group.used.fetch_or(1 << list.in_group(), Ordering::Release);
        Some(&group.bins[list.in_group()])
    }

    /// The bins that were ever used, with their lists' numbers.
    pub(crate) fn used(&self) -> impl Iterator<Item = (usize, &Bin)> {
        let groups = self.groups.iter().enumerate();
        groups.flat_map(|(number, group)| {
            // SAFETY: as in `get`.
            let group = unsafe { &*group.load(Ordering::Acquire) };
            let used = group.used.load(Ordering::Acquire);
            let bins = group.bins.iter().enumerate();
            bins.filter(move |(index, _)| used >> index & 1 == 1)
                .map(move |(index, bin)| (number * GROUP + index, bin))
        })
    }
}

impl Drop for Bins {
    fn drop(&mut self) {
        for group in &mut self.groups {
            let group = *group.get_mut();
            if group != Group::empty() {
                // SAFETY: `make` made it, and nobody can refer to it any more.
                drop(unsafe { Box::from_raw(group) });
            }
        }
    }
}
