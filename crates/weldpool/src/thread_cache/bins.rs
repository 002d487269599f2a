//! The bins of one thread, one per list.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::bin::Bin;
use crate::block::ListId;
use crate::device::ZeroedPages;
use crate::error::Result;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// A bin for each list there can be, and for blocks without a list, where nothing is found and there is no
/// room. Those that no list uses are never touched and take addresses alone.
pub(crate) struct Bins {
    /// [`ListId::COUNT`] bins.
    pages: ZeroedPages,
    /// None where the system had no pages for this thread, which shares those that nobody uses.
    lists: usize,
    /// Which bins were ever used.
    used: Box<[AtomicU64]>,
}

const LAYOUT: Layout = match Layout::array::<Bin>(ListId::COUNT) {
    Ok(layout) => layout,
    Err(_) => panic!("a table of this length has a layout"),
};

static UNUSED: Mutex<Option<Arc<ZeroedPages>>> = Mutex::new(None);

impl Bins {
    /// Bins that are never opened, for threads for which there are no others; the same for all pools.
    pub(crate) fn unused() -> Result<Arc<ZeroedPages>> {
        let mut unused = UNUSED.lock();
        let pages = match unused.take() {
            Some(pages) => pages,
            None => Arc::new(ZeroedPages::new(LAYOUT)?),
        };
        Ok(Arc::clone(unused.insert(pages)))
    }

    /// Bins for so many lists; where the system has no pages for them, none, and `unused` stands for all.
    pub(crate) fn new(lists: usize, unused: &Arc<ZeroedPages>) -> Self {
        let (pages, lists) = match ZeroedPages::new(LAYOUT) {
            Ok(pages) => (pages, lists.min(ListId::MOST)),
            Err(_) => (unused.share(), 0),
        };
        Self {
            pages,
            lists,
            used: (0..lists.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    fn place(&self, list: ListId) -> NonNull<Bin> {
        // SAFETY: a list's offset is that of one of `ListId::COUNT` bins.
        unsafe { self.pages.first().byte_add(list.bin_offset()) }.cast()
    }

    /// The bin of a list.
    #[inline]
    pub(crate) fn get(&self, list: ListId) -> &Bin {
        // SAFETY: zeroed memory is a bin that was never opened, and is one for as long as the pages live.
        unsafe { self.place(list).as_ref() }
    }

    /// The bin of a list, to be used; none for blocks without a list.
    pub(crate) fn make(&self, list: ListId) -> Option<&Bin> {
        let index = list.index();
        if index >= self.lists {
            return None;
        }
        let (word, bit) = (&self.used[index / 64], 1 << (index % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Release);
        }
        Some(self.get(list))
    }

    /// Which lists' bins were ever used: bits, in words of 64.
    pub(crate) fn used_words(&self) -> impl Iterator<Item = u64> {
        self.used.iter().map(|word| word.load(Ordering::Acquire))
    }

    /// The bins that were ever used, with their lists' numbers.
    pub(crate) fn used(&self) -> impl Iterator<Item = (usize, &Bin)> {
        let words = self.used.iter().enumerate();
        words.flat_map(move |(number, word)| {
            let mut left = word.load(Ordering::Acquire);
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then(|| {
                    let index = number * 64 + bit;
                    (index, self.get(ListId::new(index)))
                })
            })
        })
    }
}

impl Drop for Bins {
    fn drop(&mut self) {
        let used: Vec<usize> = self.used().map(|(list, _)| list).collect();
        for list in used {
            let bin = self.place(ListId::new(list));
            // SAFETY: nobody can refer to the bins any more, and each is visited once.
            unsafe { bin.drop_in_place() };
        }
    }
}
