//! Memory of whole pages, as any device can register it.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use weldpool::StableBytes;

/// Owned memory that begins with a page of any device, zero at first.
#[derive(Debug)]
pub struct Pages(NonNull<[u8]>);

// SAFETY: the memory is this value's alone.
unsafe impl Send for Pages {}

impl Pages {
    /// The largest page of any device: that of Apple silicon.
    pub const PAGE_BYTES: usize = 16 << 10;

    /// Memory of `pages` pages, one at least.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let layout = Self::layout(pages.max(1) * Self::PAGE_BYTES);
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Self(NonNull::slice_from_raw_parts(start, layout.size())),
            None => handle_alloc_error(layout),
        }
    }

    /// The first byte.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.0.cast()
    }

    /// The contents.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        // SAFETY: the memory is valid, and nobody else writes it while it is this value's alone.
        unsafe { self.0.as_ref() }
    }

    fn layout(bytes: usize) -> Layout {
        match Layout::from_size_align(bytes, Self::PAGE_BYTES) {
            Ok(layout) => layout,
            Err(error) => unreachable!("{error}"),
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it was obtained with this layout.
        unsafe { dealloc(self.0.cast().as_ptr(), Self::layout(self.0.len())) };
    }
}

// SAFETY: the memory stays until the drop, is zero at first, and is this value's alone.
unsafe impl StableBytes for Pages {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        self.0
    }
}
