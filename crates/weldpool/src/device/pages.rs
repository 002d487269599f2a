//! Zeroed pages for tables of which most is never touched.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr::NonNull;

use super::mapping::failed;
use super::raw::{self, Address};
use crate::error::Result;
use crate::sync::Arc;

/// Zeroed memory, of which the system provides what is touched.
#[derive(Debug)]
pub(crate) struct ZeroedPages {
    address: Address,
    layout: Layout,
    /// Who unmaps them, if not this.
    owner: Option<Arc<ZeroedPages>>,
}

impl ZeroedPages {
    /// Memory for a value of this layout, whose alignment is at most a page's.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) where the system has no addresses for it, or no mapping.
    pub(crate) fn new(layout: Layout) -> Result<Self> {
        match raw::map_anonymous(layout.size()) {
            Ok(address) => Ok(Self {
                address,
                layout,
                owner: None,
            }),
            Err(error) => Err(failed("mmap", error)),
        }
    }

    /// The same memory once more.
    pub(crate) fn share(self: &Arc<Self>) -> Self {
        Self {
            address: Address(self.address.0),
            layout: self.layout,
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
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.layout.size(), "munmap failed");
        }
    }
}
