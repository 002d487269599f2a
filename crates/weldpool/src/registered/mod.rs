//! Memory that exists already, made known to a device, so that work uses it where it is (zero copy).
//!
//! ```
//! use weldpool::Allocator;
//!
//! # fn main() -> weldpool::Result<()> {
//! # let allocator = Allocator::host()?;
//! let weights: Vec<f32> = vec![0.5; 1 << 20];
//! let weights = allocator.register(weights)?;
//! let queue = allocator.create_queue()?;
//! let mut copy = allocator.allocate(weights.len())?;
//! queue.copy(&weights, &mut copy)?;
//! let weights: Vec<f32> = weights.into_inner()?; // once the copy has read it
//! assert_eq!(copy.read::<f32>()?[..], weights[..]);
//! # Ok(())
//! # }
//! ```

#![allow(unsafe_code)]

mod adopted;
mod mapped_file;
mod mapping;
mod memory;
mod ranges;
mod reason;
mod shared_memory;

use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

pub(crate) use self::adopted::Adoptions;
pub use self::adopted::{AdoptOptions, Adopted};
pub use self::mapped_file::MappedFile;
pub use self::memory::{RawBytes, StableBytes};
pub(crate) use self::ranges::Ranges;
pub use self::reason::CopyReason;
pub use self::shared_memory::SharedMemory;
use crate::allocator::Allocator;
use crate::binding::{Binding, Place};
use crate::device::{HostRange, Registration, StorageMode, UnregisterError};
use crate::error::{Error, ErrorKind, Result};
use crate::guard::{BorrowToken, Element, ReadGuard, WriteGuard};
use crate::in_flight::{Access, InFlight, Use};
use crate::kept;
use crate::pool::Pool;
use crate::queue::{Fence, Operand, Part, Queue, sealed};
use crate::sync::Arc;
use crate::wait::{Wait, left_out};

/// Memory that a device knows, owned until it is given back. Work on queues uses it as it does a
/// [`Buffer`](crate::Buffer), and it refuses guards likewise while work in flight could race.
///
/// Dropping it waits for the work that uses it, however long that takes, unregisters and drops the memory. On a
/// lost device there is no such work any more. What the driver refuses to unregister, or of which it does not tell
/// whether work is over, is kept for the life of the process, and logged as an error.
pub struct Registered<M: StableBytes> {
    /// The owner, on the heap, so that it does not move while its memory is used; none once it was given back.
    memory: Option<NonNull<M>>,
    bytes: NonNull<[u8]>,
    read_only: bool,
    /// None once the device does not know the memory any more.
    registration: Option<Box<dyn Registration>>,
    in_flight: InFlight,
    pool: Arc<Pool>,
}

// SAFETY: the owner is Send, and its memory belongs to the process.
unsafe impl<M: StableBytes> Send for Registered<M> {}
// SAFETY: the owner is not reached through a shared reference; the memory is only read through one.
unsafe impl<M: StableBytes> Sync for Registered<M> {}

/// Why memory could not be registered or given back, with what was passed in. Converts into its
/// [`Error`], which drops that.
pub struct RegisterError<T> {
    /// What was passed in, unchanged.
    pub memory: T,
    /// Why.
    pub error: Error,
}

impl Allocator {
    /// Makes memory that exists known to the device, so that work uses it where it is. On CUDA that locks its pages,
    /// which costs up to 0.4 ms per MiB. On Metal the pages that it begins and ends in are wrapped whole, so kernels of
    /// the program reach their neighbours' bytes too. No address need be aligned. The bytes count in
    /// [`Stats::registered`](crate::Stats::registered) and not toward what is reserved or any limit of this allocator.
    /// [`adopt`](Self::adopt) copies what cannot be registered.
    ///
    /// # Errors
    ///
    /// With the memory: [`InvalidRequest`](ErrorKind::InvalidRequest) when it is empty, overlaps memory that is
    /// registered, begins or ends in a live buffer of the allocator's own, or in a page that is not mapped whole;
    /// [`Unsupported`](ErrorKind::Unsupported) where the device registers none, or none that is read-only;
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) beyond 65536 registrations, or the longest buffer of the device; else
    /// what the driver says. [`Error::copy_reason`](crate::Error::copy_reason) names the reason.
    pub fn register<M: StableBytes>(
        &self,
        memory: M,
    ) -> std::result::Result<Registered<M>, RegisterError<M>> {
        Registered::new(self.pool(), memory)
    }
}

impl<M: StableBytes> Registered<M> {
    fn new(pool: &Arc<Pool>, memory: M) -> std::result::Result<Self, RegisterError<M>> {
        let mut memory = Box::new(memory);
        let read_only = memory.is_read_only();
        let bytes = memory.as_bytes();
        let range = HostRange {
            address: bytes.cast(),
            bytes: bytes.len(),
            read_only,
        };
        // From here on the owner is reached only through the pointer, until it is given back.
        let memory = NonNull::from(Box::leak(memory));
        // SAFETY: the owner keeps the memory valid and untouched until it is given back, which is after the
        // registration has ended.
        match unsafe { pool.register(range) } {
            Ok(registration) => Ok(Self {
                memory: Some(memory),
                bytes,
                read_only,
                registration: Some(registration),
                in_flight: InFlight::default(),
                pool: Arc::clone(pool),
            }),
            Err(error) => Err(RegisterError {
                // SAFETY: it is the box that was leaked above.
                memory: *unsafe { Box::from_raw(memory.as_ptr()) },
                error,
            }),
        }
    }

    /// Length in bytes; never zero.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "registered memory is never empty"
    )]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it may only be read, by host and device.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Where it is, for a driver call.
    #[must_use]
    pub fn binding(&self) -> Binding<'_> {
        Binding::new(&self.place(), 0..self.len(), true)
    }

    /// Read access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::read`](crate::Buffer::read).
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        self.in_flight.check(Access::Read)?;
        // SAFETY: the memory is valid while `self` lives, a write guard needs `&mut self`, and no work writes it.
        unsafe { ReadGuard::new(self.bytes.cast(), self.len(), None) }
    }

    /// Write access to the contents.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::write`](crate::Buffer::write), and [`InvalidRequest`](ErrorKind::InvalidRequest) for
    /// memory that is read-only.
    pub fn write<T: Element>(&mut self) -> Result<WriteGuard<'_, T>> {
        self.check_writable()?;
        self.in_flight.check(Access::Write)?;
        // SAFETY: the memory is valid for writes while `self` lives, whose borrow is exclusive, and no work uses it.
        unsafe { WriteGuard::new(self.bytes.cast(), self.len(), None) }
    }

    /// Waits until no submitted work uses the memory.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout), or [`DeviceLost`](ErrorKind::DeviceLost).
    pub fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        self.in_flight.wait(timeout)
    }

    /// Takes note that work which somebody else submitted to `queue` so far uses the memory.
    ///
    /// # Errors
    ///
    /// As for [`Buffer::note_use`](crate::Buffer::note_use).
    pub fn note_use(&self, queue: &Queue) -> Result<()> {
        let fence = queue.fence();
        self.in_flight.add(Use {
            fence: fence
                .as_ref()
                .map_or_else(|_| queue.fence_or_next(), Fence::clone),
            access: match self.read_only {
                true => Access::Read,
                false => Access::Write,
            },
        });
        fence.map(drop)
    }

    /// Gives the memory back, once the work that uses it is over and the device does not know it any more. Waits
    /// for that however long it takes; [`wait`](Self::wait) has a limit.
    ///
    /// # Errors
    ///
    /// With the memory, still registered, what the driver says. On a lost device it is given back.
    #[expect(
        clippy::result_large_err,
        reason = "what failed comes back, to be tried again"
    )]
    pub fn into_inner(mut self) -> std::result::Result<M, RegisterError<Self>> {
        if let Err(error) = self.end() {
            return Err(RegisterError {
                memory: self,
                error,
            });
        }
        let Some(memory) = self.memory.take() else {
            unreachable!("only a drop takes it besides");
        };
        // SAFETY: it is the box that was leaked when this was made.
        Ok(*unsafe { Box::from_raw(memory.as_ptr()) })
    }

    /// Waits for work, and has the device forget the memory.
    fn end(&mut self) -> Result<()> {
        if !left_out(Wait::Unregister) {
            self.await_work()?;
        }
        let Some(registration) = self.registration.take() else {
            return Ok(());
        };
        match self.pool.unregister(registration, self.bytes) {
            Ok(()) => Ok(()),
            // Nothing of the device reaches any memory.
            Err(UnregisterError { error, .. }) if error.kind() == ErrorKind::DeviceLost => {
                self.pool.forget_registered(self.bytes);
                Ok(())
            }
            Err(UnregisterError {
                registration,
                error,
            }) => {
                self.registration = Some(registration);
                Err(error)
            }
        }
    }

    /// Waits until no work uses the memory. What a lost queue was given will not run any more.
    fn await_work(&self) -> Result<()> {
        for fence in self.in_flight.conflicts(Access::Write) {
            let over = fence.cover().and_then(|()| fence.wait(None));
            match over {
                Err(error) if error.kind() != ErrorKind::DeviceLost => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the memory was registered to be read only",
            ));
        }
        Ok(())
    }

    fn place(&self) -> Place {
        let registration = self.registration.as_deref();
        let resource = registration.and_then(|one| one.resource());
        Place {
            host: self.bytes.cast().as_ptr(),
            device: registration
                .and_then(|one| one.device_address())
                .unwrap_or(0),
            resource: resource.map_or(std::ptr::null_mut(), |one| one.as_ptr().as_ptr()),
            resource_offset: registration.map_or(0, |one| one.resource_offset()),
        }
    }
}

impl<M: StableBytes> Drop for Registered<M> {
    fn drop(&mut self) {
        let Some(memory) = self.memory else {
            return;
        };
        match self.end() {
            // SAFETY: it is the box that was leaked when this was made.
            Ok(()) => drop(unsafe { Box::from_raw(memory.as_ptr()) }),
            Err(error) => {
                tracing::error!(bytes = self.len(), %error, "registered memory is kept for the life of the process");
                // The owner stays leaked.
                kept::keep((
                    memory.as_ptr().expose_provenance(),
                    self.registration.take(),
                ));
            }
        }
    }
}

impl<M: StableBytes> Operand for Registered<M> {}

impl<M: StableBytes> sealed::Operand for Registered<M> {
    fn part(&self) -> Part<'_> {
        Part {
            location: self.place().location(0),
            bytes: self.len(),
            in_flight: &self.in_flight,
            offset: 0,
            storage: StorageMode::Shared,
        }
    }

    fn pool(&self) -> Option<Arc<Pool>> {
        Some(Arc::clone(&self.pool))
    }

    fn is_visible_to_peers(&self) -> bool {
        false
    }

    fn borrow_shared(&self) -> Result<Option<BorrowToken<'_>>> {
        Ok(None)
    }

    // A queue takes `&mut` to write, so the compiler has checked who else uses it.
    fn borrow_exclusive(&self) -> Result<Option<BorrowToken<'_>>> {
        self.check_writable()?;
        Ok(None)
    }
}

impl Pool {
    /// Makes memory known to the device.
    ///
    /// # Safety
    ///
    /// As for [`Device::register`](crate::Device::register).
    unsafe fn register(&self, range: HostRange) -> Result<Box<dyn Registration>> {
        let start = range.address.as_ptr().addr();
        if range.bytes == 0 {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "memory of zero bytes cannot be registered",
            )
            .with_copy_reason(CopyReason::Empty));
        }
        let last = start.saturating_add(range.bytes - 1);
        if self.find(start).or_else(|| self.find(last)).is_some() {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "the memory is a buffer of this allocator, which the device knows",
            )
            .with_copy_reason(CopyReason::AlreadyKnown));
        }
        self.registered().add(start, range.bytes)?;
        // SAFETY: the caller's promise.
        let registration = unsafe { self.metered().register(range) };
        registration.inspect_err(|_| self.registered().remove(start))
    }

    fn unregister(
        &self,
        registration: Box<dyn Registration>,
        bytes: NonNull<[u8]>,
    ) -> std::result::Result<(), UnregisterError> {
        self.metered().unregister(registration, bytes.len())?;
        self.registered().remove(bytes.cast::<u8>().as_ptr().addr());
        Ok(())
    }

    /// Takes note that memory is not registered any more, because the device is lost.
    fn forget_registered(&self, bytes: NonNull<[u8]>) {
        self.metered().forget_registered(bytes.len());
        self.registered().remove(bytes.cast::<u8>().as_ptr().addr());
    }
}

impl<M: StableBytes> fmt::Debug for Registered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("len", &self.len())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for RegisterError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Display for RegisterError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> std::error::Error for RegisterError<T> {}

impl<T> From<RegisterError<T>> for Error {
    fn from(failed: RegisterError<T>) -> Self {
        failed.error
    }
}
