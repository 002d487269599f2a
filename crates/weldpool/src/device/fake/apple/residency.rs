//! The model of an `MTLResidencySet`.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::labels::Labelled;
use super::metal::Metal;
use crate::device::metal::raw::{self, Allocation};
use crate::sync::{Arc, Mutex};

/// A set; cloning it gives another handle. Allocations are known by where they lie.
#[derive(Debug, Clone)]
pub(in crate::device) struct Set {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metal: Metal,
    state: Mutex<State>,
    /// Known by its label alone.
    _label: Labelled,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeSet<u64>,
    /// Added since the last commit.
    added: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    /// Whether residency was requested, and not ended since.
    requested: bool,
    /// How often it was.
    requests: u64,
}

impl Set {
    pub(super) fn new(metal: &Metal, label: &str) -> Self {
        let alive = metal.alive("residency set");
        alive.set(label);
        Self {
            inner: Arc::new(Inner {
                metal: metal.clone(),
                state: Mutex::default(),
                _label: alive,
            }),
        }
    }

    /// What the device has it do, for those who look: members, whether residency is requested, and how often it was.
    pub(super) fn figures(&self) -> (usize, bool, u64) {
        let state = self.inner.state.lock();
        (state.members.len(), state.requested, state.requests)
    }

    /// Whether both are the same set.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether it was told of an allocation and did not commit that.
    pub(super) fn has_staged(&self, allocation: u64) -> bool {
        self.inner.state.lock().added.contains(&allocation)
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
        self.inner.metal.enter("addAllocation:");
        let mut state = self.inner.state.lock();
        state.added.insert(place(allocation));
    }

    fn remove(&self, allocation: Allocation<'_, Metal>) {
        self.inner.metal.enter("removeAllocation:");
        let (mut state, place) = (self.inner.state.lock(), place(allocation));
        if !state.added.remove(&place) {
            state.removed.insert(place);
        }
    }

    fn commit(&self) {
        self.inner.metal.enter("commit");
        let mut state = self.inner.state.lock();
        let State {
            members,
            added,
            removed,
            ..
        } = &mut *state;
        members.append(added);
        members.retain(|member| !removed.contains(member));
        removed.clear();
    }

    fn request_residency(&self) {
        self.inner.metal.enter("requestResidency");
        let mut state = self.inner.state.lock();
        state.requested = true;
        state.requests += 1;
    }

    fn end_residency(&self) {
        self.inner.metal.enter("endResidency");
        self.inner.state.lock().requested = false;
    }
}
