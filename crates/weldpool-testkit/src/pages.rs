//! Memory of whole pages, as any device can register it.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
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

    /// A part of it, if the range lies inside and has bytes.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Option<PagePart> {
        let inside = range.start < range.end && range.end <= self.0.len();
        inside.then_some(PagePart { pages: self, range })
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

/// Part of the memory of whole pages.
#[derive(Debug)]
pub struct PagePart {
    pages: Pages,
    range: Range<usize>,
}

impl PagePart {
    /// The contents of the pages, of which this is a part.
    #[must_use]
    pub fn all(&self) -> &[u8] {
        self.pages.contents()
    }
}

// SAFETY: as for all of the pages.
unsafe impl StableBytes for PagePart {
    fn as_bytes(&mut self) -> NonNull<[u8]> {
        // SAFETY: the range lies inside of the pages.
        let start = unsafe { self.pages.start().add(self.range.start) };
        NonNull::slice_from_raw_parts(start, self.range.len())
    }
}
