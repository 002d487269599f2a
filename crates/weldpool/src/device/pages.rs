//! Zeroed pages for tables of which most is never touched.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::mapping::failed;
use super::mappings::{self, Count};
use super::raw::{self, Address};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Arc;

/// Those of this process.
static TABLES: Count = Count::new();

#[cfg(test)]
thread_local! {
    /// Whether this thread gets none, as where the process has too many.
    pub(crate) static NONE_LEFT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Zeroed memory, of which the system provides what is touched.
#[derive(Debug)]
pub(crate) struct ZeroedPages {
    address: Address,
    layout: Layout,
    /// Where the mapping is counted.
    count: &'static Count,
    /// Who unmaps them, if not this.
    owner: Option<Arc<ZeroedPages>>,
}

impl ZeroedPages {
    /// Memory for a value of this layout, whose alignment is at most a page's.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](ErrorKind::OutOfMemory) where the system has no addresses for it, or no mapping;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) where there are so many that memory needs the other mappings.
    pub(crate) fn new(layout: Layout) -> Result<Self> {
        #[cfg(test)]
        if NONE_LEFT.get() {
            return Self::counted(layout, &TABLES, 0);
        }
        Self::counted(layout, &TABLES, mappings::tables_max())
    }

    /// As [`new`](Self::new), unless `count` is `most` already.
    fn counted(layout: Layout, count: &'static Count, most: usize) -> Result<Self> {
        if !count.add(most) {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "this process has as many tables of threads as its mappings allow",
            ));
        }
        match raw::map_anonymous(layout.size()) {
            Ok(address) => Ok(Self {
                address,
                layout,
                count,
                owner: None,
            }),
            Err(error) => {
                count.remove();
                Err(failed("mmap", error))
            }
        }
    }

    /// The same memory once more.
    pub(crate) fn share(self: &Arc<Self>) -> Self {
        Self {
            address: Address(self.address.0),
            layout: self.layout,
            count: self.count,
            owner: Some(Arc::clone(self)),
        }
    }

    #[inline]
    pub(crate) fn first(&self) -> NonNull<u8> {
        self.address.0
    }
}

impl Drop for ZeroedPages {
    fn drop(&mut self) {
        if self.owner.is_some() {
            return;
        }
        // SAFETY: this is the end of the owner, which all who share it keep alive.
        let unmapped = unsafe { raw::unmap(&self.address, self.layout.size()) };
        self.count.remove();
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.layout.size(), "munmap failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of threads are a part of the account of mappings.
    #[test]
    fn tables_leave_memory_its_mappings() {
        let memory = mappings::memory_max().unwrap_or(0);
        let tables = mappings::tables_max();
        assert!(tables >= 1000, "for as many threads and queues: {tables}");
        if let Ok(most) = std::fs::read_to_string("/proc/sys/vm/max_map_count") {
            let most: usize = most.trim().parse().unwrap();
            assert!(
                memory + tables <= most / 2,
                "{memory} and {tables} of {most}"
            );
        }
        static COUNT: Count = Count::new();
        let layout = Layout::new::<[u8; 4096]>();
        let table = || ZeroedPages::counted(layout, &COUNT, 2);
        let first = Arc::new(table().unwrap());
        let (_same, second) = (first.share(), table().unwrap());
        assert_eq!(table().unwrap_err().kind(), ErrorKind::LimitExceeded);
        drop(second);
        drop(table().unwrap());
        let _third = table().unwrap();
        assert!(table().is_err());
    }
}
