//! What calls of Metal are taken to cost.

use crate::device::fake::costs::{Costs, Curve};

/// What the calls of Metal that obtain and return memory cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppleCosts {
    /// Making a heap (`newHeapWithDescriptor:`), by its size.
    pub heap: Curve,
    /// Making a buffer on a heap (`newBufferWithLength:options:offset:`), by its length.
    pub buffer: Curve,
    /// The end of a heap, by its size.
    pub release: Curve,
    /// Changing a heap's purgeable state, by its size.
    pub purgeable: Curve,
    /// Making a placement sparse buffer, by its length.
    pub addresses: Curve,
    /// Mapping tiles of a heap, by their size, and signalling the event behind.
    pub map: Curve,
    /// Unmapping tiles, by their size, and signalling the event behind.
    pub unmap: Curve,
    /// Signalling a shared event, in nanoseconds.
    pub event_signal_ns: u64,
    /// Reading a shared event's value, in nanoseconds.
    pub event_query_ns: u64,
}

impl AppleCosts {
    /// An assumption: none of these calls was measured on a Mac. Making and ending a heap is taken to
    /// cost what `cudaMalloc` and `cudaFree` of the size do ([`Costs::h200`]), the nearest call that was
    /// measured; making a buffer, which is an Objective-C object over memory that is there, and changing
    /// a state 1 us each; events what CUDA's do. A placement sparse buffer is taken to cost what reserving
    /// addresses does on CUDA, and a mapping update what allowing access to a mapping of the size and
    /// removing it do, where the page tables of the GPU are changed.
    #[must_use]
    pub fn assumed() -> Self {
        let cuda = Costs::h200();
        Self {
            heap: cuda.malloc.clone(),
            buffer: Curve::flat(1_000),
            release: cuda.malloc,
            purgeable: Curve::flat(1_000),
            addresses: cuda.reserve,
            map: cuda.access,
            unmap: cuda.unmap,
            event_signal_ns: cuda.event_record_ns,
            event_query_ns: cuda.event_query_ns,
        }
    }

    /// No costs.
    #[must_use]
    pub fn free() -> Self {
        let free = Curve::flat(0);
        Self {
            heap: free.clone(),
            buffer: free.clone(),
            release: free.clone(),
            purgeable: free.clone(),
            addresses: free.clone(),
            map: free.clone(),
            unmap: free,
            event_signal_ns: 0,
            event_query_ns: 0,
        }
    }
}
