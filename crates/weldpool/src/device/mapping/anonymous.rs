//! Anonymous mappings (mmap(2)), one per segment.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::failed;
use crate::device::raw::{self, Address};
use crate::error::Result;
use crate::sync::Arc;

/// Hands out mappings.
#[derive(Debug)]
pub(in crate::device) struct Mapper;

impl Mapper {
    pub(in crate::device) fn new() -> Result<Self> {
        Ok(Self)
    }

    /// Maps `bytes` zeroed bytes, a multiple of the page size.
    pub(in crate::device) fn map(_this: &Arc<Self>, bytes: usize) -> Result<Mapping> {
        let address = raw::map_anonymous(bytes).map_err(|error| failed("mmap", error))?;
        Ok(Mapping { address, bytes })
    }
}

/// Memory that is mapped until the value is dropped.
#[derive(Debug)]
pub(in crate::device) struct Mapping {
    address: Address,
    bytes: usize,
}

impl Mapping {
    pub(in crate::device) fn address(&self) -> NonNull<u8> {
        self.address.0
    }

    pub(in crate::device) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the end of the mapping's only owner, and `Segment` lets no reference outlive it.
        let unmapped = unsafe { raw::unmap(&self.address, self.bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.bytes, "munmap failed");
        }
    }
}
