//! The models of `MTLCommandQueue`, `MTLCommandBuffer` and its encoders.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::event::Event;
use super::heap::Buffer;
use super::metal::Metal;
use super::residency::Set;
use crate::device::fake::queue::{Command, Core, Move, Side, Source};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::metal::raw::{self, BLIT_ALIGNMENT, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// A command queue. With its last handle it closes: what was committed is still done.
#[derive(Debug, Clone)]
pub(in crate::device) struct Queue {
    inner: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    core: Arc<Core>,
    metal: Metal,
    sets: Mutex<Vec<Set>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl Queue {
    pub(super) fn new(core: Arc<Core>, metal: Metal) -> Self {
        Self {
            inner: Arc::new(Open {
                core,
                metal,
                sets: Mutex::default(),
            }),
        }
    }
}

impl raw::Object for Queue {
    fn set_label(&self, _label: &str) {}
}

impl raw::CommandQueue for Queue {
    type Metal = Metal;

    fn command_buffer(&self) -> Result<Commands> {
        if self.inner.core.is_lost() {
            return Err(Error::new(ErrorKind::DeviceLost, "the queue was lost"));
        }
        Ok(Commands {
            inner: Arc::new(Recorded {
                queue: self.clone(),
                state: Mutex::default(),
            }),
        })
    }

    fn add_residency_set(&self, set: &Set) {
        self.inner.sets.lock().push(set.clone());
    }

    fn remove_residency_set(&self, set: &Set) {
        self.inner.sets.lock().retain(|other| !other.is(set));
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
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    /// Kept until the end.
    buffers: Vec<Buffer>,
    /// Ranges of managed storage that are read.
    reads: Vec<(Buffer, Range<usize>)>,
    handlers: Vec<Box<dyn FnOnce(Outcome) + Send>>,
    /// An encoder that has not ended.
    encoding: bool,
    committed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("commands", &self.commands.len())
            .finish_non_exhaustive()
    }
}

impl Commands {
    fn metal(&self) -> &Metal {
        &self.inner.queue.inner.metal
    }

    fn record(&self, rule: Rule, text: String) {
        drop(self.metal().record(Violation { rule, text }));
    }

    fn begin(&self) -> Result<Encoder> {
        let mut state = self.inner.state.lock();
        if state.encoding || state.committed {
            drop(state);
            return Err(self.metal().record(Violation {
                rule: Rule::OneEncoder,
                text: "an encoder is made while another has not ended, or after the commit".into(),
            }));
        }
        state.encoding = true;
        Ok(Encoder {
            commands: self.clone(),
        })
    }

    fn push(&self, command: Command) {
        self.inner.state.lock().commands.push(command);
    }
}

impl raw::Object for Commands {
    fn set_label(&self, _label: &str) {}
}

impl raw::CommandBuffer for Commands {
    type Metal = Metal;

    fn blit_encoder(&self) -> Result<Encoder> {
        self.begin()
    }

    fn compute_encoder(&self) -> Result<Compute> {
        Ok(Compute {
            encoder: self.begin()?,
            state: Mutex::default(),
        })
    }

    fn wait_for(&self, event: &Event, value: u64) {
        self.push(Command::Wait(event.timeline(), value));
    }

    fn signal(&self, event: &Event, value: u64) {
        let event = event.clone();
        self.push(Command::Raise(Box::new(move || event.raise(value))));
    }

    fn on_completed(&self, handler: Box<dyn FnOnce(Outcome) + Send>) {
        self.inner.state.lock().handlers.push(handler);
    }

    fn commit(&self) {
        let mut state = self.inner.state.lock();
        if state.encoding || std::mem::replace(&mut state.committed, true) {
            drop(state);
            self.record(
                Rule::OneEncoder,
                "a command buffer is committed twice, or before its encoder has ended".into(),
            );
            return;
        }
        let commands = std::mem::take(&mut state.commands);
        let handlers = std::mem::take(&mut state.handlers);
        let buffers = std::mem::take(&mut state.buffers);
        let reads = std::mem::take(&mut state.reads);
        drop(state);
        self.see_host_writes(&buffers, &reads);
        for buffer in &buffers {
            if let Some(text) = self.inner.queue.uncommitted(buffer) {
                self.record(Rule::ResidencyCommitted, text);
            }
        }
        let ended = move |mut outcome: Outcome| {
            // What the commands use is kept until now.
            drop(buffers);
            for handler in handlers {
                let told = outcome.as_ref().map(|()| ()).map_err(Clone::clone);
                handler(std::mem::replace(&mut outcome, told));
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
                self.record(rule, text);
            }
        }
    }
}

impl Queue {
    /// What is wrong with the residency of a buffer's memory: a set has it that was changed and not committed.
    fn uncommitted(&self, buffer: &Buffer) -> Option<String> {
        let sets = self.inner.sets.lock();
        let staged = sets.iter().any(|set| set.has_staged(buffer.allocation()));
        staged.then(|| "work on memory whose residency set was changed and not committed".into())
    }
}

/// What a command does with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Read,
    Write,
}

/// An encoder of blits.
#[derive(Debug)]
pub(in crate::device) struct Encoder {
    commands: Commands,
}

impl Encoder {
    /// A place, if it keeps the rules; blits want multiples of four besides.
    fn side(
        &self,
        (buffer, offset): (&Buffer, usize),
        bytes: usize,
        blit: bool,
        touch: Touch,
    ) -> Option<Side> {
        if buffer.remote_storage_buffer().is_some() && !(blit && touch == Touch::Read) {
            self.commands.record(
                Rule::RemoteView,
                "a remote view is written, or used by a kernel; it is a source of blits alone"
                    .into(),
            );
            return None;
        }
        if blit
            && [offset, bytes]
                .iter()
                .any(|number| !number.is_multiple_of(BLIT_ALIGNMENT))
        {
            self.commands.record(
                Rule::BlitAlignment,
                format!(
                    "a blit of {bytes} bytes at {offset}; macOS wants multiples of {BLIT_ALIGNMENT}"
                ),
            );
            return None;
        }
        let side = self.commands.metal().place(buffer, offset, bytes);
        match side {
            Ok(side) => {
                let mut state = self.commands.inner.state.lock();
                state.buffers.push(buffer.clone());
                if let Some(copy) = buffer.host_copy() {
                    let range = offset..offset + bytes;
                    match touch {
                        Touch::Read => state.reads.push((buffer.clone(), range)),
                        Touch::Write => {
                            let copy = Arc::clone(copy);
                            state.commands.push(Command::Touch(Box::new(move || {
                                copy.note_device_write(range);
                                Ok(())
                            })));
                        }
                    }
                }
                Some(side)
            }
            Err(violation) => {
                drop(self.commands.metal().record(violation));
                None
            }
        }
    }

    fn transfer(&self, source: Option<Source>, destination: Option<Side>, bytes: usize) {
        let (Some(source), Some(destination)) = (source, destination) else {
            return;
        };
        self.commands.push(Command::Move(Move {
            source,
            destination,
            bytes,
        }));
    }

    fn finish(&self) {
        self.commands.inner.state.lock().encoding = false;
    }
}

impl raw::BlitEncoder for Encoder {
    type Buffer = Buffer;

    fn copy(&self, from: (&Buffer, usize), to: (&Buffer, usize), bytes: usize) {
        let source = self.side(from, bytes, true, Touch::Read);
        let source = source.map(Source::Memory);
        let destination = self.side(to, bytes, true, Touch::Write);
        self.transfer(source, destination, bytes);
    }

    fn fill(&self, buffer: &Buffer, range: Range<usize>, value: u8) {
        let to = (buffer, range.start);
        let destination = self.side(to, range.len(), true, Touch::Write);
        self.transfer(Some(Source::Value(value)), destination, range.len());
    }

    fn synchronize(&self, buffer: &Buffer) {
        let Some(copy) = buffer.host_copy() else {
            self.commands.record(
                Rule::OnlyManaged,
                format!("{} storage is synchronised", buffer.storage_mode()),
            );
            return;
        };
        self.commands.push(copy.synchronize());
        let mut state = self.commands.inner.state.lock();
        state.buffers.push(buffer.clone());
    }

    fn end(&self) {
        self.finish();
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

impl raw::ComputeEncoder for Compute {
    type Metal = Metal;

    fn set_pipeline(&self, pipeline: &Pipeline) {
        self.state.lock().pipeline = Some(*pipeline);
    }

    fn set_buffer(&self, buffer: &Buffer, offset: usize, index: usize) {
        let commands = &self.encoder.commands;
        let alignment = commands.metal().bind_alignment();
        if !offset.is_multiple_of(alignment) {
            commands.record(
                Rule::BindAlignment,
                format!("a buffer is bound at {offset}; the GPU wants multiples of {alignment}"),
            );
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
            let touch = if index == 0 {
                Touch::Read
            } else {
                Touch::Write
            };
            let place = (buffer, offset + rest?);
            self.encoder.side(place, threads, false, touch)
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

    fn end(&self) {
        self.encoder.finish();
    }
}
