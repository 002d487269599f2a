//! The model of an `MTLHeap` of type placement, and of the buffers on it.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::labels::Labelled;
use super::managed::HostCopy;
use super::metal::Metal;
use super::no_copy::Others;
use super::sparse::SparseMemory;
use crate::binding::Resource;
use crate::device::fake::call::Call;
use crate::device::fake::store::{Pages, State, Store};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::metal::raw::{self, SparsePageSize};
use crate::device::{HostRange, StorageMode};
use crate::error::Result;
use crate::sync::{Arc, Mutex, Weak};

pub use crate::device::metal::raw::PurgeableState;

/// What a heap is to be: `MTLHeapDescriptor`, of type placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapDescriptor {
    /// Size in bytes.
    pub bytes: usize,
    /// Storage mode of the heap and of everything on it.
    pub storage: StorageMode,
}

/// The memory of a heap, known to the device too.
#[derive(Debug)]
pub(super) struct HeapMemory {
    store: Arc<Store>,
    storage: StorageMode,
    address: u64,
    /// Largest page of placement sparse buffers that its tiles can be mapped to.
    compatible: Option<SparsePageSize>,
    purgeable: Mutex<PurgeableState>,
}

impl HeapMemory {
    pub(super) fn new(store: Arc<Store>, storage: StorageMode, address: u64) -> Self {
        Self {
            store,
            storage,
            address,
            compatible: None,
            purgeable: Mutex::new(PurgeableState::NonVolatile),
        }
    }

    /// Of a heap with this `maxCompatiblePlacementSparsePageSize`.
    pub(super) fn compatible_with(mut self, page: Option<SparsePageSize>) -> Self {
        self.compatible = page;
        self
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
    label: Labelled,
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
            label: metal.alive("heap"),
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
    /// of zero or beyond `maxBufferLength`, a place not at a multiple of the alignment, or where the heap has not as many
    /// bytes left as the buffer [takes](Metal::heap_buffer_size_and_align). Each is a violation too.
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
        let (needed, alignment) = metal.heap_buffer_size_and_align(length);
        let end = offset.checked_add(needed);
        if !offset.is_multiple_of(alignment) || end.is_none_or(|end| end > self.size()) {
            return Err(metal.record(Violation {
                rule: Rule::InsideHeap,
                text: format!(
                    "a buffer of {length} bytes at {offset} on a heap of {} bytes; it takes {needed} at a multiple of {alignment}",
                    self.size()
                ),
            }));
        }
        // What covers all of the heap belongs to the making of a segment.
        if (offset, length) != (0, self.size()) {
            metal.begin(Call::Object)?;
        }
        metal.check_count()?;
        metal.charge(metal.costs().buffer.ns(length as u64));
        Ok(Buffer::new(
            metal.clone(),
            Memory::Heap {
                heap: self.clone(),
                offset,
            },
            length,
        ))
    }

    /// Where it lies for the device.
    pub(super) fn address(&self) -> u64 {
        self.shared.memory.address
    }

    /// `maxCompatiblePlacementSparsePageSize` of what it was made by.
    pub(super) fn compatible(&self) -> Option<SparsePageSize> {
        self.shared.memory.compatible
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.shared.memory.store
    }

    pub(super) fn downgrade(&self) -> WeakHeap {
        WeakHeap(Arc::downgrade(&self.shared))
    }
}

/// A heap that may have come to its end.
#[derive(Debug)]
pub(super) struct WeakHeap(Weak<Shared>);

impl WeakHeap {
    pub(super) fn upgrade(&self) -> Option<Heap> {
        let shared = self.0.upgrade()?;
        Some(Heap { shared })
    }
}

impl raw::Object for Heap {
    fn set_label(&self, label: &str) {
        self.shared.label.set(label);
    }
}

impl raw::Heap for Heap {
    type Buffer = Buffer;

    fn size(&self) -> usize {
        self.shared.metal.enter("size");
        Self::size(self)
    }

    fn new_buffer(&self, length: usize, offset: usize) -> Result<Buffer> {
        self.shared
            .metal
            .enter("newBufferWithLength:options:offset:");
        Self::new_buffer(self, length, offset)
    }

    fn set_purgeable_state(&self, state: PurgeableState) -> PurgeableState {
        self.shared.metal.enter("setPurgeableState:");
        Self::set_purgeable_state(self, state)
    }
}

/// The model of an `MTLBuffer`. Cloning it gives another handle; the object ends with the last.
#[derive(Debug, Clone)]
pub struct Buffer {
    /// On the heap of this process, so that the object has an address that stays.
    object: Arc<Object>,
}

#[derive(Debug)]
struct Object {
    metal: Metal,
    memory: Memory,
    length: usize,
    label: Labelled,
}

/// What a buffer lies on.
#[derive(Debug)]
enum Memory {
    /// A heap, which it keeps alive.
    Heap { heap: Heap, offset: usize },
    /// Memory of its own, or of the program's.
    Own {
        store: Arc<Store>,
        address: u64,
        pages: Option<Arc<Pages>>,
        others: Option<Others>,
    },
    /// Tiles of heaps, which it does not keep alive.
    Sparse(Arc<SparseMemory>),
    /// Memory of its own, of which the host has a copy.
    Managed {
        store: Arc<Store>,
        address: u64,
        copy: Arc<HostCopy>,
    },
    /// Memory of a buffer of another device, which lies at an address of this one.
    Remote {
        of: Buffer,
        store: Arc<Store>,
        address: u64,
        offset: usize,
    },
}

impl Buffer {
    fn new(metal: Metal, memory: Memory, length: usize) -> Self {
        let buffer = Self {
            object: Arc::new(Object {
                label: metal.alive("buffer"),
                metal,
                memory,
                length,
            }),
        };
        buffer.object.metal.remember_buffer(&buffer);
        buffer
    }

    /// A buffer over memory of its own (`newBufferWithLength:options:`).
    pub(super) fn of_its_own(
        metal: &Metal,
        store: Arc<Store>,
        address: u64,
        pages: Option<Arc<Pages>>,
    ) -> Self {
        let length = store.bytes();
        let memory = Memory::Own {
            store,
            address,
            pages,
            others: None,
        };
        Self::new(metal.clone(), memory, length)
    }

    /// A placement sparse buffer.
    pub(super) fn of_pages(metal: &Metal, sparse: Arc<SparseMemory>) -> Self {
        let length = sparse.bytes();
        Self::new(metal.clone(), Memory::Sparse(sparse), length)
    }

    /// What is mapped to its pages, if it is a placement sparse buffer.
    pub(super) fn sparse(&self) -> Option<&Arc<SparseMemory>> {
        match &self.object.memory {
            Memory::Sparse(sparse) => Some(sparse),
            _ => None,
        }
    }

    /// A buffer over memory of the program's (`newBufferWithBytesNoCopy:`).
    /// `length` is what it says of itself.
    pub(super) fn over(
        metal: &Metal,
        memory: HostRange,
        length: usize,
        ended: Box<dyn FnOnce() + Send>,
    ) -> Result<Self> {
        let (store, address) = metal.map_others(memory)?;
        let memory = Memory::Own {
            pages: Some(store.pages()?),
            store,
            address,
            others: Some(Others::new(memory, ended)),
        };
        Ok(Self::new(metal.clone(), memory, length))
    }

    /// Whether it is over memory of the program's that is mapped for reading.
    pub(super) fn is_read_only(&self) -> bool {
        match &self.object.memory {
            Memory::Own { others, .. } => others.as_ref().is_some_and(Others::is_read_only),
            _ => false,
        }
    }

    /// A buffer over memory of its own that is managed.
    pub(super) fn managed(metal: &Metal, store: Arc<Store>, address: u64, copy: HostCopy) -> Self {
        let length = store.bytes();
        let memory = Memory::Managed {
            store,
            address,
            copy: Arc::new(copy),
        };
        Self::new(metal.clone(), memory, length)
    }

    /// A buffer of no bytes, which a virtual machine gives where it refuses a request.
    pub(super) fn empty(
        metal: &Metal,
        store: Arc<Store>,
        address: u64,
        ended: Box<dyn FnOnce() + Send>,
    ) -> Self {
        // It keeps no memory of the program.
        ended();
        let memory = Memory::Own {
            store,
            address,
            pages: None,
            others: None,
        };
        Self::new(metal.clone(), memory, 0)
    }

    /// A view of a buffer of another device (`newRemoteBufferViewForDevice:`).
    pub(super) fn remote(
        metal: &Metal,
        of: &Self,
        map: impl FnOnce(&Arc<Store>) -> Result<u64>,
    ) -> Result<Self> {
        let (store, offset) = of.store().ok_or_else(|| {
            metal.record(Violation {
                rule: Rule::RemoteView,
                text: "a view of a placement sparse buffer".into(),
            })
        })?;
        let memory = Memory::Remote {
            of: of.clone(),
            address: map(store)?,
            store: Arc::clone(store),
            offset,
        };
        Ok(Self::new(metal.clone(), memory, of.length()))
    }

    /// What it lies on, and where in it; none for pages that are mapped.
    fn store(&self) -> Option<(&Arc<Store>, usize)> {
        Some(match &self.object.memory {
            Memory::Heap { heap, offset } => (&heap.shared.memory.store, *offset),
            Memory::Own { store, .. } | Memory::Managed { store, .. } => (store, 0),
            Memory::Remote { store, offset, .. } => (store, *offset),
            Memory::Sparse(_) => return None,
        })
    }

    /// The device that it is of.
    pub(super) fn metal(&self) -> &Metal {
        &self.object.metal
    }

    /// The host's copy, for managed storage.
    pub(super) fn host_copy(&self) -> Option<&Arc<HostCopy>> {
        match &self.object.memory {
            Memory::Managed { copy, .. } => Some(copy),
            _ => None,
        }
    }

    /// `remoteStorageBuffer`: the buffer of another device that this one is a view of.
    #[must_use]
    pub fn remote_storage_buffer(&self) -> Option<&Self> {
        match &self.object.memory {
            Memory::Remote { of, .. } => Some(of),
            _ => None,
        }
    }

    /// `storageMode`.
    #[must_use]
    pub fn storage_mode(&self) -> StorageMode {
        match &self.object.memory {
            Memory::Heap { heap, .. } => heap.storage_mode(),
            Memory::Own { pages: Some(_), .. } => StorageMode::Shared,
            Memory::Managed { .. } => StorageMode::Managed,
            Memory::Own { pages: None, .. } | Memory::Remote { .. } | Memory::Sparse(_) => {
                StorageMode::Private
            }
        }
    }

    /// `didModifyRange:`. A change of other storage, or beyond the buffer, is a broken rule.
    pub fn did_modify_range(&self, range: std::ops::Range<usize>) {
        let announced = match self.host_copy() {
            Some(copy) => copy.announce(range),
            None => Err(Violation {
                rule: Rule::OnlyManaged,
                text: format!("a change of {} storage is announced", self.storage_mode()),
            }),
        };
        if let Err(violation) = announced {
            drop(self.object.metal.record(violation));
        }
    }

    /// `length` in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.object.length
    }

    /// `heap`; none for a buffer of its own.
    #[must_use]
    pub fn heap(&self) -> Option<&Heap> {
        match &self.object.memory {
            Memory::Heap { heap, .. } => Some(heap),
            _ => None,
        }
    }

    /// `heapOffset` in bytes.
    #[must_use]
    pub fn heap_offset(&self) -> usize {
        match self.object.memory {
            Memory::Heap { offset, .. } => offset,
            _ => 0,
        }
    }

    /// `gpuAddress`.
    #[must_use]
    pub fn gpu_address(&self) -> u64 {
        match &self.object.memory {
            Memory::Heap { heap, offset } => heap.address() + *offset as u64,
            Memory::Own { address, .. } | Memory::Managed { address, .. } => *address,
            Memory::Sparse(sparse) => sparse.address(),
            Memory::Remote {
                address, offset, ..
            } => *address + *offset as u64,
        }
    }

    /// Where what a residency set holds for it lies.
    pub(super) fn allocation(&self) -> u64 {
        match &self.object.memory {
            Memory::Heap { heap, .. } => heap.address(),
            Memory::Own { address, .. }
            | Memory::Managed { address, .. }
            | Memory::Remote { address, .. } => *address,
            Memory::Sparse(sparse) => sparse.address(),
        }
    }

    /// `contents`; none for private storage.
    #[must_use]
    pub fn contents(&self) -> Option<NonNull<u8>> {
        match &self.object.memory {
            Memory::Heap { heap, offset } => {
                let pages = heap.shared.pages.as_ref()?;
                // SAFETY: the buffer lies inside the heap, for whose size the pages are mapped.
                Some(unsafe { pages.address().add(*offset) })
            }
            Memory::Own { pages, .. } => Some(pages.as_ref()?.address()),
            Memory::Managed { copy, .. } => Some(copy.address()),
            Memory::Sparse(_) | Memory::Remote { .. } => None,
        }
    }

    /// The object, as a driver call takes it.
    #[must_use]
    pub fn resource(&self) -> Resource {
        Resource::new(NonNull::from(self.object.as_ref()).cast())
    }
}

/// A buffer that may have come to its end.
#[derive(Debug)]
pub(super) struct WeakBuffer(Weak<Object>);

impl WeakBuffer {
    pub(super) fn upgrade(&self) -> Option<Buffer> {
        let object = self.0.upgrade()?;
        Some(Buffer { object })
    }
}

impl Buffer {
    pub(super) fn downgrade(&self) -> WeakBuffer {
        WeakBuffer(Arc::downgrade(&self.object))
    }
}

impl raw::Object for Buffer {
    fn set_label(&self, label: &str) {
        self.object.label.set(label);
    }
}

impl raw::Buffer for Buffer {
    fn length(&self) -> usize {
        self.object.metal.enter("length");
        Self::length(self)
    }

    fn contents(&self) -> Option<NonNull<u8>> {
        self.object.metal.enter("contents");
        Self::contents(self)
    }

    fn gpu_address(&self) -> u64 {
        self.object.metal.enter("gpuAddress");
        Self::gpu_address(self)
    }

    fn resource(&self) -> Resource {
        Self::resource(self)
    }

    fn storage_mode(&self) -> StorageMode {
        self.object.metal.enter("storageMode");
        Self::storage_mode(self)
    }

    fn did_modify_range(&self, range: std::ops::Range<usize>) {
        self.object.metal.enter("didModifyRange:");
        Self::did_modify_range(self, range);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let object = Resource::new(NonNull::from(&*self).cast());
        self.metal.forget_buffer(object);
        match &self.memory {
            Memory::Heap { .. } => {}
            Memory::Own {
                store,
                address,
                others,
                ..
            } => {
                // Work that comes later finds nothing there.
                store.set_state(State::Released);
                self.metal.give_back(*address, store.bytes());
                if let Some(Err(violation)) = others.as_ref().map(Others::end) {
                    drop(self.metal.record(violation));
                }
            }
            Memory::Managed { store, address, .. } => {
                store.set_state(State::Released);
                self.metal.give_back(*address, store.bytes());
            }
            Memory::Sparse(sparse) => self.metal.forget_sparse(sparse),
            Memory::Remote { store, address, .. } => {
                self.metal.give_back(*address, store.bytes());
            }
        }
    }
}
