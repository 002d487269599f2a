//! Queues: a command queue, a command buffer for each submission, and a shared event.

#![allow(unsafe_code)]

mod external;
mod remote;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use self::external::Announced;
use super::blit::{By, Part, copy_parts, fill_parts};
use super::kernels::{encode_copy, encode_fill};
use super::raw::{
    BlitEncoder, Buffer, CommandBuffer, CommandQueue, Encoder, Metal, Object, SharedEvent,
};
use super::timeline::EventTimeline;
use super::{Shared, peers};
use crate::device::{DeviceQueue, ExternalOrder, Location, StorageMode, Timeline};
use crate::error::{ErrorKind, Result};
use crate::sync::{Arc, Mutex, Ordering};
use crate::transfer::Rows;

/// Command buffers that a command queue takes before it blocks.
const COMMAND_BUFFERS_MAX: usize = 512;
/// Command buffers in flight from which on whoever waits for room waits.
const ROOM: u64 = COMMAND_BUFFERS_MAX as u64 / 2;
/// Bytes that a pass fills which only keeps the order.
const MARK_BYTES: usize = 4;

/// A queue of a device.
#[derive(Debug)]
pub(super) struct MetalQueue<M: Metal> {
    shared: Arc<Shared<M>>,
    queue: M::Queue,
    points: Arc<EventTimeline<M>>,
    timeline: Arc<dyn Timeline>,
    /// What others signal behind what they submit themselves; locked with the state, behind it.
    announced: Mutex<Announced<M>>,
    /// What each pass waits for and updates: memory is not tracked, so nothing else orders them.
    fence: M::Fence,
    /// What passes write that only keep the order.
    mark: M::Buffer,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    signalled: u64,
    /// Value of the gate behind the last function.
    gate: u64,
    /// Announcements of others' work that were signalled.
    announced: u64,
    /// Residency sets that the command queue has.
    sets: usize,
    /// Mapping updates that the command queue has waited for.
    mapped: u64,
}

impl<M: Metal> MetalQueue<M> {
    pub(super) fn new(shared: &Arc<Shared<M>>) -> Result<Self> {
        let metal = &shared.metal;
        let queue = metal.new_command_queue(COMMAND_BUFFERS_MAX)?;
        queue.set_label("weldpool");
        let event = |label: &str| -> Result<M::Event> {
            let event = metal.new_shared_event()?;
            event.set_label(label);
            Ok(event)
        };
        let points = Arc::new(EventTimeline::<M>::new(
            event("weldpool points")?,
            event("weldpool functions")?,
            event("weldpool announcements")?,
        ));
        let fence = metal.new_fence()?;
        fence.set_label("weldpool order");
        let mark = || metal.new_buffer(MARK_BYTES, StorageMode::Private);
        let mark = shared.known.make(0..MARK_BYTES, mark)?;
        mark.set_label("weldpool mark");
        Ok(Self {
            shared: Arc::clone(shared),
            queue,
            timeline: Arc::clone(&points) as Arc<dyn Timeline>,
            points,
            announced: Mutex::default(),
            fence,
            mark,
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
        self.submit_for(label, state, None, encode)
    }

    /// The same, which signals a point or none.
    fn submit_for(
        &self,
        label: &str,
        state: &mut State,
        point: Option<u64>,
        encode: impl FnOnce(&M::Commands) -> Result<()>,
    ) -> Result<()> {
        M::pooled(|| {
            let resident = &self.shared.resident;
            resident.before_submission(&self.queue, &mut state.sets);
            let number = self.points.enter(point)?;
            let encoded = self.queue.command_buffer().and_then(|commands| {
                commands.set_label(label);
                let mapped = self.shared.mapped.as_ref();
                let seen = mapped.map_or(0, |mapped| mapped.precede(&commands, state.mapped));
                encode(&commands).map(|()| (commands, seen))
            });
            match encoded {
                Ok((commands, seen)) => {
                    state.mapped = seen;
                    let points = Arc::clone(&self.points);
                    // What the commands use is kept by the command buffer until then.
                    commands.on_completed(Box::new(move |outcome| {
                        M::pooled(|| points.leave(number, outcome));
                    }));
                    commands.commit();
                    Ok(())
                }
                Err(error) => {
                    self.points.withdraw(number, &error);
                    Err(error)
                }
            }
        })
    }

    /// Encodes a pass that begins when all passes of the queue before it have ended.
    fn pass<E: Encoder<Metal = M>>(&self, encoder: E, encode: impl FnOnce(&E)) {
        encoder.wait_for_fence(&self.fence);
        encode(&encoder);
        encoder.update_fence(&self.fence);
        encoder.end();
    }

    /// Encodes a pass that does nothing but that, so that an event behind it stands for all of the queue, and passes
    /// behind it wait for an event before it. It fills a few bytes, lest it be left out as empty.
    fn order(&self, commands: &M::Commands) -> Result<()> {
        self.pass(commands.blit_encoder()?, |blit| {
            blit.fill(&self.mark, 0..MARK_BYTES, 0);
        });
        Ok(())
    }

    /// Submits moves of bytes to a buffer: a pass of blits and one of kernels at most. What is moved does not overlap.
    fn submit_moves(
        &self,
        label: &str,
        to: &M::Buffer,
        parts: &[(By, Part)],
        blit: impl Fn(&M::Blit, &Part),
        kernel: impl Fn(&M::Compute, &Part),
    ) -> Result<()> {
        if parts.is_empty() {
            // Without a pass nothing would be ordered behind what the command buffer waits for.
            return Ok(());
        }
        let of = |by: By| parts.iter().filter(move |part| part.0 == by);
        self.submit(label, &mut self.state.lock(), |commands| {
            if of(By::Blit).next().is_some() {
                self.pass(commands.blit_encoder()?, |encoder| {
                    of(By::Blit).for_each(|(_, part)| blit(encoder, part));
                });
            }
            if of(By::Kernel).next().is_some() {
                self.pass(commands.compute_encoder()?, |encoder| {
                    of(By::Kernel).for_each(|(_, part)| kernel(encoder, part));
                });
            }
            self.synchronize(commands, to)
        })
    }

    /// Has what is submitted from now on wait for values of an event.
    fn submit_wait(
        &self,
        label: &str,
        state: &mut State,
        event: &M::Event,
        values: impl IntoIterator<Item = u64>,
    ) -> Result<()> {
        self.submit(label, state, |commands| {
            for value in values {
                commands.wait_for(event, value);
            }
            self.order(commands)
        })
    }
}

impl<M: Metal> Drop for MetalQueue<M> {
    fn drop(&mut self) {
        M::pooled(|| self.shared.known.remove(self.mark.resource()));
    }
}

// SAFETY: each pass waits for the one before it by the fence, so the work of a queue runs in the order of its submission;
// a point's event is raised when the pass before it in its command buffer has ended, and with it all passes before, and
// their writes to shared storage are visible to the host then (documentation of MTLSharedEvent).
unsafe impl<M: Metal> DeviceQueue for MetalQueue<M> {
    unsafe fn copy(&self, source: Location, destination: Location, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.copy_rows(source, destination, Rows::single(bytes)) }
    }

    unsafe fn copy_rows(&self, source: Location, destination: Location, rows: Rows) -> Result<()> {
        let span = |pitch: usize| pitch.saturating_mul(rows.count.saturating_sub(1)) + rows.bytes;
        let Shared { known, metal, .. } = self.shared.as_ref();
        let find = |location: &Location, bytes| M::pooled(|| known.find(metal, location, bytes));
        let read = span(rows.source_pitch);
        let (from, from_at, is_view) = match find(&source, read) {
            Ok((buffer, at)) => (buffer, at, false),
            Err(error) => {
                let number = self.shared.number;
                let view = M::pooled(|| peers::view(metal, number, &source, read))?;
                let (view, at) = view.ok_or(error)?;
                (view, at, true)
            }
        };
        let (to, to_at) = find(&destination, span(rows.destination_pitch))?;
        let row = |row: usize| {
            let (from, to) = (
                from_at + row * rows.source_pitch,
                to_at + row * rows.destination_pitch,
            );
            copy_parts(from, to, rows.bytes).map(move |(by, range)| {
                let part = Part {
                    from: from + range.start,
                    to: to + range.start,
                    bytes: range.len(),
                };
                (by, part)
            })
        };
        let parts: Vec<_> = (0..rows.count).flat_map(row).collect();
        if is_view {
            return self.submit_view(&from, &to, &parts);
        }
        let pipeline = M::pooled(|| self.shared.kernels.copy_for(metal, &parts))?;
        self.submit_moves(
            "weldpool copy",
            &to,
            &parts,
            |blit, part| blit.copy((&from, part.from), (&to, part.to), part.bytes),
            |kernel, part| {
                if let Some(pipeline) = pipeline {
                    encode_copy::<M>(
                        kernel,
                        pipeline,
                        (&from, part.from),
                        (&to, part.to),
                        part.bytes,
                    );
                }
            },
        )
    }

    unsafe fn fill(&self, destination: Location, bytes: usize, value: u8) -> Result<()> {
        let Shared { known, metal, .. } = self.shared.as_ref();
        let (to, at) = M::pooled(|| known.find(metal, &destination, bytes))?;
        let part = |(by, range): (By, Range<usize>)| {
            let part = Part {
                from: 0,
                to: at + range.start,
                bytes: range.len(),
            };
            (by, part)
        };
        let parts: Vec<_> = fill_parts(at, bytes).map(part).collect();
        let pipeline = M::pooled(|| self.shared.kernels.fill_for(metal, &parts))?;
        self.submit_moves(
            "weldpool fill",
            &to,
            &parts,
            |blit, part| blit.fill(&to, part.to..part.to + part.bytes, value),
            |kernel, part| {
                if let Some(pipeline) = pipeline {
                    encode_fill::<M>(kernel, pipeline, (&to, part.to), part.bytes, value);
                }
            },
        )
    }

    fn note_device_write(&self, start: &Location, bytes: usize) -> Result<()> {
        if !self.shared.two_copies {
            return Ok(());
        }
        let Shared { known, metal, .. } = self.shared.as_ref();
        let (written, _) = M::pooled(|| known.find(metal, start, bytes))?;
        self.submit("weldpool synchronize", &mut self.state.lock(), |commands| {
            self.synchronize(commands, &written)
        })
    }

    /// The GPU raises the gate, a listener's thread calls the function and raises it further, for which the GPU waits. The
    /// end of a lost queue raises it too, upon which the function is dropped.
    fn call(&self, function: Box<dyn FnOnce() + Send>) -> Result<()> {
        let mut state = self.state.lock();
        let (before, after) = (state.gate + 1, state.gate + 2);
        let gate = self.points.gate();
        self.submit("weldpool function", &mut state, |commands| {
            self.order(commands)?;
            commands.signal(gate, before);
            commands.wait_for(gate, after);
            self.order(commands)
        })?;
        state.gate = after;
        let points = Arc::clone(&self.points);
        let call = move || {
            if !points.begin_function() {
                return;
            }
            if catch_unwind(AssertUnwindSafe(function)).is_err() {
                tracing::error!("a host function on a queue panicked");
            }
            M::pooled(|| points.end_function(after));
        };
        M::pooled(|| gate.notify(before, Box::new(call)));
        Ok(())
    }

    fn wait_for(&self, timeline: &Arc<dyn Timeline>, value: u64) -> Result<()> {
        let other: &dyn Any = timeline.as_ref();
        if let Some(points) = other.downcast_ref::<EventTimeline<M>>() {
            let mut state = self.state.lock();
            let values = [value].into_iter().chain(points.beside(value));
            return self.submit_wait("weldpool wait", &mut state, points.event(), values);
        }
        // Of another kind of device: waited for here.
        match timeline.wait(value, None) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => Err(error),
            _ => Ok(()),
        }
    }

    fn waits_by_itself(&self, timeline: &Arc<dyn Timeline>) -> bool {
        let other: &dyn Any = timeline.as_ref();
        let points = other.downcast_ref::<EventTimeline<M>>();
        points.is_some_and(EventTimeline::is_waited_for_by_the_gpu)
    }

    fn wait_for_room(&self, timeout: Option<Duration>) -> Result<bool> {
        Ok(self.points.wait_for_room(ROOM, timeout))
    }

    fn signal(&self) -> Result<u64> {
        let mut state = self.state.lock();
        let value = state.signalled + 1;
        self.submit_for("weldpool point", &mut state, Some(value), |commands| {
            self.order(commands)?;
            commands.signal(self.points.event(), value);
            Ok(())
        })?;
        state.signalled = value;
        Ok(value)
    }

    fn timeline(&self) -> &Arc<dyn Timeline> {
        &self.timeline
    }

    fn before_external_submit(&self, _value: u64) -> Result<Option<ExternalOrder>> {
        let mut state = self.state.lock();
        M::pooled(|| {
            let (event, begin) = (self.points.announcements(), state.announced + 1);
            self.submit("weldpool announcement", &mut state, |commands| {
                self.order(commands)?;
                commands.signal(event, begin);
                Ok(())
            })?;
            state.announced = begin;
            let signal = self.announced.lock().announce(&self.shared.metal)?;
            Ok(Some(ExternalOrder {
                queue: self.queue.resource(),
                wait: (event.resource(), begin),
                signal,
            }))
        })
    }

    fn after_external_submit(&self, order: &ExternalOrder) -> Result<()> {
        let mut state = self.state.lock();
        let (event, has_ended) = self.announced.lock().give_back(order.signal)?;
        // Counted apart from the queue's own work: neither its end nor its loss ends this, nor that the wait is refused.
        self.points.begin_external()?;
        let points = Arc::clone(&self.points);
        // It keeps its event, and the listener with it, which may be called when the queue is gone.
        let kept = event.clone();
        let ended = move || {
            M::pooled(|| {
                has_ended.store(true, Ordering::Release);
                points.end_external();
                drop(kept);
            });
        };
        M::pooled(|| event.notify(order.signal.1, Box::new(ended)));
        self.submit_wait("weldpool external", &mut state, &event, [order.signal.1])
    }
}
