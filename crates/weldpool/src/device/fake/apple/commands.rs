//! The models of `MTLCommandQueue` and `MTLCommandBuffer`.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;

use super::compute::Compute;
use super::encoder::Encoder;
use super::event::Event;
use super::heap::Buffer;
use super::labels::Labelled;
use super::metal::Metal;
use super::order::{Number, Pass, QueueNumber, Read};
use super::pools::autorelease;
use super::residency::Set;
use super::sparse::{Seeing, Seen};
use crate::binding::Resource;
use crate::device::fake::queue::{Command, Core};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::metal::raw::{self, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering, Weak};

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
    number: QueueNumber,
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
        let number = metal.order().next_queue();
        Self {
            inner: Arc::new(Open {
                core,
                label: metal.alive("command queue"),
                number,
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
    pub(super) fn metal(&self) -> &Metal {
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
        let encoder = Encoder::new(self);
        autorelease(encoder.clone());
        Ok(encoder)
    }

    /// Takes note of what a pass reads of managed storage.
    pub(super) fn note_read(&self, buffer: &Buffer, range: Range<usize>) {
        self.inner.state.lock().reads.push((buffer.clone(), range));
    }

    /// Keeps a buffer until the end.
    pub(super) fn keep(&self, buffer: &Buffer) {
        self.inner.state.lock().buffers.push(buffer.clone());
    }

    /// An encoder has ended.
    pub(super) fn end_pass(&self, pass: Pass, commands: Vec<Command>) {
        let mut state = self.inner.state.lock();
        state.encoding = false;
        state.steps.push(Step::Pass(pass, commands));
    }

    /// The device's memory as work of the queue finds it.
    pub(super) fn seeing(&self) -> Seeing {
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
        let queue = &self.inner.queue.inner;
        let (mut commands, mut passes, mut read) = (Vec::new(), Vec::new(), Read::default());
        for step in steps {
            match step {
                Step::Pass(pass, moves) => {
                    let (number, violation) = metal.order().commit(queue.number, pass, &mut read);
                    if let Some(Violation { rule, text }) = violation {
                        metal.break_rule(rule, text);
                    }
                    let (seen, mapped) = (Arc::clone(&queue.seen), read.mapped());
                    let (begun, through) = (metal.clone(), metal.clone());
                    commands.push(Command::Do(Box::new(move || {
                        seen.begin_pass(mapped);
                        begun.order().begin(number);
                    })));
                    commands.extend(moves);
                    let through = move || through.order().through(number);
                    commands.push(Command::Do(Box::new(through)));
                    passes.push(number);
                }
                Step::Wait(event, value) => {
                    metal.order().wait(event.object(), value, &mut read);
                    commands.push(Command::Wait(event.timeline(), value));
                }
                Step::Signal(event, value) => {
                    let signal = metal.order().signal(event.object(), value, &read);
                    let raise = move || event.raise(signal);
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
        Ok(Compute::new(self.begin("computeCommandEncoder")?))
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
        let mut state = self.inner.state.lock();
        if state.committed {
            drop(state);
            let text = "a handler is added after the commit, and never called".into();
            self.metal().break_rule(Rule::HandlerAfterCommit, text);
            return;
        }
        state.handlers.push(handler);
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
            let mut order = this.metal().order();
            // Who succeeds has his end told, which the device's code does not order memory by: events do that.
            passes.into_iter().for_each(|pass| order.through(pass));
            if outcome.is_err() {
                order.lose(this.inner.queue.inner.number);
            }
            drop(order);
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
