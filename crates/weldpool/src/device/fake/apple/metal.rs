//! The model of an `MTLDevice`: what its memory objects have in common.

mod calls;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::builder::AppleGpu;
use super::commands::{Queue, WeakQueue};
use super::costs::AppleCosts;
use super::event::{Event, WeakEvent};
use super::heap::{Buffer, Heap, HeapDescriptor, HeapMemory, WeakBuffer};
use super::labels::{Alive, Labelled, LiveObject};
use super::managed::HostCopy;
use super::no_copy;
use super::order::Order;
use super::pools::in_a_pool;
use super::sparse::{Seeing, Seen, SparseMemory};
use crate::binding::Resource;
use crate::device::fake::address_space::{AddressSpace, Reach};
use crate::device::fake::call::Call;
use crate::device::fake::capacity::Capacity;
use crate::device::fake::control::{Control, Ledger};
use crate::device::fake::queue::{self, Core, Side};
use crate::device::fake::store::{Fresh, Pages, Store};
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::mapping::Mapper;
use crate::device::metal::raw::SparsePageSize;
use crate::device::{HostRange, Location, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex, MutexGuard, Weak};

/// The model of an `MTLDevice`. Cloning it gives another handle of the same device.
#[derive(Debug, Clone)]
pub struct Metal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ledger: Arc<Ledger>,
    /// Where queues are known.
    control: Weak<Control>,
    mapper: Arc<Mapper>,
    costs: AppleCosts,
    memory: Arc<Capacity>,
    /// What shared storage is of, where the GPU has memory of its own.
    host_memory: Option<Arc<Capacity>>,
    space: AddressSpace,
    limits: Limits,
    objects: Mutex<Objects>,
    order: Mutex<Order>,
    alive: Arc<Alive>,
    /// The residency sets, for tests.
    #[cfg(test)]
    sets: Mutex<Vec<super::residency::WeakSet>>,
}

/// What the device says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) gpu: AppleGpu,
    /// `peerGroupID` and `peerIndex`.
    pub(super) peers: (u64, u32),
    pub(super) host_memory: u64,
    pub(super) working_set: u64,
    pub(super) buffer_bytes_max: u64,
    pub(super) buffers_max: usize,
    pub(super) empty_no_copy: bool,
    /// What a buffer takes on a heap beyond its length, and the multiple at which it may lie.
    pub(super) heap_padding: usize,
    pub(super) heap_alignment: usize,
    pub(super) poison: bool,
    /// How long a command buffer waits for an event.
    pub(super) event_wait_max: Option<Duration>,
    /// The system's version.
    pub(super) macos: u32,
    /// The GPU has.
    pub(super) metal4: bool,
    /// Largest page of placement sparse buffers.
    pub(super) sparse_page_max: SparsePageSize,
}

impl Limits {
    /// Bytes of a page of the host.
    fn page(&self) -> usize {
        match self.gpu {
            AppleGpu::Silicon | AppleGpu::Paravirtual => 16 << 10,
            AppleGpu::Discrete => 4 << 10,
        }
    }
}

/// The objects that are alive, by address.
#[derive(Debug, Default)]
struct Objects {
    heaps: BTreeMap<u64, Arc<HeapMemory>>,
    /// Buffers: from the object's own address to its device address and length.
    buffers: BTreeMap<usize, (u64, usize, WeakBuffer)>,
    /// Placement sparse buffers, by their first device address.
    sparse: BTreeMap<u64, Arc<SparseMemory>>,
    /// Command queues and events, by their objects' own addresses.
    queues: HashMap<usize, WeakQueue>,
    events: HashMap<usize, WeakEvent>,
    /// Where what lies is in residency sets, and in how many: it is not discarded.
    wired: BTreeMap<u64, usize>,
}

impl Metal {
    pub(super) fn new(
        ordinal: u32,
        control: &Arc<Control>,
        costs: AppleCosts,
        memory: u64,
        limits: Limits,
    ) -> Result<Self> {
        let shared = Shared {
            ledger: Arc::clone(control.ledger()),
            control: Arc::downgrade(control),
            mapper: Arc::new(Mapper::new()?),
            costs,
            memory: Arc::new(Capacity::new(memory)),
            host_memory: (limits.gpu == AppleGpu::Discrete)
                .then(|| Arc::new(Capacity::new(limits.host_memory))),
            space: AddressSpace::new(ordinal, limits.page()),
            limits,
            objects: Mutex::default(),
            order: Mutex::default(),
            alive: Arc::default(),
            #[cfg(test)]
            sets: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// `newHeapWithDescriptor:` for a heap of type placement. The size is rounded up to a page.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a size of zero or a storage mode that
    /// heaps do not have, which is a violation too;
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) when there is no memory for it.
    pub fn new_heap(&self, descriptor: &HeapDescriptor) -> Result<Heap> {
        self.make_heap(descriptor, None)
    }

    fn make_heap(
        &self,
        descriptor: &HeapDescriptor,
        compatible: Option<SparsePageSize>,
    ) -> Result<Heap> {
        let HeapDescriptor { bytes, storage } = *descriptor;
        if self.shared.limits.gpu == AppleGpu::Paravirtual {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                "heaps are no use in a virtual machine",
            ));
        }
        let shared_too = self.shared.limits.gpu != AppleGpu::Discrete;
        if storage == StorageMode::Managed || storage == StorageMode::Shared && !shared_too {
            return Err(self.record(Violation {
                rule: Rule::HeapStorage,
                text: format!("a heap of {storage} storage"),
            }));
        }
        let rounded = bytes
            .checked_next_multiple_of(self.page())
            .filter(|&bytes| bytes > 0);
        let Some(bytes) = rounded else {
            return Err(self.record(Violation {
                rule: Rule::Granularity,
                text: format!("a heap of {bytes} bytes"),
            }));
        };
        let (store, pages, address) = self.obtain(bytes, storage)?;
        let memory = HeapMemory::new(store, storage, address).compatible_with(compatible);
        let memory = Arc::new(memory);
        self.shared
            .objects
            .lock()
            .heaps
            .insert(address, Arc::clone(&memory));
        self.charge(self.shared.costs.heap.ns(bytes as u64));
        Ok(Heap::new(self.clone(), memory, pages))
    }

    /// Memory of whole pages, at an address of the device; mapped for the host from the beginning where it may touch it, so
    /// that addresses never change.
    fn obtain(
        &self,
        bytes: usize,
        storage: StorageMode,
    ) -> Result<(Arc<Store>, Option<Arc<Pages>>, u64)> {
        let fresh = match storage {
            StorageMode::Private | StorageMode::Managed => Fresh::Poison {
                large: self.shared.limits.poison,
            },
            StorageMode::Shared => Fresh::Zero,
        };
        let store = Arc::new(self.store(bytes, fresh, storage == StorageMode::Shared)?);
        let pages = match storage {
            StorageMode::Shared => Some(store.pages()?),
            _ => None,
        };
        let address = self.map(&store)?;
        Ok((store, pages, address))
    }

    /// Memory of whole pages, the host's or the device's.
    fn store(&self, bytes: usize, fresh: Fresh, of_host: bool) -> Result<Store> {
        let shared = &self.shared;
        let memory = shared.host_memory.as_ref().filter(|_| of_host);
        let claim = Capacity::claim(memory.unwrap_or(&shared.memory), bytes)?;
        let page = self.page();
        Ok(Store::new(&shared.mapper, bytes, page, fresh, claim))
    }

    /// Maps a store at an address of the device.
    fn map(&self, store: &Arc<Store>) -> Result<u64> {
        let space = &self.shared.space;
        let address = space.reserve(store.bytes(), self.page())?;
        let mapped = space.map(address, store, true);
        mapped.map_err(|violation| self.record(violation))?;
        Ok(address)
    }

    fn page(&self) -> usize {
        self.shared.limits.page()
    }

    /// How long a command buffer waits for an event, if not for ever.
    pub(super) fn event_wait_max(&self) -> Option<Duration> {
        self.shared.limits.event_wait_max
    }

    /// What offsets of bound buffers are multiples of.
    pub(super) fn bind_alignment(&self) -> usize {
        match self.shared.limits.gpu {
            AppleGpu::Discrete => 256,
            AppleGpu::Silicon | AppleGpu::Paravirtual => 4,
        }
    }

    /// `newBufferWithLength:options:`.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a length of zero or beyond `maxBufferLength`, and for managed
    /// storage where there is one memory, each of which is a violation too;
    /// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) when there is no memory for it.
    pub fn new_buffer(&self, length: usize, storage: StorageMode) -> Result<Buffer> {
        if length == 0 || length as u64 > self.max_buffer_length() {
            return Err(self.record(Violation {
                rule: Rule::BufferLength,
                text: format!("a buffer of {length} bytes"),
            }));
        }
        self.check_count()?;
        let managed = storage == StorageMode::Managed;
        if managed && self.shared.host_memory.is_none() {
            return Err(self.record(Violation {
                rule: Rule::OnlyManaged,
                text: "a managed buffer where host and device share one memory".into(),
            }));
        }
        let bytes = length.next_multiple_of(self.page());
        let (store, pages, address) = self.obtain(bytes, storage)?;
        self.charge(self.shared.costs.heap.ns(bytes as u64));
        if managed {
            let host = self.store(bytes, Fresh::Zero, true)?;
            let copy = HostCopy::new(&store, host)?;
            return Ok(Buffer::managed(self, store, address, copy));
        }
        Ok(Buffer::of_its_own(self, store, address, pages))
    }

    /// `newRemoteBufferViewForDevice:` of a buffer of another device, for this one.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for a buffer that is not of private storage, or not of a device
    /// of the same peer group, which is a violation too.
    pub fn new_remote_view(&self, of: &Buffer) -> Result<Buffer> {
        let (group, number) = self.shared.limits.peers;
        let (theirs, other) = of.metal().shared.limits.peers;
        let peers = group != 0 && group == theirs && number != other;
        if !peers || of.storage_mode() != StorageMode::Private {
            return Err(self.record(Violation {
                rule: Rule::RemoteView,
                text: format!(
                    "a view of {} storage of device {other} of group {theirs} for device {number} of group {group}",
                    of.storage_mode()
                ),
            }));
        }
        self.charge(self.shared.costs.buffer.ns(of.length() as u64));
        Buffer::remote(self, of, |store| self.map(store))
    }

    /// `heapBufferSizeAndAlignWithLength:options:`: what a buffer of this length takes on a heap, and
    /// the multiple at which it may lie.
    #[must_use]
    pub fn heap_buffer_size_and_align(&self, length: usize) -> (usize, usize) {
        let Limits {
            heap_padding,
            heap_alignment,
            ..
        } = self.shared.limits;
        let size = length.checked_next_multiple_of(heap_alignment);
        let size = size.and_then(|size| size.checked_add(heap_padding));
        (size.unwrap_or(usize::MAX), heap_alignment)
    }

    /// `currentAllocatedSize`: bytes of all heaps of this device. A heap counts until its end, whatever
    /// its purgeable state.
    #[must_use]
    pub fn current_allocated_size(&self) -> u64 {
        let of_host = self.shared.host_memory.as_ref();
        self.shared.memory.used() + of_host.map_or(0, |memory| memory.used())
    }

    /// `recommendedMaxWorkingSetSize`: what can be used with good performance, in bytes. Not a limit.
    #[must_use]
    pub fn recommended_max_working_set_size(&self) -> u64 {
        self.shared.limits.working_set
    }

    /// `maxBufferLength` in bytes.
    #[must_use]
    pub fn max_buffer_length(&self) -> u64 {
        self.shared.limits.buffer_bytes_max
    }

    /// Physical memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let memory = self.shared.host_memory.as_ref();
        memory.unwrap_or(&self.shared.memory).total()
    }

    /// The buffer that an object is, while that is alive.
    #[must_use]
    pub fn buffer(&self, object: Resource) -> Option<Buffer> {
        let objects = self.shared.objects.lock();
        objects.buffers.get(&key(object))?.2.upgrade()
    }

    /// What the system does under memory pressure: discards volatile heaps that no residency set holds, lowest address
    /// first, until `bytes` bytes are discarded or none is left; returns the bytes. The contents become poison.
    ///
    /// Nobody may be using the contents, as the rules for volatile memory say.
    #[must_use = "says how many bytes were discarded"]
    pub fn purge_volatile(&self, bytes: u64) -> u64 {
        let heaps: Vec<_> = {
            let objects = self.shared.objects.lock();
            let wired = |heap: &&Arc<HeapMemory>| objects.wired.contains_key(&heap.address());
            let heaps = objects.heaps.values().filter(|heap| !wired(heap));
            heaps.cloned().collect()
        };
        let mut discarded = 0;
        for heap in heaps {
            if discarded >= bytes {
                break;
            }
            if heap.purge() {
                discarded += heap.bytes() as u64;
            }
        }
        discarded
    }

    /// Whether queues are stepped by hand.
    pub(super) fn is_stepped(&self) -> bool {
        let control = self.shared.control.upgrade();
        control.is_some_and(|control| control.is_stepped())
    }

    /// The objects that are alive, oldest first: what is not balanced by a release stays among them.
    #[must_use]
    pub fn live_objects(&self) -> Vec<LiveObject> {
        self.shared.alive.list()
    }

    /// The residency sets that are alive.
    #[cfg(test)]
    pub(super) fn sets(&self) -> Vec<super::residency::Set> {
        let sets = self.shared.sets.lock();
        sets.iter()
            .filter_map(super::residency::WeakSet::upgrade)
            .collect()
    }

    /// An object's place among those.
    pub(super) fn alive(&self, what: &'static str) -> Labelled {
        self.shared.alive.add(what)
    }

    /// Which passes are known to run behind others.
    pub(super) fn order(&self) -> MutexGuard<'_, Order> {
        self.shared.order.lock()
    }

    /// Begins a call of Metal's, which is made in an autorelease pool: on a thread without one, what the framework
    /// autoreleases stays for ever (Apple's "Advanced Memory Management Programming Guide", Using Autorelease Pool Blocks).
    pub(super) fn enter(&self, call: &str) {
        if !in_a_pool() {
            let text = format!("{call} outside of an autorelease pool");
            self.break_rule(Rule::AutoreleasePool, text);
        }
    }

    /// Takes note of a broken rule, where no error is returned.
    pub(super) fn break_rule(&self, rule: Rule, text: String) {
        drop(self.record(Violation { rule, text }));
    }

    pub(super) fn costs(&self) -> &AppleCosts {
        &self.shared.costs
    }

    pub(super) fn charge(&self, nanoseconds: u64) {
        self.shared.ledger.charge(nanoseconds);
    }

    pub(super) fn record(&self, violation: Violation) -> Error {
        self.shared.ledger.record(violation)
    }

    /// Takes note of what residency sets hold from now on.
    pub(super) fn wire<'a>(&self, places: impl IntoIterator<Item = &'a u64>) {
        let wired = &mut self.shared.objects.lock().wired;
        for &place in places {
            *wired.entry(place).or_default() += 1;
        }
    }

    /// Takes note of what they let go.
    pub(super) fn unwire<'a>(&self, places: impl IntoIterator<Item = &'a u64>) {
        let wired = &mut self.shared.objects.lock().wired;
        for place in places {
            if let Some(count) = wired.get_mut(place) {
                *count -= 1;
                if *count == 0 {
                    wired.remove(place);
                }
            }
        }
    }

    pub(super) fn forget_heap(&self, heap: &HeapMemory) {
        self.shared.objects.lock().heaps.remove(&heap.address());
        self.give_back(heap.address(), heap.bytes());
    }

    /// Begins a call that can be made to fail.
    pub(super) fn begin(&self, call: Call) -> Result<()> {
        self.shared.ledger.enter(call)
    }

    /// Refuses a buffer that would be one too many.
    pub(super) fn check_count(&self) -> Result<()> {
        let most = self.shared.limits.buffers_max;
        if self.shared.objects.lock().buffers.len() < most {
            return Ok(());
        }
        Err(self.record(Violation {
            rule: Rule::BufferCount,
            text: format!("a buffer is made while {most} are alive, which is the most"),
        }))
    }

    /// Maps memory that the program obtained; the address it has for the device.
    pub(super) fn map_others(&self, memory: HostRange) -> Result<(Arc<Store>, u64)> {
        let of = self.shared.host_memory.as_ref();
        let claim = Capacity::claim(of.unwrap_or(&self.shared.memory), memory.bytes)?;
        let store = Arc::new(Store::of_others(memory, &self.shared.mapper, claim));
        let address = self.map(&store)?;
        Ok((store, address))
    }

    /// Gives addresses back, which others may have from now on.
    pub(super) fn give_back(&self, address: u64, bytes: usize) {
        self.order().forget_memory(address..address + bytes as u64);
        let _mapped = self.shared.space.give_back(address, bytes);
    }

    /// The place of a buffer's bytes, if they are inside it.
    pub(super) fn place(
        &self,
        buffer: &Buffer,
        offset: usize,
        bytes: usize,
    ) -> std::result::Result<Side, Violation> {
        let location = Location {
            host: None,
            device: None,
            resource: Some((buffer.resource(), offset)),
        };
        queue::Memory::identify(self, &location, bytes)
    }

    /// A command queue or an event that is alive, by its object.
    pub(super) fn queue(&self, object: Resource) -> Option<Queue> {
        let objects = self.shared.objects.lock();
        objects.queues.get(&key(object))?.upgrade()
    }

    pub(super) fn event(&self, object: Resource) -> Option<Event> {
        let objects = self.shared.objects.lock();
        objects.events.get(&key(object))?.upgrade()
    }

    pub(super) fn forget_queue(&self, object: usize) {
        self.shared.objects.lock().queues.remove(&object);
    }

    pub(super) fn forget_event(&self, object: usize) {
        self.shared.objects.lock().events.remove(&object);
        self.order().forget(object);
    }

    pub(super) fn remember_buffer(&self, buffer: &Buffer) {
        let object = key(buffer.resource());
        let known = (buffer.gpu_address(), buffer.length(), buffer.downgrade());
        self.shared.objects.lock().buffers.insert(object, known);
    }

    pub(super) fn forget_buffer(&self, object: Resource) {
        let object = key(object);
        self.shared.objects.lock().buffers.remove(&object);
    }

    /// The placement sparse buffer around an address.
    pub(super) fn sparse_at(&self, address: u64) -> Option<Arc<SparseMemory>> {
        let objects = self.shared.objects.lock();
        let (&start, sparse) = objects.sparse.range(..=address).next_back()?;
        (address - start < sparse.bytes() as u64).then(|| Arc::clone(sparse))
    }

    pub(super) fn forget_sparse(&self, sparse: &SparseMemory) {
        let (address, bytes) = (sparse.address(), sparse.bytes());
        self.shared.objects.lock().sparse.remove(&address);
        self.give_back(address, bytes);
    }

    /// Whether there are placement sparse buffers with such pages; asking where there are none breaks a rule.
    fn check_sparse(&self, page: SparsePageSize, what: &str) -> Result<()> {
        if self.shared.limits.macos < 26 || !self.shared.limits.metal4 {
            return Err(self.record(Violation {
                rule: Rule::SparseOffered,
                text: format!("{what} is made where there is no Metal 4"),
            }));
        }
        if page > self.shared.limits.sparse_page_max {
            return Err(Error::with_message(
                ErrorKind::OutOfMemory,
                format!("Metal made no {what} with pages of {} bytes", page.bytes()),
            ));
        }
        Ok(())
    }

    fn make_core(&self, seen: &Arc<Seen>) -> Result<Arc<Core>> {
        let control = self.shared.control.upgrade();
        let control = control
            .ok_or_else(|| Error::new(ErrorKind::DeviceLost, "the model of the device is gone"))?;
        control.create_core(Arc::new(Seeing {
            metal: self.clone(),
            seen: Arc::clone(seen),
        }))
    }

    /// Whether a buffer object of this device is alive.
    pub(super) fn knows(&self, object: Resource) -> bool {
        let object = key(object);
        self.shared.objects.lock().buffers.contains_key(&object)
    }
}

/// The address of an object.
fn key(object: Resource) -> usize {
    object.as_ptr().addr().get()
}

impl queue::Memory for Metal {
    /// A location is a buffer and an offset in it, as an encoder takes it.
    fn identify(&self, location: &Location, bytes: usize) -> std::result::Result<Side, Violation> {
        let Some((object, offset)) = location.resource else {
            return broken(
                Rule::OwnMemory,
                "a location without a buffer of this device",
            );
        };
        let objects = self.shared.objects.lock();
        let Some(&(address, length, _)) = objects.buffers.get(&key(object)) else {
            return broken(
                Rule::OwnMemory,
                format!("{object:?} is no buffer of this device, or its end has come"),
            );
        };
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return broken(
                Rule::InsideBuffer,
                format!("work on {bytes} bytes at {offset} of a buffer of {length} bytes"),
            );
        }
        Ok(Side::Device(address + offset as u64))
    }

    fn reach(&self, address: u64, bytes: usize) -> std::result::Result<Vec<Reach>, Violation> {
        let reached = self.shared.space.reach(address, bytes)?;
        for reach in &reached {
            no_copy::check_reach(reach)?;
        }
        Ok(reached)
    }
}
