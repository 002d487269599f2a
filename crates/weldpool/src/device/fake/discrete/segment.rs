//! Segments of a discrete fake.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::GRANULARITY;
use super::memory::Memory;
use crate::device::Segment;
use crate::device::fake::store::{Pages, State};
use crate::error::Result;
use crate::sync::Arc;

/// Device memory as `cudaMalloc` gives it.
#[derive(Debug)]
pub(super) struct Private {
    memory: Arc<Memory>,
    address: u64,
    bytes: usize,
}

impl Private {
    pub(super) fn new(memory: &Arc<Memory>, bytes: usize) -> Result<Self> {
        let store = memory.new_private(bytes)?;
        let address = memory.space().reserve(bytes, GRANULARITY)?;
        if let Err(violation) = memory.space().map(address, &store, true) {
            return Err(memory.ledger().record(violation));
        }
        memory
            .ledger()
            .charge(memory.costs().malloc.ns(bytes as u64));
        Ok(Self {
            memory: Arc::clone(memory),
            address,
            bytes,
        })
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _mapped = self.memory.space().give_back(self.address, self.bytes);
        let cost = self.memory.costs().malloc.ns(self.bytes as u64);
        self.memory.ledger().charge(cost);
    }
}

// SAFETY: there is no host address to be valid, and length and device address are constant.
unsafe impl Segment for Private {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }
}

/// Host memory as `cudaMallocHost` gives it.
#[derive(Debug)]
pub(super) struct Pinned {
    memory: Arc<Memory>,
    pages: Arc<Pages>,
    bytes: usize,
}

impl Pinned {
    pub(super) fn new(memory: &Arc<Memory>, bytes: usize, node: usize) -> Result<Self> {
        let store = memory.new_pinned(bytes, node)?;
        let pages = store.pages()?;
        let segment = Self {
            memory: Arc::clone(memory),
            pages,
            bytes,
        };
        let mapped = memory.space().map(segment.address(), &store, true);
        mapped.map_err(|violation| memory.ledger().record(violation))?;
        memory.charge_pinning(bytes);
        Ok(segment)
    }

    fn address(&self) -> u64 {
        self.pages.address().as_ptr().addr() as u64
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The address first: work that comes later finds nothing there rather than unmapped pages.
        if let Some(store) = self.memory.space().remove(self.address()) {
            store.set_state(State::Released);
        }
        self.memory.charge_pinning(self.bytes);
    }
}

// SAFETY: the pages are readable and writable for `bytes` bytes while the segment holds them, start out
// zero and never move, and nothing hands out references into them.
unsafe impl Segment for Pinned {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        Some(self.pages.address())
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address())
    }
}
