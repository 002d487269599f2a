//! Mapping updates in order, and what must outlive them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::Shared;
use super::mapped::Mapped;
use super::raw::{Allocation, MappingQueue, Metal};
use super::residency::Member;
use crate::error::Result;
use crate::sync::{Arc, Mutex};

/// How long whoever returns memory waits until it is unmapped. An update takes microseconds; a GPU that hangs must not
/// hold up the host.
const SETTLE: Duration = Duration::from_millis(100);

/// Physical memory: a heap, resident until its end, which is in an autorelease pool.
#[derive(Debug)]
pub(super) struct Handle<M: Metal> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) heap: M::Heap,
    pub(super) bytes: usize,
    pub(super) member: Member,
}

impl<M: Metal> Drop for Handle<M> {
    fn drop(&mut self) {
        let heap = Allocation::Heap(&self.heap);
        self.shared.resident.remove(self.member, heap);
        // A set keeps what it holds until then.
        self.shared.resident.commit();
    }
}

/// What an update that is not done yet may name.
#[derive(Debug)]
pub(super) enum Kept<M: Metal> {
    Handle(#[expect(dead_code, reason = "kept alive")] Arc<Handle<M>>),
    Buffer(M::Buffer),
}

/// The queue of a device's mapping updates. It keeps nothing alive that it is given, so that is done here.
#[derive(Debug)]
pub(super) struct Updates<M: Metal> {
    queue: M::Mappings,
    /// What may go once the event has reached a value, in the order of the values. Held for an update and its signal.
    kept: Mutex<VecDeque<(u64, Kept<M>)>>,
}

impl<M: Metal> Updates<M> {
    pub(super) fn new(queue: M::Mappings) -> Self {
        Self {
            queue,
            kept: Mutex::default(),
        }
    }

    /// Gives an update to the queue and has the event signalled behind it; later submissions wait for that. Nothing is
    /// signalled if the update is refused.
    pub(super) fn issue(
        &self,
        mapped: &Mapped<M>,
        update: impl FnOnce(&M::Mappings) -> Result<()>,
    ) -> Result<()> {
        let kept = self.kept.lock();
        update(&self.queue)?;
        let value = mapped.issued() + 1;
        self.queue.signal(mapped.event(), value);
        mapped.note(value);
        drop(kept);
        self.let_go(mapped);
        Ok(())
    }

    /// Keeps something until all updates so far are done.
    pub(super) fn keep(&self, mapped: &Mapped<M>, what: impl IntoIterator<Item = Kept<M>>) {
        let mut kept = self.kept.lock();
        let value = mapped.issued();
        kept.extend(what.into_iter().map(|what| (value, what)));
        drop(kept);
        self.let_go(mapped);
    }

    /// Lets go of what no update names any more.
    pub(super) fn let_go(&self, mapped: &Mapped<M>) {
        let mut kept = self.kept.lock();
        if kept.is_empty() {
            return;
        }
        let reached = mapped.reached();
        let done = kept.partition_point(|(value, _)| *value <= reached);
        let gone: Vec<_> = kept.drain(..done).collect();
        drop(kept);
        // Their ends are calls, made with the lock free.
        drop(gone);
    }

    /// Waits until all updates so far are done, for a while, so that memory goes back at once.
    pub(super) fn settle(&self, mapped: &Mapped<M>) {
        if !mapped.wait(mapped.issued(), SETTLE) {
            tracing::warn!("mapping updates are late; memory goes back when they are done");
        }
        self.let_go(mapped);
    }

    /// Lets go of everything at the end of the device. What a queue that hangs still names stays for ever.
    pub(super) fn end(&self, mapped: &Mapped<M>) {
        self.settle(mapped);
        let stuck = std::mem::take(&mut *self.kept.lock());
        if !stuck.is_empty() {
            tracing::error!(
                count = stuck.len(),
                "mapping updates were never done; what they name stays"
            );
            std::mem::forget(stuck);
        }
    }
}
