//! Placement sparse buffers as address space, and placement heaps as physical memory (Metal 4).
//!
//! A handle is a whole heap: tiles of a heap could be mapped in part, but a heap goes back to the system only as one. Heaps
//! come in multiples of 2 MiB, as handles do on CUDA: each is an object, a member of a residency set and a call of the
//! cost of an allocation, so a finer granularity would be paid for with many of them.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::ptr::NonNull;

use super::Shared;
use super::config::{MetalConfig, NoPlacementSparse};
use super::mapped::Mapped;
use super::raw::{
    Allocation, Buffer, Family, Heap, MappingQueue, Metal, Object, SparsePageSize, Tiles,
};
use super::residency::Member;
use super::updates::{Handle, Kept, Updates};
use crate::binding::Resource;
use crate::device::{AddressRange, Physical, StorageMode, VirtualMemory, VirtualMemoryProperties};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// Sizes of handles and positions of mappings.
const GRANULARITY: usize = 2 << 20;
/// Not measured on a Mac. Making a heap is taken to cost what `cudaMalloc` of the size does, a mapping update what
/// `cuMemSetAccess` and `cuMemUnmap` do, the nearest calls that were measured (H200, driver 580).
const CREATE_NS: u32 = 60_000;
const REMAP_NS: u32 = 35_000;

/// What mapping takes, as far as the system and the GPU have it.
#[derive(Debug)]
pub(super) struct Opened<M: Metal> {
    queue: M::Mappings,
    pub(super) mapped: Arc<Mapped<M>>,
    pub(super) page: SparsePageSize,
}

/// Looks whether mapping can be had; the largest page with which Metal makes a heap and a buffer.
pub(super) fn open<M: Metal>(
    metal: &M,
    config: &MetalConfig,
    heaps: bool,
) -> std::result::Result<Opened<M>, NoPlacementSparse> {
    if !metal.has_placement_sparse() {
        return Err(NoPlacementSparse::System);
    }
    if !heaps {
        return Err(NoPlacementSparse::Virtual);
    }
    if !metal.supports_family(Family::Metal4) {
        return Err(NoPlacementSparse::Family);
    }
    let working_set = metal.recommended_max_working_set_size();
    if !config.residency.enabled || !metal.has_residency_sets() || working_set == 0 {
        return Err(NoPlacementSparse::Residency);
    }
    let make = || {
        let queue = metal.new_mapping_queue("weldpool mappings")?;
        let event = metal.new_shared_event()?;
        event.set_label("weldpool mappings");
        let page = page_size(metal)?;
        Ok(Opened {
            queue,
            mapped: Arc::new(Mapped::new(event)),
            page,
        })
    };
    make().map_err(NoPlacementSparse::Refused)
}

fn page_size<M: Metal>(metal: &M) -> Result<SparsePageSize> {
    let storage = StorageMode::Private;
    let mut refused = Error::new(ErrorKind::Unsupported, "Metal has no size of page for it");
    for page in SparsePageSize::LARGEST_FIRST {
        let heap = metal.new_sparse_heap(page.bytes(), storage, page);
        let buffer = heap.and_then(|_| metal.new_sparse_buffer(page.bytes(), storage, page));
        match buffer {
            Ok(_) => return Ok(page),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The virtual memory of a device, for private storage alone: what the host sees of a placement sparse buffer is not
/// documented, so none is made that it could see.
#[derive(Debug)]
pub(super) struct MetalMemory<M: Metal> {
    inner: Arc<Inner<M>>,
    properties: VirtualMemoryProperties,
}

#[derive(Debug)]
struct Inner<M: Metal> {
    shared: Arc<Shared<M>>,
    page: SparsePageSize,
    mapped: Arc<Mapped<M>>,
    updates: Updates<M>,
    handles: Mutex<Handles<M>>,
}

#[derive(Debug)]
struct Handles<M: Metal> {
    next: u64,
    held: HashMap<u64, Arc<Handle<M>>>,
}

impl<M: Metal> Inner<M> {
    fn handle(&self, physical: Physical, bytes: usize) -> Result<Arc<Handle<M>>> {
        let handles = self.handles.lock();
        let handle = handles.held.get(&physical.number());
        let handle = handle.filter(|handle| handle.bytes == bytes);
        handle.map(Arc::clone).ok_or_else(|| {
            invalid(format!(
                "{bytes} bytes of {physical:?}, which is no handle of that length"
            ))
        })
    }
}

impl<M: Metal> Drop for Inner<M> {
    fn drop(&mut self) {
        M::pooled(|| {
            self.updates.end(&self.mapped);
            self.handles.get_mut().held.clear();
        });
    }
}

fn invalid(text: String) -> Error {
    Error::with_message(ErrorKind::InvalidRequest, text)
}

fn check_granularity(bytes: usize, what: &str) -> Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(GRANULARITY) {
        return Err(invalid(format!(
            "{what} of {bytes} bytes; it has to be a multiple of {GRANULARITY}"
        )));
    }
    Ok(())
}

impl<M: Metal> MetalMemory<M> {
    pub(super) fn new(shared: &Arc<Shared<M>>, opened: Opened<M>) -> Self {
        let Opened {
            queue,
            mapped,
            page,
        } = opened;
        let longest = usize::try_from(shared.metal.max_buffer_length()).unwrap_or(usize::MAX);
        let addresses = longest.saturating_sub(GRANULARITY - page.bytes());
        Self {
            properties: VirtualMemoryProperties {
                granularity: GRANULARITY,
                divisible: false,
                needs_access: false,
                mappings_max: None,
                address_bytes_max: addresses / GRANULARITY * GRANULARITY,
                create_ns: CREATE_NS,
                remap_ns: REMAP_NS,
            },
            inner: Arc::new(Inner {
                shared: Arc::clone(shared),
                page,
                mapped,
                updates: Updates::new(queue),
                handles: Mutex::new(Handles {
                    next: 0,
                    held: HashMap::new(),
                }),
            }),
        }
    }
}

impl<M: Metal> VirtualMemory for MetalMemory<M> {
    fn properties(&self) -> VirtualMemoryProperties {
        self.properties
    }

    fn reserve(&self, bytes: usize) -> Result<Box<dyn AddressRange>> {
        check_granularity(bytes, "addresses")?;
        if bytes > self.properties.address_bytes_max {
            return Err(Error::with_message(
                ErrorKind::OutOfMemory,
                format!(
                    "no buffer has {bytes} bytes of addresses; {} is the most",
                    self.properties.address_bytes_max
                ),
            ));
        }
        let addresses = M::pooled(|| Addresses::new(&self.inner, bytes));
        Ok(Box::new(addresses?))
    }

    fn create(&self, bytes: usize, storage: StorageMode) -> Result<Physical> {
        check_granularity(bytes, "a handle")?;
        if storage != StorageMode::Private {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "placement sparse buffers are of private storage here",
            ));
        }
        M::pooled(|| {
            let Inner { shared, .. } = self.inner.as_ref();
            self.inner.updates.let_go(&self.inner.mapped);
            let heap = shared
                .metal
                .new_sparse_heap(bytes, storage, self.inner.page)?;
            heap.set_label("weldpool handle");
            let member = shared
                .resident
                .add(&shared.metal, Allocation::Heap(&heap), heap.size() as u64)
                .ok_or_else(|| {
                    Error::with_message(
                        ErrorKind::OutOfMemory,
                        format!(
                            "{bytes} bytes more cannot be kept resident, as memory behind placement sparse buffers must be"
                        ),
                    )
                    .with_advice("free private memory, raise ResidencyConfig::share, or leave MetalConfig::placement_sparse off")
                })?;
            let handle = Arc::new(Handle {
                shared: Arc::clone(shared),
                heap,
                bytes,
                member,
            });
            let mut handles = self.inner.handles.lock();
            let number = handles.next;
            handles.next += 1;
            handles.held.insert(number, handle);
            Ok(Physical::new(number))
        })
    }

    unsafe fn release(&self, physical: Physical, bytes: usize) -> Result<()> {
        let handle = self.inner.handle(physical, bytes)?;
        let Inner {
            updates, mapped, ..
        } = self.inner.as_ref();
        self.inner.handles.lock().held.remove(&physical.number());
        M::pooled(|| {
            updates.keep(mapped, [Kept::Handle(handle)]);
            updates.settle(mapped);
        });
        Ok(())
    }
}

/// Addresses: the part of a placement sparse buffer that begins at a multiple of the granularity.
#[derive(Debug)]
struct Addresses<M: Metal> {
    inner: Arc<Inner<M>>,
    /// None once it has ended.
    buffer: Option<M::Buffer>,
    resource: Resource,
    address: u64,
    /// Where they begin in the buffer.
    start: usize,
    bytes: usize,
    /// The buffer itself is kept resident too, though no memory is its own.
    member: Option<Member>,
    /// What is mapped where, from the beginning of the addresses.
    mapped: Mutex<BTreeMap<usize, Arc<Handle<M>>>>,
}

impl<M: Metal> Addresses<M> {
    fn new(inner: &Arc<Inner<M>>, bytes: usize) -> Result<Self> {
        let (shared, page) = (&inner.shared, inner.page);
        let length = bytes + GRANULARITY - page.bytes();
        let storage = StorageMode::Private;
        let make = || shared.metal.new_sparse_buffer(length, storage, page);
        let buffer = shared.known.make(0..length, make)?;
        buffer.set_label("weldpool addresses");
        // Pages are mapped whole, so the address should be a multiple of one; that is not documented.
        let address = buffer.gpu_address();
        let start = address.next_multiple_of(GRANULARITY as u64) - address;
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        if !start.is_multiple_of(page.bytes()) {
            shared.known.remove(buffer.resource());
            return Err(Error::with_message(
                ErrorKind::Unsupported,
                format!("a placement sparse buffer begins at {address:#x}, inside a page"),
            ));
        }
        let member = shared
            .resident
            .add(&shared.metal, Allocation::Buffer(&buffer), 0);
        Ok(Self {
            inner: Arc::clone(inner),
            resource: buffer.resource(),
            address: address + start as u64,
            buffer: Some(buffer),
            start,
            bytes,
            member,
            mapped: Mutex::default(),
        })
    }

    fn buffer(&self) -> Result<&M::Buffer> {
        let buffer = self.buffer.as_ref();
        buffer.ok_or_else(|| invalid("addresses whose end has come".into()))
    }

    /// The tiles of a part.
    fn tiles(&self, at: usize, bytes: usize) -> Result<Tiles> {
        check_granularity(bytes, "a part")?;
        let inside = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let tiles = (inside && at.is_multiple_of(GRANULARITY))
            .then(|| Tiles::of(self.inner.page, self.start + at, bytes));
        tiles.flatten().ok_or_else(|| {
            invalid(format!(
                "a mapping of {bytes} bytes at {at} of {} bytes of addresses",
                self.bytes
            ))
        })
    }
}

/// The mappings in a part, each of them whole.
fn inside<M: Metal>(
    mapped: &BTreeMap<usize, Arc<Handle<M>>>,
    at: usize,
    bytes: usize,
) -> Result<Vec<usize>> {
    let end = at + bytes;
    let reaches_in = |(&start, handle): (&usize, &Arc<Handle<M>>)| start + handle.bytes > at;
    let cut_before = mapped.range(..at).next_back().is_some_and(reaches_in);
    let last = mapped.range(at..end).next_back();
    if cut_before || last.is_some_and(|(&start, handle)| start + handle.bytes > end) {
        return Err(invalid(format!(
            "{bytes} bytes at {at} cut through a mapping"
        )));
    }
    Ok(mapped.range(at..end).map(|(&start, _)| start).collect())
}

// SAFETY: the host has no address for it. The buffer's addresses are nobody else's until its end, which is not before the
// drop; work of this device's queues waits for the updates before it, so it finds what is mapped.
unsafe impl<M: Metal> AddressRange for Addresses<M> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }

    fn resource(&self) -> Option<(Resource, usize)> {
        Some((self.resource, self.start))
    }

    unsafe fn map(&self, at: usize, physical: Physical, bytes: usize) -> Result<()> {
        let tiles = self.tiles(at, bytes)?;
        let handle = self.inner.handle(physical, bytes)?;
        let mut mapped = self.mapped.lock();
        if !inside(&mapped, at, bytes)?.is_empty() {
            return Err(invalid(format!("{bytes} bytes at {at} are mapped already")));
        }
        M::pooled(|| {
            let buffer = self.buffer()?;
            let map = |queue: &M::Mappings| queue.map(buffer, tiles, &handle.heap, 0);
            self.inner.updates.issue(&self.inner.mapped, map)
        })?;
        mapped.insert(at, handle);
        Ok(())
    }

    unsafe fn unmap(&self, at: usize, bytes: usize) -> Result<()> {
        let tiles = self.tiles(at, bytes)?;
        let mut mapped = self.mapped.lock();
        let starts = inside(&mapped, at, bytes)?;
        M::pooled(|| {
            let (event, updates) = (&self.inner.mapped, &self.inner.updates);
            let buffer = self.buffer()?;
            updates.issue(event, |queue| queue.unmap(buffer, tiles))?;
            let gone = starts.iter().filter_map(|start| mapped.remove(start));
            updates.keep(event, gone.map(Kept::Handle));
            Ok(())
        })
    }
}

impl<M: Metal> Drop for Addresses<M> {
    /// The buffer's end is that of its mappings.
    fn drop(&mut self) {
        let Inner {
            shared,
            updates,
            mapped: event,
            ..
        } = self.inner.as_ref();
        M::pooled(|| {
            shared.known.remove(self.resource);
            let buffer = self.buffer.take();
            if let (Some(member), Some(buffer)) = (self.member, &buffer) {
                let buffer = Allocation::Buffer(buffer);
                shared.resident.remove(member, buffer);
                shared.resident.commit();
            }
            let mapped = std::mem::take(self.mapped.get_mut());
            let handles = mapped.into_values().map(Kept::Handle);
            updates.keep(event, handles.chain(buffer.map(Kept::Buffer)));
        });
    }
}

#[cfg(test)]
mod tests;
