//! Memory that exists, wrapped without a copy.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::Shared;
use super::raw::{Allocation, Buffer, Metal, Object};
use super::residency::Member;
use super::zero_copy::{Asked, Decision, Offered, decide};
use crate::binding::Resource;
use crate::device::{HostRange, Registration};
use crate::error::{Error, ErrorKind, Result};
use crate::registered::CopyReason;
use crate::sync::{Arc, Condvar, Mutex};

/// How long the end of a buffer is waited for once nothing of ours has it and its work is over. A command buffer lets go of
/// what it used when its handlers have run; a frame that is being captured keeps it longer.
const END_WAIT: Duration = Duration::from_secs(2);

/// A buffer over memory that somebody else keeps mapped.
#[derive(Debug)]
pub(super) struct Wrapped<M: Metal> {
    shared: Arc<Shared<M>>,
    device: u64,
    resource: Resource,
    /// None once it was let go.
    buffer: Option<M::Buffer>,
    /// Of the memory in it, in bytes.
    offset: usize,
    /// What keeps it resident is known by this.
    member: Option<Member>,
    ended: Arc<Ended>,
}

/// Tells that a buffer came to its end, after which its memory may be unmapped.
#[derive(Debug, Default)]
struct Ended {
    is_over: Mutex<bool>,
    changed: Condvar,
}

impl Ended {
    fn tell(&self) {
        *self.is_over.lock() = true;
        self.changed.notify_all();
    }

    /// Whether it is over, after `timeout` at most.
    fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut is_over = self.is_over.lock();
        while !*is_over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(is_over, left);
            is_over = woken.unwrap_or_else(|poison| poison.into_inner()).0;
        }
        true
    }
}

impl<M: Metal> Wrapped<M> {
    pub(super) fn new(shared: &Arc<Shared<M>>, memory: HostRange) -> Result<Self> {
        let metal = &shared.metal;
        let asked = Asked {
            start: memory.address.as_ptr().addr(),
            bytes: memory.bytes,
        };
        let offered = Offered {
            page: metal.page_bytes(),
            length_max: metal.max_buffer_length(),
        };
        let decision = decide(asked, offered, |pages| metal.has_whole_pages(pages));
        let (length, offset) = match decision {
            Decision::Wrap { length, offset, .. } => (length, offset),
            Decision::Copy(reason) => return Err(refused(asked, offered, reason)),
        };
        let start = memory.address.as_ptr().wrapping_sub(offset);
        let Some(address) = NonNull::new(start) else {
            return Err(refused(asked, offered, CopyReason::PartialPages));
        };
        let pages = HostRange {
            address,
            bytes: length,
            ..memory
        };
        let ended = Arc::<Ended>::default();
        let tell = Arc::clone(&ended);
        let made = shared.known.make(offset..offset + memory.bytes, || {
            let buffer = metal.new_buffer_no_copy(pages, Box::new(move || tell.tell()))?;
            // A GPU in a virtual machine gave an empty buffer and no error (runner-images 10663).
            if buffer.length() != length {
                let text = format!(
                    "Metal wrapped {} of {length} bytes; copy them instead",
                    buffer.length()
                );
                let error = Error::with_message(ErrorKind::Unsupported, text);
                return Err(error.with_copy_reason(CopyReason::WrappedInPart));
            }
            Ok(buffer)
        });
        let buffer = made?;
        buffer.set_label("weldpool registered");
        let resident = Allocation::Buffer(&buffer);
        let member = shared.resident.add(metal, resident, length as u64);
        Ok(Self {
            shared: Arc::clone(shared),
            device: buffer.gpu_address() + offset as u64,
            resource: buffer.resource(),
            buffer: Some(buffer),
            offset,
            member,
            ended,
        })
    }

    /// Lets go of the buffer and waits until its end has come: until then its memory has to stay mapped, and a command
    /// buffer that has raised its event may still keep it for a moment.
    pub(super) fn end(&mut self) -> Result<()> {
        if let Some(buffer) = self.buffer.take() {
            M::pooled(|| {
                let Shared {
                    known, resident, ..
                } = self.shared.as_ref();
                known.remove(self.resource);
                if let Some(member) = self.member.take() {
                    resident.remove(member, Allocation::Buffer(&buffer));
                    // A set keeps what it holds until then.
                    resident.commit();
                }
                drop(buffer);
            });
        }
        if self.ended.wait(END_WAIT) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            "Metal still keeps the buffer over registered memory, as a GPU capture does; try again",
        ))
    }

    /// Whether it is of a device.
    pub(super) fn is_of(&self, shared: &Arc<Shared<M>>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }
}

fn refused(asked: Asked, offered: Offered, reason: CopyReason) -> Error {
    let Asked { start, bytes } = asked;
    let Offered { page, length_max } = offered;
    let kind = match reason {
        CopyReason::TooLong => ErrorKind::LimitExceeded,
        _ => ErrorKind::InvalidRequest,
    };
    let text = match reason {
        CopyReason::TooLong => format!(
            "{bytes} bytes at {start:#x} with the pages they lie on; maxBufferLength is {length_max}, register parts"
        ),
        _ => format!(
            "{bytes} bytes at {start:#x}: Metal wraps whole pages of {page} bytes, which have to be mapped whole; allocate \
             memory with that alignment and a multiple of it as length"
        ),
    };
    Error::with_message(kind, text).with_copy_reason(reason)
}

/// For what nobody unregistered: whoever drops it so keeps the memory mapped after an error.
impl<M: Metal> Drop for Wrapped<M> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "registered memory");
        }
    }
}

// SAFETY: the buffer stands for the pages of the memory until it is let go, at the end of the registration.
unsafe impl<M: Metal> Registration for Wrapped<M> {
    fn device_address(&self) -> Option<u64> {
        Some(self.device)
    }

    fn resource(&self) -> Option<Resource> {
        self.buffer.is_some().then_some(self.resource)
    }

    fn resource_offset(&self) -> usize {
        self.offset
    }
}
