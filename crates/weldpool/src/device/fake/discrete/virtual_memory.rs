//! Handles and reserved ranges, by the rules of `cuMemCreate`, `cuMemMap` and their kin.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr::NonNull;

use super::GRANULARITY;
use super::memory::Memory;
use crate::device::fake::address_space::ADDRESS_BYTES_MAX;
use crate::device::fake::call::Call;
use crate::device::fake::store::{State, Store};
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::{AddressRange, Physical, StorageMode, VirtualMemory, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// The virtual memory of a discrete fake.
#[derive(Debug)]
pub(super) struct DiscreteMemory {
    memory: Arc<Memory>,
    handles: Arc<Mutex<Handles>>,
}

/// The handles that are not released. A handle is numbered as if all physical memory ever obtained lay in
/// a row, so that a number inside one is told from a number of none.
#[derive(Debug, Default)]
struct Handles {
    stores: BTreeMap<u64, Arc<Store>>,
    next: u64,
}

impl Handles {
    /// The store of a whole handle.
    fn whole(
        &self,
        physical: Physical,
        bytes: usize,
        verb: &str,
    ) -> std::result::Result<&Arc<Store>, Violation> {
        let number = physical.number();
        let found = self.stores.range(..=number).next_back();
        let Some((&start, store)) =
            found.filter(|&(&start, store)| number - start < store.bytes() as u64)
        else {
            return broken(
                Rule::KnownHandle,
                format!("handle {number} is {verb}, but there is none or it was released"),
            );
        };
        if start != number || store.bytes() != bytes {
            return broken(
                Rule::WholeHandle,
                format!(
                    "{bytes} bytes from byte {} of a handle of {} bytes are {verb}; only the whole can be",
                    number - start,
                    store.bytes()
                ),
            );
        }
        Ok(store)
    }
}

impl DiscreteMemory {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self {
            memory,
            handles: Arc::default(),
        }
    }
}

impl VirtualMemory for DiscreteMemory {
    fn properties(&self) -> VirtualMemoryProperties {
        let costs = self.memory.costs();
        let least = GRANULARITY as u64;
        let map = costs.map.ns(least) + costs.access.ns(least);
        let narrow = |ns: u64| u32::try_from(ns).unwrap_or(u32::MAX);
        VirtualMemoryProperties {
            granularity: GRANULARITY,
            divisible: false,
            needs_access: true,
            mappings_max: None,
            address_bytes_max: ADDRESS_BYTES_MAX,
            create_ns: narrow(costs.create.ns(least) + map),
            remap_ns: narrow(map + costs.unmap.ns(least)),
        }
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        let memory = &self.memory;
        memory.ledger().enter(Call::Reserve)?;
        memory.check_granularity(&[bytes], "a reserved range")?;
        let address = memory.space().reserve(bytes, GRANULARITY)?;
        memory
            .ledger()
            .charge(memory.costs().reserve.ns(bytes as u64));
        Ok(Box::new(Range {
            memory: Arc::clone(memory),
            handles: Arc::clone(&self.handles),
            address,
            bytes,
        }))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        let memory = &self.memory;
        memory.ledger().enter(Call::CreatePhysical)?;
        if storage != StorageMode::Private {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "fake:discrete has virtual memory for private storage only",
            ));
        }
        memory.check_granularity(&[bytes], "a handle")?;
        let store = memory.new_private(bytes)?;
        let mut handles = self.handles.lock();
        let number = handles.next;
        handles.next = number.checked_add(bytes as u64).ok_or_else(|| {
            Error::new(
                ErrorKind::LimitExceeded,
                "the fake device has used up its handle numbers",
            )
        })?;
        handles.stores.insert(number, store);
        drop(handles);
        memory
            .ledger()
            .charge(memory.costs().create.ns(bytes as u64));
        Ok(Physical::new(number))
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        let memory = &self.memory;
        memory.ledger().enter(Call::ReleasePhysical)?;
        let mut handles = self.handles.lock();
        handles
            .whole(physical, bytes, "released")
            .map_err(|violation| memory.ledger().record(violation))?;
        let store = handles.stores.remove(&physical.number());
        drop(handles);
        if let Some(store) = store {
            store.set_state(State::Released);
            // Alone, it is about to be unmapped; mapped somewhere, stale reads are to show.
            if Arc::strong_count(&store) > 1 {
                // SAFETY: the caller promises that nothing uses the memory at whatever address.
                unsafe { store.poison(memory.poison()) };
            }
        }
        memory
            .ledger()
            .charge(memory.costs().release.ns(bytes as u64));
        Ok(())
    }
}

/// A reserved range.
#[derive(Debug)]
struct Range {
    memory: Arc<Memory>,
    handles: Arc<Mutex<Handles>>,
    address: u64,
    bytes: usize,
}

impl Range {
    /// The device's address of a part of the range.
    fn part(&self, at: usize, bytes: usize, verb: &str) -> Result<u64> {
        if at != 0 {
            self.memory.check_granularity(&[at], "an offset")?;
        }
        self.memory.check_granularity(&[bytes], "a part")?;
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(self.memory.ledger().record(Violation {
                rule: Rule::InsideRange,
                text: format!(
                    "{bytes} bytes at {at} are {verb} in a range of {} bytes",
                    self.bytes
                ),
            }));
        }
        Ok(self.address + at as u64)
    }

    fn charge(&self, curve: &crate::device::fake::costs::Curve, lengths: &[usize]) {
        let sum = lengths.iter().map(|&bytes| curve.ns(bytes as u64)).sum();
        self.memory.ledger().charge(sum);
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let unmapped = self.memory.space().give_back(self.address, self.bytes);
        let costs = self.memory.costs();
        self.charge(&costs.unmap, &unmapped);
        self.charge(&costs.reserve, &[self.bytes]);
    }
}

// SAFETY: there is no host address to be valid; the device's addresses are reserved until the drop, and
// only queues of the device turn them into memory, after looking up what is mapped.
unsafe impl AddressRange for Range {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }

    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()> {
        let ledger = self.memory.ledger();
        ledger.enter(Call::Map)?;
        let address = self.part(at, bytes, "mapped")?;
        let handles = self.handles.lock();
        handles
            .whole(physical, bytes, "mapped")
            .and_then(|store| self.memory.space().map(address, store, false))
            .map_err(|violation| ledger.record(violation))?;
        drop(handles);
        self.charge(&self.memory.costs().map, &[bytes]);
        Ok(())
    }

    fn allow_access(&self, at: usize, bytes: usize) -> Result<()> {
        let ledger = self.memory.ledger();
        ledger.enter(Call::AllowAccess)?;
        let address = self.part(at, bytes, "made accessible")?;
        let allowed = self.memory.space().allow(address, bytes);
        let lengths = allowed.map_err(|violation| ledger.record(violation))?;
        self.charge(&self.memory.costs().access, &lengths);
        Ok(())
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        let ledger = self.memory.ledger();
        ledger.enter(Call::Unmap)?;
        let address = self.part(at, bytes, "unmapped")?;
        let removed = self.memory.space().unmap(address, bytes);
        let lengths = removed.map_err(|violation| ledger.record(violation))?;
        self.charge(&self.memory.costs().unmap, &lengths);
        Ok(())
    }
}
