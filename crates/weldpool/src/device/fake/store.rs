//! Contents of a fake device's memory: real memory of this process, mapped when first touched.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::capacity::Claim;
#[cfg(target_os = "linux")]
use crate::device::mapping::SealedMapping;
use crate::device::mapping::{Mapper, Mapping};
use crate::device::raw::{Address, Transfer};
use crate::device::{HostRange, Location};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Every byte of poisoned memory.
const POISON: u8 = 0xDB;

/// Memory up to this size is poisoned even if not asked for, since that costs little.
const POISON_BYTES_MAX: usize = 4 << 20;

/// Whether memory may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Usable,
    /// Given back to the driver, though still mapped somewhere.
    Released,
    /// Metal: volatile or discarded.
    Volatile,
}

/// What a [`Store`] holds when it is first touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fresh {
    /// Zeroes.
    Zero,
    /// Poison, as memory that somebody else had before; large stores only if `large` says so.
    Poison { large: bool },
}

/// One piece of physical memory.
#[derive(Debug)]
pub(super) struct Store {
    bytes: usize,
    alignment: usize,
    fresh: Fresh,
    /// None where the pages are there from the start.
    mapper: Option<Arc<Mapper>>,
    pages: Mutex<Option<Arc<Pages>>>,
    state: Mutex<State>,
    _claim: Claim,
}

/// Mapped pages, kept as long as anybody uses them.
#[derive(Debug)]
pub(super) enum Pages {
    Own {
        mapping: Mapping,
        /// Bytes before the aligned start.
        skip: usize,
    },
    /// A file that others may map too.
    #[cfg(target_os = "linux")]
    Sealed(SealedMapping),
    /// Memory that others obtained and keep mapped.
    Others(Address),
}

impl Pages {
    pub(super) fn address(&self) -> NonNull<u8> {
        match self {
            // SAFETY: the mapping is at least `skip` bytes longer than the store.
            Self::Own { mapping, skip } => unsafe { mapping.address().add(*skip) },
            #[cfg(target_os = "linux")]
            Self::Sealed(mapping) => mapping.address(),
            Self::Others(address) => address.0,
        }
    }
}

impl Store {
    /// Memory of `bytes` bytes, whose pages start at a multiple of `alignment`, a power of two. Nothing
    /// is mapped yet.
    pub(super) fn new(
        mapper: &Arc<Mapper>,
        bytes: usize,
        alignment: usize,
        fresh: Fresh,
        claim: Claim,
    ) -> Self {
        Self {
            bytes,
            alignment,
            fresh,
            mapper: Some(Arc::clone(mapper)),
            pages: Mutex::new(None),
            state: Mutex::new(State::Usable),
            _claim: claim,
        }
    }

    /// Memory that others obtained, and keep mapped and untouched until no work of the device uses it.
    pub(super) fn of_others(memory: HostRange, mapper: &Arc<Mapper>, claim: Claim) -> Self {
        let pages = Pages::Others(Address(memory.address));
        Self {
            pages: Mutex::new(Some(Arc::new(pages))),
            // Never made, so never aligned or filled.
            ..Self::new(mapper, memory.bytes, 1, Fresh::Zero, claim)
        }
    }

    /// Memory that is mapped already; without `fresh` it keeps what is in it.
    #[cfg(target_os = "linux")]
    pub(super) fn over(mapping: SealedMapping, fresh: Option<Fresh>, claim: Claim) -> Self {
        let bytes = mapping.bytes();
        let pages = Pages::Sealed(mapping);
        let store = Self {
            bytes,
            alignment: rustix::param::page_size(),
            fresh: Fresh::Zero,
            mapper: None,
            pages: Mutex::new(Some(Arc::new(pages))),
            state: Mutex::new(State::Usable),
            _claim: claim,
        };
        if let Some(Fresh::Poison { large }) = fresh {
            // SAFETY: nobody else has seen these pages.
            unsafe { store.poison(large) };
        }
        store
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins, if others obtained it.
    pub(super) fn others_address(&self) -> Option<usize> {
        match self.pages.lock().as_deref() {
            Some(Pages::Others(address)) => Some(address.0.as_ptr().addr()),
            _ => None,
        }
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock()
    }

    pub(super) fn set_state(&self, state: State) {
        *self.state.lock() = state;
    }

    /// The pages, mapped now if they were not.
    pub(super) fn pages(&self) -> Result<Arc<Pages>> {
        let mut pages = self.pages.lock();
        if let Some(pages) = pages.as_ref() {
            return Ok(Arc::clone(pages));
        }
        let mapper = self.mapper.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::System, "memory that was mapped is not any more")
        })?;
        let page = rustix::param::page_size();
        // The system aligns to its page; the bytes added are never touched.
        let slack = self.alignment.saturating_sub(page);
        let bytes = self
            .bytes
            .checked_next_multiple_of(page)
            .and_then(|bytes| bytes.checked_add(slack))
            .ok_or_else(|| {
                Error::new(ErrorKind::OutOfMemory, "no process has so many addresses")
            })?;
        let mapping = Mapper::map(mapper, bytes)?;
        let start = mapping.address().as_ptr().addr();
        let skip = start.next_multiple_of(self.alignment) - start;
        let mapped = Arc::new(Pages::Own { mapping, skip });
        if let Fresh::Poison { large } = self.fresh
            && (large || self.bytes <= POISON_BYTES_MAX)
        {
            // SAFETY: nobody else has seen these pages.
            unsafe { self.fill_with_poison(&mapped) };
        }
        *pages = Some(Arc::clone(&mapped));
        Ok(mapped)
    }

    /// Overwrites contents that nobody may use any more, if there are any. `large`: however large.
    ///
    /// # Safety
    ///
    /// Nothing touches the memory.
    pub(super) unsafe fn poison(&self, large: bool) {
        let pages = self.pages.lock();
        if let Some(pages) = pages.as_ref()
            && (large || self.bytes <= POISON_BYTES_MAX)
        {
            // SAFETY: the caller's promise.
            unsafe { self.fill_with_poison(pages) };
        }
    }

    /// # Safety
    ///
    /// Nothing else touches the pages.
    unsafe fn fill_with_poison(&self, pages: &Pages) {
        let all = Location {
            host: Some(pages.address()),
            device: None,
            resource: None,
        };
        // SAFETY: the pages are mapped for the length of the store, and the caller keeps others away.
        let fill = unsafe { Transfer::fill(all, self.bytes, POISON) };
        if let Some(fill) = fill {
            fill.run();
        }
    }
}
