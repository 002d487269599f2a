//! The model of an `MTLResidencySet`.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::metal::Metal;
use crate::device::metal::raw::{self, Allocation};
use crate::sync::{Arc, Mutex};

/// A set; cloning it gives another handle. Allocations are known by where they lie.
#[derive(Debug, Clone, Default)]
pub(in crate::device) struct Set {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeSet<u64>,
    /// Added since the last commit.
    added: BTreeSet<u64>,
    removed: BTreeSet<u64>,
}

impl Set {
    /// Whether both are the same set.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Whether it has an allocation since a commit.
    pub(super) fn has_committed(&self, allocation: u64) -> bool {
        let state = self.state.lock();
        state.members.contains(&allocation) && !state.added.contains(&allocation)
    }

    /// Whether it was told of an allocation and did not commit that.
    pub(super) fn has_staged(&self, allocation: u64) -> bool {
        self.state.lock().added.contains(&allocation)
    }
}

fn place(allocation: Allocation<'_, Metal>) -> u64 {
    match allocation {
        Allocation::Heap(heap) => heap.address(),
        Allocation::Buffer(buffer) => buffer.allocation(),
    }
}

impl raw::ResidencySet for Set {
    type Metal = Metal;

    fn add(&self, allocation: Allocation<'_, Metal>) {
        let mut state = self.state.lock();
        state.added.insert(place(allocation));
    }

    fn remove(&self, allocation: Allocation<'_, Metal>) {
        let (mut state, place) = (self.state.lock(), place(allocation));
        if !state.added.remove(&place) {
            state.removed.insert(place);
        }
    }

    fn commit(&self) {
        let mut state = self.state.lock();
        let State {
            members,
            added,
            removed,
        } = &mut *state;
        // What lies now where something lay that went comes after.
        members.retain(|member| !removed.contains(member));
        removed.clear();
        members.append(added);
    }

    fn request_residency(&self) {}

    fn end_residency(&self) {}
}
