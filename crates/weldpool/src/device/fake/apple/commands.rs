//! The models of `MTLCommandQueue`, `MTLCommandBuffer` and its encoders.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;

use super::event::Event;
use super::fence::Fence;
use super::heap::Buffer;
use super::labels::Labelled;
use super::metal::Metal;
use super::order::{Number, Pass, Read, Touch};
use super::pools::autorelease;
use super::residency::Set;
use super::sparse::{Seeing, Seen};
use crate::binding::Resource;
use crate::device::fake::queue::{Command, Core, Move, Side, Source};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::metal::raw::{self, BLIT_ALIGNMENT, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, Weak};

/// Residency sets that a command queue takes (Metal's feature set tables).
const SETS_MAX: usize = 32;

/// A command queue. With its last handle it closes: what was committed is still done.
#[derive(Debug, Clone)]
pub(in crate::device) struct Queue {
    inner: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    core: Arc<Core>,
    metal: Metal,
    seen: Arc<Seen>,
    /// Command buffers that it may have, and has.
    most: usize,
    alive: AtomicUsize,
    label: Labelled,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metal.forget_queue(std::ptr::from_ref(self).addr());
        self.core.close();
    }
}

/// A command queue that may have come to its end.
#[derive(Debug)]
pub(super) struct WeakQueue(Weak<Open>);

impl WeakQueue {
    pub(super) fn upgrade(&self) -> Option<Queue> {
        let inner = self.0.upgrade()?;
        Some(Queue { inner })
    }
}

impl Queue {
    pub(super) fn new(core: Arc<Core>, metal: Metal, seen: Arc<Seen>, most: usize) -> Self {
        Self {
            inner: Arc::new(Open {
                core,
                label: metal.alive("command queue"),
                metal,
                seen,
                most,
                alive: AtomicUsize::new(0),
            }),
        }
    }
}

impl Queue {
    pub(super) fn downgrade(&self) -> WeakQueue {
        WeakQueue(Arc::downgrade(&self.inner))
    }
}

impl raw::Object for Queue {
    fn set_label(&self, label: &str) {
        self.inner.label.set(label);
    }
}

impl raw::CommandQueue for Queue {
    type Metal = Metal;

    fn command_buffer(&self) -> Result<Commands> {
        self.inner.metal.enter("commandBuffer");
        if self.inner.core.is_lost() {
            return Err(Error::new(ErrorKind::DeviceLost, "the queue was lost"));
        }
        if self.inner.alive.fetch_add(1, Ordering::Relaxed) >= self.inner.most {
            let text = format!("more than {} command buffers of a queue", self.inner.most);
            self.inner.metal.break_rule(Rule::CommandBuffers, text);
        }
        let commands = Commands {
            inner: Arc::new(Recorded {
                label: self.inner.metal.alive("command buffer"),
                queue: self.clone(),
                state: Mutex::default(),
            }),
        };
        autorelease(commands.clone());
        Ok(commands)
    }

    fn add_residency_set(&self, set: &Set) {
        self.inner.metal.enter("addResidencySet:");
        let mut sets = self.inner.seen.sets().lock();
        sets.push(set.clone());
        if sets.len() > SETS_MAX {
            drop(sets);
            self.inner.metal.break_rule(
                Rule::ResidencySets,
                format!("more than {SETS_MAX} residency sets of a command queue"),
            );
        }
    }

    fn resource(&self) -> Resource {
        Resource::new(NonNull::from(self.inner.as_ref()).cast())
    }
}

/// A command buffer.
#[derive(Debug, Clone)]
pub(in crate::device) struct Commands {
    inner: Arc<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    queue: Queue,
    state: Mutex<State>,
    label: Labelled,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.queue.inner.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct State {
    steps: Vec<Step>,
    /// Kept until the end.
    buffers: Vec<Buffer>,
    /// Ranges of managed storage that are read.
    reads: Vec<(Buffer, Range<usize>)>,
    handlers: Vec<Box<dyn FnOnce(Outcome) + Send>>,
    /// An encoder that has not ended.
    encoding: bool,
    committed: bool,
}

/// What a command buffer does, one after the other.
enum Step {
    Pass(Pass, Vec<Command>),
    Wait(Event, u64),
    Signal(Event, u64),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("steps", &self.steps.len())
            .finish_non_exhaustive()
    }
}

impl Commands {
    fn metal(&self) -> &Metal {
        &self.inner.queue.inner.metal
    }

    fn begin(&self, what: &str) -> Result<Encoder> {
        self.metal().enter(what);
        let mut state = self.inner.state.lock();
        if state.encoding || state.committed {
            drop(state);
            return Err(self.metal().record(Violation {
                rule: Rule::OneEncoder,
                text: "an encoder is made while another has not ended, or after the commit".into(),
            }));
        }
        state.encoding = true;
        drop(state);
        let encoder = Encoder {
            inner: Arc::new(Encoding {
                commands: self.clone(),
                pass: Mutex::default(),
                ended: AtomicBool::new(false),
            }),
        };
        autorelease(encoder.clone());
        Ok(encoder)
    }

    /// The device's memory as work of the queue finds it.
    fn seeing(&self) -> Seeing {
        Seeing {
            metal: self.metal().clone(),
            seen: Arc::clone(&self.inner.queue.inner.seen),
        }
    }

    /// What comes between encoders.
    fn between(&self, what: &str, step: Step) {
        self.metal().enter(what);
        let mut state = self.inner.state.lock();
        if state.encoding || state.committed {
            drop(state);
            let text = format!("{what} while an encoder has not ended, or after the commit");
            self.metal().break_rule(Rule::OneEncoder, text);
            return;
        }
        state.steps.push(step);
    }

    /// Takes note of the order of passes, and makes what the queue does of the steps. Signals with nothing before them
    /// in the command buffer are given at once: nothing keeps them from overtaking what was committed before.
    fn resolve(&self, steps: Vec<Step>) -> (Vec<Command>, Vec<Number>) {
        let metal = self.metal();
        let (mut commands, mut passes, mut read) = (Vec::new(), Vec::new(), Read::default());
        for step in steps {
            match step {
                Step::Pass(pass, moves) => {
                    let (number, violation) = metal.order().commit(pass, &mut read);
                    if let Some(Violation { rule, text }) = violation {
                        metal.break_rule(rule, text);
                    }
                    let (seen, mapped) = (Arc::clone(&self.inner.queue.inner.seen), read.mapped());
                    commands.push(Command::Do(Box::new(move || seen.begin_pass(mapped))));
                    commands.extend(moves);
                    let ended = metal.clone();
                    commands.push(Command::Do(Box::new(move || ended.order().end(number))));
                    passes.push(number);
                }
                Step::Wait(event, value) => {
                    metal.order().wait(event.object(), value, &mut read);
                    commands.push(Command::Wait(event.timeline(), value));
                }
                Step::Signal(event, value) => {
                    metal.order().signal(event.object(), value, &read);
                    let raise = move || event.raise(value);
                    if commands.is_empty() {
                        raise();
                    } else {
                        commands.push(Command::Do(Box::new(raise)));
                    }
                }
            }
        }
        (commands, passes)
    }
}

impl raw::CommandBuffer for Commands {
    type Metal = Metal;

    fn set_label(&self, label: &str) {
        self.inner.label.set(label);
    }

    fn blit_encoder(&self) -> Result<Encoder> {
        self.begin("blitCommandEncoder")
    }

    fn compute_encoder(&self) -> Result<Compute> {
        Ok(Compute {
            encoder: self.begin("computeCommandEncoder")?,
            state: Mutex::default(),
        })
    }

    fn wait_for(&self, event: &Event, value: u64) {
        self.between(
            "encodeWaitForEvent:value:",
            Step::Wait(event.clone(), value),
        );
    }

    fn signal(&self, event: &Event, value: u64) {
        self.between(
            "encodeSignalEvent:value:",
            Step::Signal(event.clone(), value),
        );
    }

    fn on_completed(&self, handler: Box<dyn FnOnce(Outcome) + Send>) {
        self.metal().enter("addCompletedHandler:");
        self.inner.state.lock().handlers.push(handler);
    }

    fn commit(&self) {
        self.metal().enter("commit");
        let mut state = self.inner.state.lock();
        if state.encoding || std::mem::replace(&mut state.committed, true) {
            drop(state);
            self.metal().break_rule(
                Rule::OneEncoder,
                "a command buffer is committed twice, or before its encoder has ended".into(),
            );
            return;
        }
        let steps = std::mem::take(&mut state.steps);
        let handlers = std::mem::take(&mut state.handlers);
        let buffers = std::mem::take(&mut state.buffers);
        let reads = std::mem::take(&mut state.reads);
        drop(state);
        self.see_host_writes(&buffers, &reads);
        for buffer in &buffers {
            if let Some(text) = self.inner.queue.uncommitted(buffer) {
                self.metal().break_rule(Rule::ResidencyCommitted, text);
            }
        }
        let (commands, passes) = self.resolve(steps);
        let this = self.clone();
        let ended = move |outcome: Outcome| {
            passes
                .into_iter()
                .for_each(|pass| this.metal().order().end(pass));
            // What the commands use is kept until now.
            drop(buffers);
            for handler in handlers {
                handler(outcome.clone());
            }
        };
        self.inner
            .queue
            .inner
            .core
            .commit(commands, Box::new(ended));
    }
}

impl Commands {
    /// What the host announced is there for the commands; what it did not is a broken rule where they read it.
    fn see_host_writes(&self, buffers: &[Buffer], reads: &[(Buffer, Range<usize>)]) {
        for copy in buffers.iter().filter_map(Buffer::host_copy) {
            if let Err(error) = copy.commit() {
                tracing::error!(%error, "no memory for the device's copy of managed storage");
            }
        }
        for (buffer, range) in reads {
            let checked = buffer.host_copy().map(|copy| copy.check_read(range));
            if let Some(Err(Violation { rule, text })) = checked {
                self.metal().break_rule(rule, text);
            }
        }
    }
}

impl Queue {
    /// What is wrong with the residency of a buffer's memory: a set has it that was changed and not committed.
    fn uncommitted(&self, buffer: &Buffer) -> Option<String> {
        let sets = self.inner.seen.sets().lock();
        let staged = sets.iter().any(|set| set.has_staged(buffer.allocation()));
        staged.then(|| {
            format!(
                "work on a buffer of {} bytes at {:#x}, whose residency set was changed and not committed: memory of announced \
                 work is allocated before it is announced",
                buffer.length(),
                buffer.gpu_address()
            )
        })
    }
}

/// What a command does with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// An encoder of a pass.
#[derive(Debug, Clone)]
pub(in crate::device) struct Encoder {
    inner: Arc<Encoding>,
}

#[derive(Debug)]
struct Encoding {
    commands: Commands,
    pass: Mutex<(Pass, Vec<Command>)>,
    ended: AtomicBool,
}

impl Encoder {
    fn metal(&self) -> &Metal {
        self.inner.commands.metal()
    }

    /// A place, if it keeps the rules; blits want multiples of four besides.
    fn side(
        &self,
        (buffer, offset): (&Buffer, usize),
        bytes: usize,
        blit: bool,
        access: Access,
    ) -> Option<Side> {
        if buffer.remote_storage_buffer().is_some() && !(blit && access == Access::Read) {
            let text =
                "a remote view is written, or used by a kernel; it is a source of blits alone";
            self.metal().break_rule(Rule::RemoteView, text.into());
            return None;
        }
        let uneven = |number: &usize| !number.is_multiple_of(BLIT_ALIGNMENT);
        if blit && [offset, bytes].iter().any(uneven) {
            let text = format!(
                "a blit of {bytes} bytes at {offset}; macOS wants multiples of {BLIT_ALIGNMENT}"
            );
            self.metal().break_rule(Rule::BlitAlignment, text);
            return None;
        }
        match self.metal().place(buffer, offset, bytes) {
            Ok(side) => {
                let mut state = self.inner.commands.inner.state.lock();
                state.buffers.push(buffer.clone());
                if let Some(copy) = buffer.host_copy() {
                    let range = offset..offset + bytes;
                    match access {
                        Access::Read => state.reads.push((buffer.clone(), range)),
                        Access::Write => {
                            let write = copy.note_device_write(range);
                            self.inner.pass.lock().1.push(write);
                        }
                    }
                }
                Some(side)
            }
            Err(Violation { rule, text }) => {
                self.metal().break_rule(rule, text);
                None
            }
        }
    }

    /// A place that is written to, likewise.
    fn written(&self, place: (&Buffer, usize), bytes: usize, blit: bool) -> Option<Side> {
        if place.0.is_read_only() {
            let text = format!("{bytes} bytes are written to memory that is mapped for reading");
            self.metal().break_rule(Rule::Writable, text);
            return None;
        }
        self.side(place, bytes, blit, Access::Write)
    }

    fn transfer(&self, source: Option<Source>, destination: Option<Side>, bytes: usize) {
        let (Some(source), Some(destination)) = (source, destination) else {
            return;
        };
        let touch = |side: &Side, writes: bool| match side {
            Side::Device(address) => Some(Touch {
                bytes: *address..*address + bytes as u64,
                writes,
            }),
            Side::Host(_) => None,
        };
        let read = match &source {
            Source::Memory(side) => touch(side, false),
            Source::Value(_) => None,
        };
        let mut encoded = self.inner.pass.lock();
        encoded.0.touches.extend(read);
        encoded.0.touches.extend(touch(&destination, true));
        encoded.1.push(Command::Move(Move {
            source,
            destination,
            bytes,
        }));
    }

    /// Encodes work of somebody else's on this memory, with whether it writes it.
    pub(super) fn run(
        &self,
        touches: &[(&Buffer, Range<usize>, bool)],
        work: Box<dyn FnOnce() + Send>,
    ) {
        for (buffer, range, writes) in touches {
            let access = if *writes { Access::Write } else { Access::Read };
            let place = (*buffer, range.start);
            let side = self.side(place, range.len(), false, access);
            let Some(Side::Device(address)) = side else {
                return;
            };
            let seeing = self.inner.commands.seeing();
            let (bytes, end) = (range.len(), address + range.len() as u64);
            let mut encoded = self.inner.pass.lock();
            encoded.0.touches.push(Touch {
                bytes: address..end,
                writes: *writes,
            });
            let check = move || seeing.check_sparse(address, bytes);
            encoded.1.push(Command::Do(Box::new(check)));
        }
        self.inner.pass.lock().1.push(Command::Do(work));
    }
}

impl raw::Encoder for Encoder {
    type Metal = Metal;

    fn wait_for_fence(&self, fence: &Fence) {
        self.metal().enter("waitForFence:");
        let mut encoded = self.inner.pass.lock();
        if encoded.0.updates.contains(&fence.object()) {
            drop(encoded);
            let text = "an encoder waits for a fence that it has updated".into();
            self.metal().break_rule(Rule::FenceReuse, text);
            return;
        }
        encoded.0.waits.push(fence.object());
    }

    fn update_fence(&self, fence: &Fence) {
        self.metal().enter("updateFence:");
        self.inner.pass.lock().0.updates.push(fence.object());
    }

    fn end(&self) {
        self.metal().enter("endEncoding");
        if self.inner.ended.swap(true, Ordering::Relaxed) {
            let text = "an encoder is ended twice".into();
            self.metal().break_rule(Rule::OneEncoder, text);
            return;
        }
        let (pass, moves) = std::mem::take(&mut *self.inner.pass.lock());
        let mut state = self.inner.commands.inner.state.lock();
        state.encoding = false;
        state.steps.push(Step::Pass(pass, moves));
    }
}

impl raw::BlitEncoder for Encoder {
    fn copy(&self, from: (&Buffer, usize), to: (&Buffer, usize), bytes: usize) {
        self.metal().enter("copyFromBuffer:");
        let source = self.side(from, bytes, true, Access::Read);
        let source = source.map(Source::Memory);
        let destination = self.written(to, bytes, true);
        self.transfer(source, destination, bytes);
    }

    fn fill(&self, buffer: &Buffer, range: Range<usize>, value: u8) {
        self.metal().enter("fillBuffer:");
        let destination = self.written((buffer, range.start), range.len(), true);
        self.transfer(Some(Source::Value(value)), destination, range.len());
    }

    fn synchronize(&self, buffer: &Buffer) {
        self.metal().enter("synchronizeResource:");
        let Some(copy) = buffer.host_copy() else {
            let text = format!("{} storage is synchronised", buffer.storage_mode());
            self.metal().break_rule(Rule::OnlyManaged, text);
            return;
        };
        let address = buffer.gpu_address();
        let mut encoded = self.inner.pass.lock();
        encoded.0.touches.push(Touch {
            bytes: address..address + buffer.length() as u64,
            writes: false,
        });
        encoded.1.push(copy.synchronize());
        drop(encoded);
        let mut state = self.inner.commands.inner.state.lock();
        state.buffers.push(buffer.clone());
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        // Metal asserts that (message of its validation: "Command encoder released without endEncoding").
        if !*self.ended.get_mut() {
            let text = "an encoder is released that was not ended".into();
            self.commands.metal().break_rule(Rule::OneEncoder, text);
        }
    }
}

/// An encoder of the kernels that the device's code has.
#[derive(Debug)]
pub(in crate::device) struct Compute {
    encoder: Encoder,
    state: Mutex<Bound>,
}

#[derive(Debug, Default)]
struct Bound {
    pipeline: Option<Pipeline>,
    buffers: [Option<(Buffer, usize)>; 2],
    bytes: Vec<u8>,
}

/// A kernel, known by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) enum Pipeline {
    Copy,
    Fill,
}

impl raw::Encoder for Compute {
    type Metal = Metal;

    fn wait_for_fence(&self, fence: &Fence) {
        self.encoder.wait_for_fence(fence);
    }

    fn update_fence(&self, fence: &Fence) {
        self.encoder.update_fence(fence);
    }

    fn end(&self) {
        self.encoder.end();
    }
}

impl raw::ComputeEncoder for Compute {
    fn set_pipeline(&self, pipeline: &Pipeline) {
        self.state.lock().pipeline = Some(*pipeline);
    }

    fn set_buffer(&self, buffer: &Buffer, offset: usize, index: usize) {
        let metal = self.encoder.metal();
        let alignment = metal.bind_alignment();
        if !offset.is_multiple_of(alignment) {
            let text =
                format!("a buffer is bound at {offset}; the GPU wants multiples of {alignment}");
            metal.break_rule(Rule::BindAlignment, text);
            return;
        }
        if let Some(place) = self.state.lock().buffers.get_mut(index) {
            *place = Some((buffer.clone(), offset));
        }
    }

    fn set_bytes(&self, bytes: &[u8], _index: usize) {
        self.state.lock().bytes = bytes.to_vec();
    }

    fn dispatch(&self, threads: usize) {
        let state = self.state.lock();
        let number = |at: usize| {
            let bytes = state.bytes.get(at..at + 8)?.try_into().ok()?;
            usize::try_from(u64::from_ne_bytes(bytes)).ok()
        };
        let place = |index: usize, rest: Option<usize>| {
            let (buffer, offset) = state.buffers[index].as_ref()?;
            let place = (buffer, offset + rest?);
            match index {
                0 => self.encoder.side(place, threads, false, Access::Read),
                _ => self.encoder.written(place, threads, false),
            }
        };
        let (source, destination) = match state.pipeline {
            Some(Pipeline::Copy) => (place(0, number(0)).map(Source::Memory), place(1, number(8))),
            Some(Pipeline::Fill) => (
                state.bytes.get(8).map(|&value| Source::Value(value)),
                place(1, number(0)),
            ),
            None => (None, None),
        };
        self.encoder.transfer(source, destination, threads);
    }
}
