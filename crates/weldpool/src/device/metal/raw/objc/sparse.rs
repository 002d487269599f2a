//! Placement sparse buffers on a Mac. Type-checked and linked, not run.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use objc2::runtime::NSObjectProtocol as _;
use objc2::sel;
use objc2_foundation::{NSRange, NSString};
use objc2_metal::{
    MTL4CommandQueue as _, MTL4CommandQueueDescriptor, MTL4UpdateSparseBufferMappingOperation,
    MTLBuffer as _, MTLBufferSparseTier, MTLDevice as _, MTLHazardTrackingMode, MTLHeap as _,
    MTLHeapDescriptor, MTLHeapType, MTLResource as _, MTLSparsePageSize,
    MTLSparseTextureMappingMode,
};

use super::{Buffer, Device, Event, Heap, Mappings, failed, made, mode, options};
use crate::device::StorageMode;
use crate::device::metal::raw::{MappingQueue, SparsePageSize, Tiles};
use crate::error::{Error, ErrorKind, Result};

fn page_size(page: SparsePageSize) -> MTLSparsePageSize {
    match page {
        SparsePageSize::Size16 => MTLSparsePageSize::Size16,
        SparsePageSize::Size64 => MTLSparsePageSize::Size64,
        SparsePageSize::Size256 => MTLSparsePageSize::Size256,
    }
}

fn invalid(text: String) -> Error {
    Error::with_message(ErrorKind::InvalidRequest, text)
}

/// Whether the system has the calls: all came with macOS 26. Asked of the device, since the version of the system is told
/// wrongly to a program built with an older SDK.
pub(super) fn is_there(device: &Device) -> bool {
    let buffers = sel!(newBufferWithLength:options:placementSparsePageSize:);
    let queues = sel!(newMTL4CommandQueueWithDescriptor:error:);
    device.0.respondsToSelector(buffers) && device.0.respondsToSelector(queues)
}

pub(super) fn new_heap(
    device: &Device,
    bytes: usize,
    storage: StorageMode,
    page: SparsePageSize,
) -> Result<Heap> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(bytes);
    descriptor.setStorageMode(mode(storage));
    descriptor.setType(MTLHeapType::Placement);
    descriptor.setHazardTrackingMode(MTLHazardTrackingMode::Untracked);
    descriptor.setMaxCompatiblePlacementSparsePageSize(page_size(page));
    let heap = device.0.newHeapWithDescriptor(&descriptor);
    made(heap, || format!("heap of {bytes} bytes")).map(Heap::new)
}

pub(super) fn new_buffer(
    device: &Device,
    length: usize,
    storage: StorageMode,
    page: SparsePageSize,
) -> Result<Buffer> {
    let whole = Tiles::of(page, 0, length);
    if whole.is_none() || length > device.0.maxBufferLength() {
        return Err(invalid(format!(
            "a placement sparse buffer of {length} bytes, with pages of {}",
            page.bytes()
        )));
    }
    // SAFETY: the length is one of whole pages, and no more than the device allows.
    let buffer = unsafe {
        device
            .0
            .newBufferWithLength_options_placementSparsePageSize(
                length,
                options(storage),
                page_size(page),
            )
    };
    made(buffer, || {
        format!("placement sparse buffer of {length} bytes")
    })
    .map(Buffer::new)
}

/// The label is given by the descriptor: the queue has no setter for it.
pub(super) fn new_queue(device: &Device, label: &str) -> Result<Mappings> {
    let descriptor = MTL4CommandQueueDescriptor::new();
    descriptor.setLabel(Some(&NSString::from_str(label)));
    let queue = device
        .0
        .newMTL4CommandQueueWithDescriptor_error(&descriptor);
    queue
        .map(Mappings::new)
        .map_err(|error| failed("making a queue of Metal 4", &error))
}

impl Mappings {
    /// Makes the call once what it leaves to its caller is checked.
    fn update(&self, buffer: &Buffer, tiles: Tiles, heap: Option<(&Heap, usize)>) -> Result<()> {
        let (to, length) = (&buffer.0, buffer.0.length());
        if to.sparseBufferTier() == MTLBufferSparseTier::TierNone || !tiles.lie_inside(length) {
            return Err(invalid(format!(
                "{tiles:?} are mapped in a buffer of {length} bytes, or it is not sparse"
            )));
        }
        if let Some((heap, first)) = heap {
            let (from, size) = (&heap.0, heap.0.size());
            let behind = Tiles { first, ..tiles };
            let kind = from.r#type() == MTLHeapType::Placement;
            if !kind || from.storageMode() != to.storageMode() || !behind.lie_inside(size) {
                return Err(invalid(format!(
                    "{behind:?} of a heap of {size} bytes are mapped, or it is no placement heap of the same storage"
                )));
            }
        }
        let operation = MTL4UpdateSparseBufferMappingOperation {
            mode: match heap {
                Some(_) => MTLSparseTextureMappingMode::Map,
                None => MTLSparseTextureMappingMode::Unmap,
            },
            bufferRange: NSRange {
                location: tiles.first,
                length: tiles.count,
            },
            heapOffset: heap.map_or(0, |(_, first)| first),
        };
        // SAFETY: one operation, whose tiles are inside a sparse buffer and a placement heap of the same storage; both
        // were made with the same page size, and whoever calls keeps them alive until the queue has come by here.
        unsafe {
            self.0.updateBufferMappings_heap_operations_count(
                to,
                heap.map(|(heap, _)| &*heap.0),
                NonNull::from(&operation),
                1,
            );
        };
        Ok(())
    }
}

impl MappingQueue for Mappings {
    type Metal = Device;

    fn map(&self, buffer: &Buffer, tiles: Tiles, heap: &Heap, heap_tile: usize) -> Result<()> {
        self.update(buffer, tiles, Some((heap, heap_tile)))
    }

    fn unmap(&self, buffer: &Buffer, tiles: Tiles) -> Result<()> {
        self.update(buffer, tiles, None)
    }

    fn signal(&self, event: &Event, value: u64) {
        self.0.signalEvent_value((*event.event).as_ref(), value);
    }
}
