//! The model of an `MTLResidencySet`.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::heap::{Buffer, Heap};
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
    /// By where they lie.
    members: BTreeMap<u64, Held>,
    /// Added since the last commit.
    added: BTreeMap<u64, Held>,
    removed: BTreeSet<u64>,
    /// Whether residency was requested, and not ended since.
    requested: bool,
    /// How often it was.
    requests: u64,
}

/// An allocation, which a set keeps until its removal is committed (an assumption: Apple does not say).
#[derive(Debug)]
enum Held {
    Heap { _heap: Heap },
    Buffer { _buffer: Buffer },
}

impl Drop for Inner {
    fn drop(&mut self) {
        let members = std::mem::take(&mut self.state.get_mut().members);
        self.metal.unwire(members.keys());
    }
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

    #[cfg(test)]
    pub(super) fn downgrade(&self) -> WeakSet {
        WeakSet(Arc::downgrade(&self.inner))
    }

    /// What the device has it do, for those who look.
    #[cfg(test)]
    pub(super) fn figures(&self) -> Figures {
        let state = self.inner.state.lock();
        Figures {
            members: state.members.len(),
            requested: state.requested,
            requests: state.requests,
        }
    }

    /// Whether it has an allocation since a commit.
    pub(super) fn has_committed(&self, allocation: u64) -> bool {
        let state = self.inner.state.lock();
        state.members.contains_key(&allocation) && !state.added.contains_key(&allocation)
    }

    /// Whether it was told of an allocation and did not commit that.
    pub(super) fn has_staged(&self, allocation: u64) -> bool {
        self.inner.state.lock().added.contains_key(&allocation)
    }
}

/// A set that may have come to its end.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct WeakSet(crate::sync::Weak<Inner>);

#[cfg(test)]
impl WeakSet {
    pub(super) fn upgrade(&self) -> Option<Set> {
        let inner = self.0.upgrade()?;
        Some(Set { inner })
    }
}

/// What a set holds, and what was asked of it.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Figures {
    pub(super) members: usize,
    pub(super) requested: bool,
    pub(super) requests: u64,
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
        let held = match allocation {
            Allocation::Heap(heap) => Held::Heap {
                _heap: heap.clone(),
            },
            Allocation::Buffer(buffer) => Held::Buffer {
                _buffer: buffer.clone(),
            },
        };
        let mut state = self.inner.state.lock();
        state.added.insert(place(allocation), held);
    }

    fn remove(&self, allocation: Allocation<'_, Metal>) {
        self.inner.metal.enter("removeAllocation:");
        let (mut state, place) = (self.inner.state.lock(), place(allocation));
        let staged = state.added.remove(&place);
        if staged.is_none() {
            state.removed.insert(place);
        }
    }

    fn commit(&self) {
        self.inner.metal.enter("commit");
        let mut state = self.inner.state.lock();
        let removed = std::mem::take(&mut state.removed);
        let gone: Vec<_> = removed
            .iter()
            .filter_map(|place| state.members.remove(place))
            .collect();
        let added = std::mem::take(&mut state.added);
        self.inner.metal.wire(added.keys());
        self.inner.metal.unwire(&removed);
        state.members.extend(added);
        drop(state);
        // Their ends are calls.
        drop(gone);
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
