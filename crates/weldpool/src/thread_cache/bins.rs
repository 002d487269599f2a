//! The bins of one thread, one per list.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::bin::Bin;
use crate::block::ListId;
use crate::device::ZeroedPages;
use crate::error::Result;
use crate::grouped::Grouped;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// A bin for each list there can be, and for blocks without a list, where nothing is found and there is no
/// room. Those that no list uses are never touched and take addresses alone.
pub(crate) struct Bins {
    /// [`ListId::COUNT`] bins.
    pages: ZeroedPages,
    /// Where the pages are those that nobody uses: what counts in their place, and keeps nothing.
    counting: Option<Grouped<Bin>>,
    /// How many lists there are.
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

    /// Bins for so many lists; where the system has no pages for them, such as only [count](Self::counting).
    pub(crate) fn new(lists: usize, unused: &Arc<ZeroedPages>) -> Self {
        match ZeroedPages::new(LAYOUT) {
            Ok(pages) => Self::with(pages, lists, None),
            Err(_) => Self::counting(lists, unused),
        }
    }

    /// Bins for so many lists that count and keep nothing. To the warm path they are `unused`.
    pub(crate) fn counting(lists: usize, unused: &Arc<ZeroedPages>) -> Self {
        Self::with(unused.share(), lists, Some(Grouped::new(lists)))
    }

    fn with(pages: ZeroedPages, lists: usize, counting: Option<Grouped<Bin>>) -> Self {
        let lists = lists.min(ListId::MOST);
        Self {
            pages,
            counting,
            lists,
            used: (0..lists.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether blocks may be kept here.
    pub(crate) fn can_keep(&self) -> bool {
        self.counting.is_none()
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

    /// The bin that counts what is of a list, to be used; none for blocks without a list.
    pub(crate) fn make(&self, list: ListId) -> Option<&Bin> {
        let index = list.index();
        if index >= self.lists {
            return None;
        }
        let bin = match &self.counting {
            Some(counting) => counting.make(index)?,
            None => self.get(list),
        };
        let (word, bit) = (&self.used[index / 64], 1 << (index % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Release);
        }
        Some(bin)
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
                if bit == 64 {
                    return None;
                }
                let index = number * 64 + bit;
                let bin = match &self.counting {
                    Some(counting) => counting.get(index),
                    None => Some(self.get(ListId::new(index))),
                };
                Some((index, bin?))
            })
        })
    }
}

impl Drop for Bins {
    fn drop(&mut self) {
        if !self.can_keep() {
            return;
        }
        let used: Vec<usize> = self.used().map(|(list, _)| list).collect();
        for list in used {
            let bin = self.place(ListId::new(list));
            // SAFETY: nobody can refer to the bins any more, and each is visited once.
            unsafe { bin.drop_in_place() };
        }
    }
}
