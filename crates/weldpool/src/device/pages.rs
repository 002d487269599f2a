//! Zeroed pages for tables of which most is never touched.

#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use super::raw::{self, Address};

/// Zeroed memory, of which the system provides what is touched.
#[derive(Debug)]
pub(crate) struct ZeroedPages {
    address: Address,
    layout: Layout,
}

impl ZeroedPages {
    /// Memory for a value of this layout, whose alignment is at most a page's. Where the system has no
    /// addresses for it, the program ends as it does when the heap is exhausted.
    pub(crate) fn new(layout: Layout) -> Self {
        match raw::map_anonymous(layout.size()) {
            Ok(address) => Self { address, layout },
            Err(_) => handle_alloc_error(layout),
        }
    }

    #[inline]
    pub(crate) fn first(&self) -> NonNull<u8> {
        self.address.0
    }
}

impl Drop for ZeroedPages {
    fn drop(&mut self) {
        // SAFETY: this is the end of the only owner, which lends the memory for its life at most.
        let unmapped = unsafe { raw::unmap(&self.address, self.layout.size()) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.layout.size(), "munmap failed");
        }
    }
}
