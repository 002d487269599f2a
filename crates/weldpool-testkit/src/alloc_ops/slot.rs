//! A live buffer, and what should be true of it.

use std::ops::Range;
use std::time::Duration;

use weldpool::{Binding, Buffer, BufferView, Export, Fence, Queue, ReadGuard, Result, StorageMode};

use super::model::Model;
use super::places::Start;

/// A buffer or the views of it.
#[derive(Debug)]
pub(super) enum Memory {
    Own(Buffer),
    /// The whole, and a part.
    Shared(BufferView, Option<(BufferView, Range<usize>)>),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) memory: Memory,
    pub(super) start: Option<Start>,
    pub(super) len: usize,
    pub(super) block_bytes: usize,
    pub(super) storage: StorageMode,
    pub(super) model: Model,
    /// The form in which it can be exported, if it can.
    pub(super) export: Option<Export>,
    /// Numbers of the queues whose work may use it.
    pub(super) queues: Vec<u64>,
    /// The queue that foreign work used it on.
    pub(super) foreign: Option<u64>,
}

impl Slot {
    pub(super) fn binding(&self) -> Binding<'_> {
        match &self.memory {
            Memory::Own(buffer) => buffer.binding(),
            Memory::Shared(view, _) => view.binding(),
        }
    }

    pub(super) fn used_by(&mut self, queue: u64) {
        if !self.queues.contains(&queue) {
            self.queues.push(queue);
        }
    }

    /// Whether foreign work on this queue may use it.
    pub(super) fn is_free_for(&self, queue: u64) -> bool {
        matches!(self.memory, Memory::Own(_)) && self.queues.iter().all(|&one| one == queue)
    }

    /// Whether work that the allocator submits to this queue may use it.
    pub(super) fn may_use(&self, queue: u64) -> bool {
        self.foreign.is_none_or(|foreign| foreign == queue)
    }

    pub(super) fn wait(&self, timeout: Duration) -> Result<()> {
        match &self.memory {
            Memory::Own(buffer) => buffer.wait(Some(timeout)),
            Memory::Shared(view, _) => view.wait(Some(timeout)),
        }
    }

    pub(super) fn read(&self) -> Result<ReadGuard<'_, u8>> {
        match &self.memory {
            Memory::Own(buffer) => buffer.read(),
            Memory::Shared(view, _) => view.read(),
        }
    }

    pub(super) fn write(&mut self, seed: u8) -> Result<()> {
        match &mut self.memory {
            Memory::Own(buffer) => self.model.write(&mut buffer.write()?, seed),
            Memory::Shared(view, _) => self.model.write(&mut view.write()?, seed),
        }
        Ok(())
    }

    /// Fills the whole, or the part if there is one and it is meant.
    pub(super) fn fill(&mut self, queue: &Queue, value: u8, part: bool) -> Result<Fence> {
        let (filled, range) = match &mut self.memory {
            Memory::Own(buffer) => (queue.fill(buffer, value), 0..self.len),
            Memory::Shared(_, Some((view, range))) if part => {
                (queue.fill(view, value), range.clone())
            }
            Memory::Shared(view, _) => (queue.fill(view, value), 0..self.len),
        };
        match &filled {
            Ok(_) => self.model.fill(range, value),
            Err(_) => self.model.forget(),
        }
        filled
    }

    /// Copies this one to the start of another, which is as long.
    pub(super) fn copy_to(&self, queue: &Queue, to: &mut Self) -> Result<Fence> {
        let copied = match (&self.memory, &mut to.memory) {
            (Memory::Own(from), Memory::Own(to)) => queue.copy(from, to),
            (Memory::Own(from), Memory::Shared(to, _)) => queue.copy(from, to),
            (Memory::Shared(from, _), Memory::Own(to)) => queue.copy(from, to),
            (Memory::Shared(from, _), Memory::Shared(to, _)) => queue.copy(from, to),
        };
        match &copied {
            Ok(_) => to.model.copy(&self.model, 0..self.len, 0),
            Err(_) => to.model.forget(),
        }
        copied
    }

    /// Asserts that contents which were read are as they should be.
    pub(super) fn check(&self, contents: &[u8]) {
        if let Some(difference) = self.model.difference(contents) {
            panic!("{}: {difference}", self.storage);
        }
    }
}
