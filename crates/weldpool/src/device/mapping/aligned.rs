//! Anonymous mappings at multiples of more than a page, in large pages where the system has them.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::failed;
use crate::device::raw::{self, Address};
use crate::error::Result;

/// Private memory of this process, zero at first, mapped until the value is dropped.
#[derive(Debug)]
pub(in crate::device) struct AlignedMapping {
    address: Address,
    bytes: usize,
}

impl AlignedMapping {
    /// Maps `bytes` bytes, a multiple of the page size, at a multiple of `alignment`, a power of two.
    pub(in crate::device) fn new(bytes: usize, alignment: usize) -> Result<Self> {
        let address = raw::map_anonymous_aligned(bytes, alignment);
        let address = address.map_err(|error| failed("mmap", error))?;
        // A wish; without large pages the memory serves as well.
        let _refused = raw::prefer_large_pages(&address, bytes);
        Ok(Self { address, bytes })
    }

    pub(in crate::device) fn address(&self) -> NonNull<u8> {
        self.address.0
    }
}

impl Drop for AlignedMapping {
    fn drop(&mut self) {
        // SAFETY: this is the end of the mapping's only owner, and `Segment` lets no reference outlive it.
        let unmapped = unsafe { raw::unmap(&self.address, self.bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.bytes, "munmap failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_aligned_writable_and_zero() {
        for bytes in [4096, 2 << 20, (6 << 20) + 4096] {
            let mapping = AlignedMapping::new(bytes, 2 << 20).unwrap();
            assert!(mapping.address().as_ptr().addr().is_multiple_of(2 << 20));
            // SAFETY: the mapping is ours and that long.
            let contents =
                unsafe { std::slice::from_raw_parts_mut(mapping.address().as_ptr(), bytes) };
            assert!(contents.iter().all(|&byte| byte == 0));
            contents.fill(1);
        }
    }
}
