//! Managed storage of a GPU with memory of its own: one copy of the host's, one of the device's.
//!
//! What the host wrote reaches the device's copy when it was announced, and a command buffer that uses the buffer is
//! committed after that; what the device wrote reaches the host's copy by a synchronisation, which is of the whole buffer
//! (documentation of `didModifyRange:`, of `synchronizeResource:`, and "Synchronizing a managed resource in macOS").

#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::mpsc::channel;

use super::metal::Metal;
use super::pools::pooled;
use crate::binding::Resource;
use crate::device::Location;
use crate::device::fake::queue::Command;
use crate::device::fake::store::{Pages, Store};
use crate::device::fake::violation::{Rule, Violation, broken};
use crate::device::metal::raw::{
    self, BlitEncoder as _, CommandBuffer as _, CommandQueue as _, Encoder as _, SharedEvent as _,
};
use crate::device::raw::Transfer;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Mutex};

/// The host's copy of a buffer, and what of it the device's copy lacks.
#[derive(Debug)]
pub(super) struct HostCopy {
    device: Arc<Store>,
    pages: Arc<Pages>,
    /// Counts as taken while the copy is there.
    _host: Store,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Announced since the last commit.
    announced: Vec<Range<usize>>,
    /// Written by the device since the last synchronisation.
    unsynchronized: Vec<Range<usize>>,
    /// What the host's copy held when both were last known to agree, to tell what was changed and not announced.
    known: Vec<u8>,
}

fn at(address: NonNull<u8>) -> Location {
    Location {
        host: Some(address),
        device: None,
        resource: None,
    }
}

impl Metal {
    /// Does what work of others does that submits it to a queue of its own: sets every byte of a buffer, without a
    /// synchronisation, and signals an event of its own. Returns when the host has seen that.
    ///
    /// # Errors
    ///
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for what is no buffer of this device, or as a queue says.
    pub fn fill_by_others(&self, buffer: Resource, value: u8) -> Result<()> {
        let found = raw::Metal::find_buffer(self, buffer);
        let buffer = found.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidRequest,
                "work of others on what is no buffer of the device",
            )
        })?;
        let (say, said) = channel();
        pooled(|| -> Result<()> {
            let event = raw::Metal::new_shared_event(self)?;
            let commands = raw::Metal::new_command_queue(self, 1)?.command_buffer()?;
            let blit = commands.blit_encoder()?;
            blit.fill(&buffer, 0..buffer.length(), value);
            blit.end();
            commands.signal(&event, 1);
            commands.on_completed(Box::new(move |outcome| drop(say.send(outcome))));
            commands.commit();
            let outcome = said.recv().unwrap_or(Ok(()));
            // What the handler says is no order of memory in the model.
            let _seen = event.signaled_value();
            outcome
        })
    }
}

impl HostCopy {
    /// A host's copy, zero in the beginning, of a device's.
    pub(super) fn new(device: &Arc<Store>, host: Store) -> Result<Self> {
        let bytes = host.bytes();
        Ok(Self {
            device: Arc::clone(device),
            pages: host.pages()?,
            _host: host,
            state: Mutex::new(State {
                announced: Vec::new(),
                unsynchronized: Vec::new(),
                known: vec![0; bytes],
            }),
        })
    }

    /// `contents`.
    pub(super) fn address(&self) -> NonNull<u8> {
        self.pages.address()
    }

    /// The bytes of a range, which lies inside.
    fn bytes(&self, range: &Range<usize>) -> &[u8] {
        // SAFETY: whoever calls keeps the range inside the buffer, for whose length the pages are mapped.
        let start = unsafe { self.address().add(range.start) };
        // SAFETY: as above; nobody writes there: work that is committed reads it, or the host has just announced it.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) }
    }

    /// `didModifyRange:`.
    pub(super) fn announce(&self, range: Range<usize>) -> std::result::Result<(), Violation> {
        let mut state = self.state.lock();
        let length = state.known.len();
        if range.start > range.end || range.end > length {
            return broken(
                Rule::InsideBuffer,
                format!("a change of {range:?} in a buffer of {length} bytes"),
            );
        }
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        let lost = state.unsynchronized.iter().find(|other| overlaps(other));
        let lost = lost.cloned();
        state.announced.push(range.clone());
        match lost {
            None => Ok(()),
            Some(other) => broken(
                Rule::ManagedSynchronized,
                format!(
                    "the host changed {range:?} where the device wrote {other:?}, unseen by the host"
                ),
            ),
        }
    }

    /// A command buffer is committed that uses the buffer: what was announced reaches the device's copy.
    pub(super) fn commit(&self) -> Result<()> {
        let mut state = self.state.lock();
        for range in std::mem::take(&mut state.announced) {
            let pages = self.device.pages()?;
            // SAFETY: the range was found to lie inside, and both copies are as long.
            let from = unsafe { self.address().add(range.start) };
            // SAFETY: as above.
            let to = unsafe { pages.address().add(range.start) };
            // SAFETY: both are mapped, and apart; work on the range would race with the host's changes already.
            let copy = unsafe { Transfer::copy(at(from), at(to), range.len()) };
            if let Some(copy) = copy {
                copy.run();
            }
            state.known[range.clone()].copy_from_slice(self.bytes(&range));
            state
                .unsynchronized
                .retain(|other| other.start < range.start || other.end > range.end);
        }
        Ok(())
    }

    /// Work that is committed now reads a range.
    pub(super) fn check_read(&self, range: &Range<usize>) -> std::result::Result<(), Violation> {
        let state = self.state.lock();
        let written = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        if state.unsynchronized.iter().any(written) {
            // What the host's copy holds is no change of the host's.
            return Ok(());
        }
        if state.known[range.clone()] == *self.bytes(range) {
            return Ok(());
        }
        broken(
            Rule::ManagedAnnounced,
            format!("work reads {range:?}, which the host changed and did not announce"),
        )
    }

    /// The command that comes before one that writes a range.
    pub(super) fn note_device_write(self: &Arc<Self>, range: Range<usize>) -> Command {
        let copy = Arc::clone(self);
        Command::Touch(Box::new(move || {
            let mut state = copy.state.lock();
            if !state.unsynchronized.contains(&range) {
                state.unsynchronized.push(range);
            }
            Ok(())
        }))
    }

    /// The command of `synchronizeResource:`: the host's copy becomes what the device's is, all of it.
    pub(super) fn synchronize(self: &Arc<Self>) -> Command {
        let copy = Arc::clone(self);
        Command::Touch(Box::new(move || {
            // Held, so that no commit looks at the host's copy meanwhile.
            let mut state = copy.state.lock();
            let (bytes, pages) = (state.known.len(), copy.device.pages()?);
            // SAFETY: both copies are so long, mapped and apart; whoever submitted the work keeps the host away.
            let whole = unsafe { Transfer::copy(at(pages.address()), at(copy.address()), bytes) };
            if let Some(whole) = whole {
                whole.run();
            }
            state.unsynchronized.clear();
            state.known.copy_from_slice(copy.bytes(&(0..bytes)));
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests;
