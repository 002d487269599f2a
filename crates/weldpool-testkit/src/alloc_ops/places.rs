//! Where live buffers are: the interval map that the allocator is held against.

use std::collections::BTreeMap;

use weldpool::Binding;

/// What an address counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Address,
    /// A driver's object.
    Resource(usize),
}

/// Where a buffer starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start(Origin, u64);

impl Start {
    pub(super) fn of(binding: &Binding<'_>) -> Option<Self> {
        let host = binding.host.map(|host| host.as_ptr().addr() as u64);
        let address = host.or(binding.device_address);
        address
            .map(|address| Self(Origin::Address, address))
            .or_else(|| {
                let (resource, offset) = binding.resource?;
                let object = resource.as_ptr().as_ptr().addr();
                Some(Self(Origin::Resource(object), offset as u64))
            })
    }

    /// The address, if it is one.
    pub(super) fn address(self) -> Option<u64> {
        (self.0 == Origin::Address).then_some(self.1)
    }

    pub(super) fn is_aligned(self, alignment: usize) -> bool {
        self.1.is_multiple_of(alignment as u64)
    }
}

/// The live buffers with an address, by where they start.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<Start, usize>);

impl Places {
    /// Adds a buffer that shares no byte with any other.
    pub(super) fn add(&mut self, start: Start, bytes: usize) {
        let end = Start(start.0, start.1 + bytes as u64);
        if let Some((&other, &other_bytes)) = self.0.range(..end).next_back() {
            assert!(
                other.0 != start.0 || other.1 + other_bytes as u64 <= start.1,
                "{bytes} bytes at {start:x?} overlap {other_bytes} at {other:x?}"
            );
        }
        self.0.insert(start, bytes);
    }

    pub(super) fn remove(&mut self, start: Start) {
        self.0.remove(&start);
    }
}
