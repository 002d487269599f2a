//! The model of an `MTLHeap` of type placement, and of the buffers on it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::ALIGNMENT;
use super::metal::Metal;
use crate::binding::Resource;
use crate::device::StorageMode;
use crate::device::fake::store::{Pages, State, Store};
use crate::device::fake::violation::{Rule, Violation};
use crate::error::Result;
use crate::sync::{Arc, Mutex};

/// What a heap is to be: `MTLHeapDescriptor`, of type placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapDescriptor {
    /// Size in bytes.
    pub bytes: usize,
    /// Storage mode of the heap and of everything on it.
    pub storage: StorageMode,
}

/// `MTLPurgeableState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PurgeableState {
    /// Asks without changing anything.
    KeepCurrent = 1,
    /// Contents stay.
    NonVolatile = 2,
    /// Contents may be discarded at any time.
    Volatile = 3,
    /// Contents are discarded.
    Empty = 4,
}

/// The memory of a heap, known to the device too.
#[derive(Debug)]
pub(super) struct HeapMemory {
    store: Arc<Store>,
    storage: StorageMode,
    address: u64,
    purgeable: Mutex<PurgeableState>,
}

impl HeapMemory {
    pub(super) fn new(store: Arc<Store>, storage: StorageMode, address: u64) -> Self {
        Self {
            store,
            storage,
            address,
            purgeable: Mutex::new(PurgeableState::NonVolatile),
        }
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Discards the contents if they are volatile.
    pub(super) fn purge(&self) -> bool {
        let mut purgeable = self.purgeable.lock();
        if *purgeable != PurgeableState::Volatile {
            return false;
        }
        self.discard();
        *purgeable = PurgeableState::Empty;
        true
    }

    fn set(&self, state: PurgeableState) -> PurgeableState {
        let mut purgeable = self.purgeable.lock();
        let prior = *purgeable;
        let next = match state {
            PurgeableState::KeepCurrent => return prior,
            // What is discarded does not come back by being declared volatile.
            PurgeableState::Volatile if prior == PurgeableState::Empty => prior,
            other => other,
        };
        // Before the contents are discarded no work may reach them any more.
        self.store.set_state(match next {
            PurgeableState::NonVolatile | PurgeableState::KeepCurrent => State::Usable,
            PurgeableState::Volatile | PurgeableState::Empty => State::Volatile,
        });
        if next == PurgeableState::Empty && prior != PurgeableState::Empty {
            self.discard();
        }
        *purgeable = next;
        prior
    }

    fn discard(&self) {
        // SAFETY: the rules of volatile memory forbid everybody to touch it, and queues are refused.
        unsafe { self.store.poison(true) };
    }
}

/// The model of an `MTLHeap` of type placement. Its end is the end of its last buffer, or its own if
/// that is later.
#[derive(Debug, Clone)]
pub struct Heap {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metal: Metal,
    memory: Arc<HeapMemory>,
    /// Mapped from the beginning where the host may touch them, so that addresses never change.
    pages: Option<Arc<Pages>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.metal.forget_heap(&self.memory);
        let cost = self.metal.costs().release.ns(self.memory.bytes() as u64);
        self.metal.charge(cost);
    }
}

impl Heap {
    pub(super) fn new(metal: Metal, memory: Arc<HeapMemory>, pages: Option<Arc<Pages>>) -> Self {
        let shared = Shared {
            metal,
            memory,
            pages,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// `size` in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.memory.bytes()
    }

    /// `storageMode`.
    #[must_use]
    pub fn storage_mode(&self) -> StorageMode {
        self.shared.memory.storage
    }

    /// `setPurgeableState:`: returns the state before. A heap that was
    /// [`Empty`](PurgeableState::Empty) has lost its contents.
    ///
    /// No host access and no work may touch the heap unless it is not volatile.
    pub fn set_purgeable_state(&self, state: PurgeableState) -> PurgeableState {
        let cost = self.shared.metal.costs().purgeable.ns(self.size() as u64);
        self.shared.metal.charge(cost);
        self.shared.memory.set(state)
    }

    /// `newBufferWithLength:options:offset:`: a buffer over part of the heap. Buffers may overlap, as
    /// they may in Metal.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for what Metal leaves undefined: a length
    /// of zero or beyond `maxBufferLength`, a place outside the heap or not at a multiple of the
    /// alignment. Each is a violation too.
    pub fn new_buffer(&self, length: usize, offset: usize) -> Result<Buffer> {
        let metal = &self.shared.metal;
        if length == 0 || length as u64 > metal.max_buffer_length() {
            return Err(metal.record(Violation {
                rule: Rule::BufferLength,
                text: format!(
                    "a buffer of {length} bytes; maxBufferLength is {}",
                    metal.max_buffer_length()
                ),
            }));
        }
        let end = offset.checked_add(length);
        if !offset.is_multiple_of(ALIGNMENT) || end.is_none_or(|end| end > self.size()) {
            return Err(metal.record(Violation {
                rule: Rule::InsideHeap,
                text: format!(
                    "a buffer of {length} bytes at {offset} on a heap of {} bytes; the alignment is {ALIGNMENT}",
                    self.size()
                ),
            }));
        }
        metal.charge(metal.costs().buffer.ns(length as u64));
        let buffer = Buffer {
            object: Box::new(Object {
                heap: self.clone(),
                offset,
                length,
            }),
        };
        metal.remember_buffer(buffer.resource(), buffer.gpu_address(), length);
        Ok(buffer)
    }
}

/// The model of an `MTLBuffer` on a heap, which it keeps alive.
#[derive(Debug)]
pub struct Buffer {
    /// On the heap of this process, so that the object has an address that stays.
    object: Box<Object>,
}

#[derive(Debug)]
struct Object {
    heap: Heap,
    offset: usize,
    length: usize,
}

impl Buffer {
    /// `length` in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.object.length
    }

    /// `heap`.
    #[must_use]
    pub fn heap(&self) -> &Heap {
        &self.object.heap
    }

    /// `heapOffset` in bytes.
    #[must_use]
    pub fn heap_offset(&self) -> usize {
        self.object.offset
    }

    /// `gpuAddress`.
    #[must_use]
    pub fn gpu_address(&self) -> u64 {
        self.object.heap.shared.memory.address + self.object.offset as u64
    }

    /// `contents`; none for private storage.
    #[must_use]
    pub fn contents(&self) -> Option<NonNull<u8>> {
        let pages = self.object.heap.shared.pages.as_ref()?;
        // SAFETY: the buffer lies inside the heap, for whose size the pages are mapped.
        Some(unsafe { pages.address().add(self.object.offset) })
    }

    /// The object, as a driver call takes it.
    #[must_use]
    pub fn resource(&self) -> Resource {
        Resource::new(NonNull::from(self.object.as_ref()).cast())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.object.heap.shared.metal.forget_buffer(self.resource());
    }
}
