//! Queues: a command queue, a command buffer for each submission, and a shared event.

#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::blit::{By, copy_parts, fill_parts};
use super::raw::{BlitEncoder, Buffer, CommandBuffer, CommandQueue, Metal, Object, SharedEvent};
use super::timeline::EventTimeline;
use super::{Shared, peers};
use crate::device::{DeviceQueue, Location, StorageMode, Timeline};
use crate::error::{ErrorKind, Result};
use crate::sync::{Arc, Mutex};
use crate::transfer::Rows;

/// Command buffers that a command queue takes before it blocks.
const COMMAND_BUFFERS_MAX: usize = 512;
/// Command buffers in flight from which on whoever waits for room waits.
const ROOM: usize = COMMAND_BUFFERS_MAX / 2;

/// A queue of a device.
#[derive(Debug)]
pub(super) struct MetalQueue<M: Metal> {
    shared: Arc<Shared<M>>,
    queue: M::Queue,
    points: Arc<EventTimeline<M>>,
    timeline: Arc<dyn Timeline>,
    /// Raised before and after each function of ours.
    gate: M::Event,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signalled: u64,
    /// Value of the gate behind the last function.
    gate: u64,
    /// Residency sets that the command queue has.
    sets: usize,
}

impl<M: Metal> MetalQueue<M> {
    pub(super) fn new(shared: &Arc<Shared<M>>) -> Result<Self> {
        let metal = &shared.metal;
        let queue = metal.new_command_queue(COMMAND_BUFFERS_MAX)?;
        queue.set_label("weldpool");
        let (event, gate) = (metal.new_shared_event()?, metal.new_shared_event()?);
        event.set_label("weldpool points");
        gate.set_label("weldpool functions");
        let points = Arc::new(EventTimeline::new(event));
        Ok(Self {
            shared: Arc::clone(shared),
            queue,
            timeline: Arc::clone(&points) as Arc<dyn Timeline>,
            points,
            gate,
            state: Mutex::default(),
        })
    }

    /// Encodes one command buffer and commits it; nothing is committed if that fails.
    fn submit(
        &self,
        label: &str,
        state: &mut State,
        encode: impl FnOnce(&M::Commands) -> Result<()>,
    ) -> Result<()> {
        M::pooled(|| {
            let resident = &self.shared.resident;
            resident.before_submission(&self.queue, &mut state.sets)?;
            self.points.enter()?;
            let encoded = self.queue.command_buffer().and_then(|commands| {
                commands.set_label(label);
                encode(&commands).map(|()| commands)
            });
            match encoded {
                Ok(commands) => {
                    let points = Arc::clone(&self.points);
                    // What the commands use is kept by the command buffer until then.
                    commands.on_completed(Box::new(move |outcome| points.leave(outcome)));
                    commands.commit();
                    Ok(())
                }
                Err(error) => {
                    self.points.leave(Ok(()));
                    Err(error)
                }
            }
        })
    }

    /// Encodes that the host's copy of managed memory becomes what the device's is, once all work before has ended: what was
    /// written may lie in the device's caches until then (documentation of `synchronizeResource:`).
    fn synchronize(&self, commands: &M::Commands, written: &M::Buffer) -> Result<()> {
        if self.shared.two_copies && written.storage_mode() == StorageMode::Managed {
            let blit = commands.blit_encoder()?;
            blit.synchronize(written);
            blit.end();
        }
        Ok(())
    }

    fn encode_copy(
        &self,
        commands: &M::Commands,
        (from, from_at): (&M::Buffer, usize),
        (to, to_at): (&M::Buffer, usize),
        bytes: usize,
    ) -> Result<()> {
        for (by, range) in copy_parts(from_at, to_at, bytes) {
            let (from, to) = ((from, from_at + range.start), (to, to_at + range.start));
            match by {
                By::Blit => {
                    let blit = commands.blit_encoder()?;
                    blit.copy(from, to, range.len());
                    blit.end();
                }
                By::Kernel => {
                    let kernels = &self.shared.kernels;
                    kernels.copy(&self.shared.metal, commands, from, to, range.len())?;
                }
            }
        }
        Ok(())
    }
}

// SAFETY: a command queue runs its command buffers in the order of their commits, on one thread's locks here; an event is
// raised by a command buffer when all before it has ended, and its writes to shared storage are visible to the host then
// (documentation of MTLSharedEvent). Each submission waits for the one before by Metal's order of a queue's blits.
unsafe impl<M: Metal> DeviceQueue for MetalQueue<M> {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.copy_rows(source, destination, Rows::single(bytes)) }
    }

    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        let span = |pitch: usize| pitch.saturating_mul(rows.count.saturating_sub(1)) + rows.bytes;
        let Shared {
            known,
            metal,
            kernels,
            number,
            ..
        } = self.shared.as_ref();
        let (to, to_at) = known.find(metal, &destination, span(rows.destination_pitch))?;
        let read = span(rows.source_pitch);
        let (from, from_at, is_view) = match known.find(metal, &source, read) {
            Ok((buffer, at)) => (buffer, at, false),
            Err(error) => {
                let view = M::pooled(|| peers::view(metal, *number, &source, read))?;
                let (view, at) = view.ok_or(error)?;
                (view, at, true)
            }
        };
        let mut passage = None;
        self.submit("weldpool copy", &mut self.state.lock(), |commands| {
            for row in 0..rows.count {
                let from = (&from, from_at + row * rows.source_pitch);
                let to = (&to, to_at + row * rows.destination_pitch);
                if is_view {
                    let ours = (metal, kernels);
                    peers::encode_copy(ours, commands, from, to, rows.bytes, &mut passage)?;
                } else {
                    self.encode_copy(commands, from, to, rows.bytes)?;
                }
            }
            self.synchronize(commands, &to)
        })
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        let Shared { known, metal, .. } = self.shared.as_ref();
        let (to, at) = known.find(metal, &destination, bytes)?;
        self.submit("weldpool fill", &mut self.state.lock(), |commands| {
            for (by, range) in fill_parts(at, bytes) {
                let range = at + range.start..at + range.end;
                match by {
                    By::Blit => {
                        let blit = commands.blit_encoder()?;
                        blit.fill(&to, range, value);
                        blit.end();
                    }
                    By::Kernel => {
                        let (kernels, metal) = (&self.shared.kernels, &self.shared.metal);
                        kernels.fill(metal, commands, (&to, range.start), range.len(), value)?;
                    }
                }
            }
            self.synchronize(commands, &to)
        })
    }

    fn note_device_write(&self, start: &Location, bytes: usize) -> Result<()> {
        if !self.shared.two_copies {
            return Ok(());
        }
        let Shared { known, metal, .. } = self.shared.as_ref();
        let (written, _) = known.find(metal, start, bytes)?;
        self.submit("weldpool synchronize", &mut self.state.lock(), |commands| {
            self.synchronize(commands, &written)
        })
    }

    /// The GPU raises the gate, a listener's thread calls the function and raises it further, for which the GPU waits.
    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        let mut state = self.state.lock();
        let (before, after) = (state.gate + 1, state.gate + 2);
        let gate = &self.gate;
        self.submit("weldpool function", &mut state, |commands| {
            commands.signal(gate, before);
            commands.wait_for(gate, after);
            Ok(())
        })?;
        state.gate = after;
        let raise = gate.clone();
        gate.notify(
            before,
            Box::new(move || {
                if catch_unwind(AssertUnwindSafe(function)).is_err() {
                    tracing::error!("a host function on a queue panicked");
                }
                raise.set_signaled_value(after);
            }),
        );
        Ok(())
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        let other: &dyn Any = timeline.as_ref();
        if let Some(points) = other.downcast_ref::<EventTimeline<M>>() {
            return self.submit("weldpool wait", &mut self.state.lock(), |commands| {
                commands.wait_for(points.event(), value);
                Ok(())
            });
        }
        // Of another kind of device: waited for here.
        match timeline.wait(value, None) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => Err(error),
            _ => Ok(()),
        }
    }

    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        let other: &dyn Any = timeline.as_ref();
        other.downcast_ref::<EventTimeline<M>>().is_some()
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        Ok(self.points.wait_for_room(ROOM, timeout))
    }

    fn signal(&self) -> Result<u64> {
        let mut state = self.state.lock();
        let value = state.signalled + 1;
        self.submit("weldpool point", &mut state, |commands| {
            commands.signal(self.points.event(), value);
            Ok(())
        })?;
        state.signalled = value;
        Ok(value)
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }
}
