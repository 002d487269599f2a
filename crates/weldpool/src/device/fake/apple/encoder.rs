//! The models of what encoders have in common, and of `MTLBlitCommandEncoder`.

#![forbid(unsafe_code)]

use std::ops::Range;

use super::commands::Commands;
use super::fence::Fence;
use super::heap::Buffer;
use super::metal::Metal;
use super::order::{Pass, Touch};
use crate::device::fake::queue::{Command, Move, Side, Source};
use crate::device::fake::violation::{Rule, Violation};
use crate::device::metal::raw::{self, BLIT_ALIGNMENT};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};

/// What a command does with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
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
    pub(super) fn new(commands: &Commands) -> Self {
        Self {
            inner: Arc::new(Encoding {
                commands: commands.clone(),
                pass: Mutex::default(),
                ended: AtomicBool::new(false),
            }),
        }
    }

    /// Begins a call.
    pub(super) fn enter(&self, call: &str) {
        self.metal().enter(call);
        if self.inner.ended.load(Ordering::Relaxed) {
            let text = format!("{call} of an encoder that has ended");
            self.metal().break_rule(Rule::OneEncoder, text);
        }
    }

    pub(super) fn metal(&self) -> &Metal {
        self.inner.commands.metal()
    }

    /// A place, if it keeps the rules; blits want multiples of four besides.
    pub(super) fn side(
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
                let commands = &self.inner.commands;
                commands.keep(buffer);
                if let Some(copy) = buffer.host_copy() {
                    let range = offset..offset + bytes;
                    match access {
                        Access::Read => commands.note_read(buffer, range),
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
    pub(super) fn written(
        &self,
        place: (&Buffer, usize),
        bytes: usize,
        blit: bool,
    ) -> Option<Side> {
        if place.0.is_read_only() {
            let text = format!("{bytes} bytes are written to memory that is mapped for reading");
            self.metal().break_rule(Rule::Writable, text);
            return None;
        }
        self.side(place, bytes, blit, Access::Write)
    }

    pub(super) fn transfer(&self, source: Option<Source>, destination: Option<Side>, bytes: usize) {
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
        self.enter("waitForFence:");
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
        self.enter("updateFence:");
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
        self.inner.commands.end_pass(pass, moves);
    }
}

impl raw::BlitEncoder for Encoder {
    fn copy(&self, from: (&Buffer, usize), to: (&Buffer, usize), bytes: usize) {
        self.enter("copyFromBuffer:");
        let source = self.side(from, bytes, true, Access::Read);
        let source = source.map(Source::Memory);
        let destination = self.written(to, bytes, true);
        self.transfer(source, destination, bytes);
    }

    fn fill(&self, buffer: &Buffer, range: Range<usize>, value: u8) {
        self.enter("fillBuffer:");
        let destination = self.written((buffer, range.start), range.len(), true);
        self.transfer(Some(Source::Value(value)), destination, range.len());
    }

    fn synchronize(&self, buffer: &Buffer) {
        self.enter("synchronizeResource:");
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
        self.inner.commands.keep(buffer);
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
