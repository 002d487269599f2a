//! Memory that exists, for a device to use: where it is if that can be, else copied, with the reason.

#![allow(unsafe_code)]

use std::time::Duration;

use super::{CopyReason, RegisterError, Registered, StableBytes};
use crate::allocator::Allocator;
use crate::binding::Binding;
use crate::buffer::Buffer;
use crate::error::{ErrorKind, Result};
use crate::guard::{BorrowToken, Element, ReadGuard, WriteGuard};
use crate::name::Name;
use crate::pool::Pool;
use crate::queue::{Operand, Part, Queue, sealed};
use crate::request::Request;
use crate::stats::AdoptedStats;
use crate::sync::{Arc, AtomicU64, Ordering};

/// How memory is [adopted](Allocator::adopt_with).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptOptions {
    /// Shorter memory is copied without asking the device, since making it known costs a driver call and, on CUDA, a
    /// locked page at least. In bytes; 0 for none. Default: 2^20 (1 MiB).
    pub zero_copy_bytes_min: usize,
    /// Name of the buffer that it is copied to. Default: `adopted`.
    pub name: Name,
}

impl Default for AdoptOptions {
    fn default() -> Self {
        Self {
            zero_copy_bytes_min: 1 << 20,
            name: Name::from("adopted"),
        }
    }
}

/// Memory of the program as a device uses it: an operand of queues either way.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub enum Adopted<M: StableBytes> {
    /// Where it is. What work writes is in the program's memory.
    Wrapped(Registered<M>),
    /// Copied. The memory was dropped, and nothing that is written goes back to it.
    Copied {
        /// Shared storage of the allocator.
        buffer: Buffer,
        /// Why it could not be used where it is.
        reason: CopyReason,
    },
}

impl Allocator {
    /// As [`adopt_with`](Self::adopt_with), with the default options.
    ///
    /// # Errors
    ///
    /// As for [`adopt_with`](Self::adopt_with).
    pub fn adopt<M: StableBytes>(
        &self,
        memory: M,
    ) -> std::result::Result<Adopted<M>, RegisterError<M>> {
        self.adopt_with(memory, &AdoptOptions::default())
    }

    /// Has the device use memory that exists: where it is, as [`register`](Self::register) has it, or else in a copy, and
    /// says which it was and why. Meant for what the program will not look at again, as weights and inputs; memory that
    /// results are to be written to is registered. Both are counted in [`Stats::adopted`](crate::Stats::adopted).
    ///
    /// A copy is made by the calling thread.
    ///
    /// # Errors
    ///
    /// With the memory: what [`allocate_with`](Self::allocate_with) says when it has to be copied and cannot be,
    /// [`DeviceLost`](ErrorKind::DeviceLost), or [`Busy`](ErrorKind::Busy) from where the driver must not be called.
    pub fn adopt_with<M: StableBytes>(
        &self,
        mut memory: M,
        options: &AdoptOptions,
    ) -> std::result::Result<Adopted<M>, RegisterError<M>> {
        let bytes = memory.as_bytes().len();
        let is_small = (1..options.zero_copy_bytes_min).contains(&bytes);
        let (memory, reason) = if is_small {
            (memory, CopyReason::Small)
        } else {
            match self.register(memory) {
                Ok(registered) => {
                    self.pool().adoptions().count_wrapped(bytes);
                    return Ok(Adopted::Wrapped(registered));
                }
                Err(failed) => match failed.error.kind() {
                    ErrorKind::DeviceLost | ErrorKind::Busy => return Err(failed),
                    _ => {
                        let reason = failed.error.copy_reason();
                        tracing::debug!(bytes, error = %failed.error, "memory is copied");
                        (failed.memory, reason.unwrap_or(CopyReason::Refused))
                    }
                },
            }
        };
        let (memory, copied) = self.copy_of(memory, options.name);
        match copied {
            Ok(buffer) => {
                self.pool().adoptions().count_copied(bytes);
                Ok(Adopted::Copied { buffer, reason })
            }
            Err(error) => Err(RegisterError {
                memory,
                error: error
                    .within(format_args!(
                        "memory that is not used where it is ({reason})"
                    ))
                    .with_copy_reason(reason),
            }),
        }
    }

    fn copy_of<M: StableBytes>(&self, mut memory: M, name: Name) -> (M, Result<Buffer>) {
        let bytes = memory.as_bytes();
        let request = Request::new(bytes.len()).name(name);
        let copied = self.allocate_with(&request).and_then(|mut buffer| {
            // SAFETY: the owner, which is not used before the copy is made, keeps the memory valid and initialised, and
            // nobody writes it.
            let contents = unsafe { ReadGuard::<u8>::new(bytes.cast(), bytes.len(), None) }?;
            buffer.write::<u8>()?.copy_from_slice(&contents);
            Ok(buffer)
        });
        (memory, copied)
    }
}

/// Passes a method on to what the memory became.
macro_rules! either {
    ($adopted:expr, $one:ident => $call:expr) => {
        match $adopted {
            Adopted::Wrapped($one) => $call,
            Adopted::Copied { buffer: $one, .. } => $call,
        }
    };
}

impl<M: StableBytes> Adopted<M> {
    /// Why it was copied, if it was.
    #[must_use]
    pub fn copy_reason(&self) -> Option<CopyReason> {
        match self {
            Self::Wrapped(_) => None,
            Self::Copied { reason, .. } => Some(*reason),
        }
    }

    /// Length in bytes; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "adopted memory is never empty")]
    pub fn len(&self) -> usize {
        either!(self, one => one.len())
    }

    /// Where it is, for a driver call.
    #[must_use]
    pub fn binding(&self) -> Binding<'_> {
        either!(self, one => one.binding())
    }

    /// Read access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::read`].
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        either!(self, one => one.read())
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Registered::write`].
    pub fn write<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        either!(self, one => one.write())
    }

    /// Waits until no submitted work uses it.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::wait`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        either!(self, one => one.wait(timeout))
    }

    /// Takes note that work which somebody else submitted to `queue` so far uses it.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::note_use`].
    pub fn note_use(&self, queue: &Queue) -> Result<()> {
        either!(self, one => one.note_use(queue))
    }
}

impl<M: StableBytes> Operand for Adopted<M> {}

impl<M: StableBytes> sealed::Operand for Adopted<M> {
    fn part(&self) -> Part<'_> {
        either!(self, one => one.part())
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        either!(self, one => one.pool())
    }

    fn is_visible_to_peers(&self) -> bool {
        either!(self, one => one.is_visible_to_peers())
    }

    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        either!(self, one => one.borrow_shared())
    }

    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        either!(self, one => one.borrow_exclusive())
    }
}

/// Counts what a pool's allocator adopted.
#[derive(Debug, Default)]
pub(crate) struct Adoptions {
    wrapped: AtomicU64,
    wrapped_bytes: AtomicU64,
    copied: AtomicU64,
    copied_bytes: AtomicU64,
}

impl Adoptions {
    fn count_wrapped(&self, bytes: usize) {
        self.wrapped.fetch_add(1, Ordering::Relaxed);
        self.wrapped_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_copied(&self, bytes: usize) {
        self.copied.fetch_add(1, Ordering::Relaxed);
        self.copied_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> AdoptedStats {
        AdoptedStats {
            wrapped: self.wrapped.load(Ordering::Relaxed),
            wrapped_bytes: self.wrapped_bytes.load(Ordering::Relaxed),
            copied: self.copied.load(Ordering::Relaxed),
            copied_bytes: self.copied_bytes.load(Ordering::Relaxed),
        }
    }
}
