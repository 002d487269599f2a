//! Pinned memory of the host that grows in the background, so that nobody waits long for a driver to lock pages.
//!
//! A [`PinnedPool`] hands out shared memory of a device's allocator, which a discrete GPU reaches without a copy
//! through memory of the driver's. What is held and idle is handed out at once. Otherwise one thread of the pool
//! obtains more, a small step at a time, and the caller waits for it, but no longer than
//! [`PinnedConfig::wait_max`]; after that it gets pageable memory, and the thread goes on, so that the next caller
//! gets what is pinned.
//!
//! ```
//! use weldpool::Allocator;
//! use weldpool::pinned::{PinnedConfig, PinnedPool};
//!
//! # fn main() -> weldpool::Result<()> {
//! # let allocator = Allocator::host()?;
//! let pool = PinnedPool::builder(&allocator)
//!     .config(PinnedConfig {
//!         allocations_max: 16,
//!         ..PinnedConfig::default()
//!     })
//!     .build()?;
//! let mut staging = pool.allocate(1 << 20)?;
//! staging.write::<u8>()?.fill(1);
//! assert!(staging.is_pinned() || pool.stats().pageable.value == 1);
//! assert_eq!(pool.stats().live.value, 1);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod buffer;
mod config;
mod demand;
mod growth;
mod ledger;
mod stats;

use std::thread::JoinHandle;
use std::time::Instant;

pub use self::buffer::PinnedBuffer;
pub use self::config::PinnedConfig;
use self::growth::Growth;
use self::ledger::{Awaited, Ledger, Slot};
pub use self::stats::PinnedStats;
use crate::allocator::Allocator;
use crate::buffer::Buffer;
use crate::device::StorageMode;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Request;
use crate::sync::{Arc, Mutex};

/// The storage mode that is pinned memory on a discrete device, and memory of both on others.
const PINNED: StorageMode = StorageMode::Shared;

/// A pool of pinned memory over an [`Allocator`]. Cloning it shares the pool.
///
/// The allocator may serve others too; what it holds and has idle is everybody's. With the last handle goes the
/// thread, which is waited for, at most for the step that it is making. Buffers may live on.
#[derive(Debug, Clone)]
pub struct PinnedPool {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    allocator: Allocator,
    /// Serves what cannot be pinned in time.
    host: Option<Allocator>,
    config: PinnedConfig,
    ledger: Arc<Ledger>,
    /// Started with the first need.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Builds a [`PinnedPool`].
#[derive(Debug)]
#[must_use]
pub struct PinnedPoolBuilder {
    allocator: Allocator,
    host: Option<Allocator>,
    config: PinnedConfig,
}

impl PinnedPoolBuilder {
    /// Sets the configuration.
    pub fn config(mut self, config: PinnedConfig) -> Self {
        self.config = config;
        self
    }

    /// The allocator of pageable memory. Default: one of the host, of the pool's own, where
    /// [`PinnedConfig::pageable_fallback`] is on.
    pub fn host(mut self, allocator: &Allocator) -> Self {
        self.host = Some(allocator.clone());
        self
    }

    /// Makes the pool. It has a thread from the first need on, which is now if
    /// [`PinnedConfig::reserve_bytes`] is not 0.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field, [`Unsupported`](ErrorKind::Unsupported)
    /// where the device has no shared storage, or what the host's allocator or the start of the thread says.
    pub fn build(self) -> Result<PinnedPool> {
        let Self {
            allocator,
            host,
            config,
        } = self;
        config.validate()?;
        allocator.pool().check_storage(PINNED)?;
        config.validate_reserve(&allocator)?;
        let host = match host.filter(|_| config.pageable_fallback) {
            None if config.pageable_fallback => Some(Allocator::host()?),
            host => host,
        };
        let handle = Handle {
            ledger: Arc::new(Ledger::new(&config)),
            allocator,
            host,
            config,
            thread: Mutex::default(),
        };
        if handle.config.reserve_bytes > 0 {
            handle.start()?;
        }
        Ok(PinnedPool {
            handle: Arc::new(handle),
        })
    }
}

impl PinnedPool {
    /// Starts building a pool over the shared memory of an allocator.
    pub fn builder(allocator: &Allocator) -> PinnedPoolBuilder {
        PinnedPoolBuilder {
            allocator: allocator.clone(),
            host: None,
            config: PinnedConfig::default(),
        }
    }

    /// A buffer of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// As for [`allocate_with`](Self::allocate_with).
    pub fn allocate(&self, bytes: usize) -> Result<PinnedBuffer> {
        self.allocate_with(&Request::new(bytes))
    }

    /// A buffer as requested, of shared storage whatever the request says. If its memory is held and idle, it costs
    /// what [`Allocator::allocate_with`] does and five atomic operations more, no lock among them; its free costs three
    /// more. Else this waits up to [`PinnedConfig::wait_max`], and what it falls back to is not ordered after the
    /// request's queue. A request for [held memory only](Request::held_only) is served so or refused: it waits for
    /// nothing, has nothing pinned and never gets pageable memory.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded`](ErrorKind::LimitExceeded) beyond [`PinnedConfig::allocations_max`] or
    /// [`PinnedConfig::allocation_bytes_max`]. Without fallback [`Timeout`](ErrorKind::Timeout) when memory was not
    /// pinned in time, or what stopped it. [`InvalidRequest`](ErrorKind::InvalidRequest) for memory that other
    /// processes or peers are to reach, of which nothing is kept. [`Busy`](ErrorKind::Busy) at once for a request for
    /// held memory only that none suffices for. Otherwise as for [`Allocator::allocate_with`].
    pub fn allocate_with(&self, request: &Request<'_>) -> Result<PinnedBuffer> {
        let handle = &*self.handle;
        if request.needs.exposure().is_some() {
            return Err(exposed().for_request(request.bytes, request.name));
        }
        let slot = handle.ledger.enter(request)?;
        let held = request.storage(PINNED).held_only(true);
        match handle.allocator.allocate_with(&held) {
            Ok(buffer) => Ok(PinnedBuffer::pinned(buffer, slot)),
            Err(error) if error.kind() == ErrorKind::Busy && !request.held_only => {
                handle.wait(&held, slot)
            }
            Err(error) => Err(error),
        }
    }

    /// What the pool did so far, exact when no call is under way. O(1), under a lock that only those who wait and
    /// the pool's thread take.
    #[must_use]
    pub fn stats(&self) -> PinnedStats {
        self.handle.ledger.stats()
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &PinnedConfig {
        &self.handle.config
    }

    /// The allocator of pinned memory.
    #[must_use]
    pub fn allocator(&self) -> &Allocator {
        &self.handle.allocator
    }
}

impl Handle {
    /// Starts the thread, unless it was started.
    fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let growth = Growth::new(&self.allocator, &self.config, &self.ledger);
            *thread = Some(growth.start()?);
        }
        Ok(())
    }

    /// Waits until memory was pinned for the request, or that failed, or time is up.
    fn wait(&self, held: &Request<'_>, slot: Slot) -> Result<PinnedBuffer> {
        let start = Instant::now();
        let deadline = start.checked_add(self.config.wait_max);
        if let Err(error) = self.start() {
            self.ledger.growth_failed(0, &error);
            return self.fall_back(held, slot, error);
        }
        let need = self.allocator.pool().room_for(held)?;
        let mut awaited = self.ledger.ask(need);
        loop {
            let end = awaited.wait(deadline);
            // In any case: of memory that others of the allocator freed nobody tells.
            let error = match self.allocator.allocate_with(held) {
                Ok(buffer) => {
                    awaited.over(start.elapsed());
                    return Ok(PinnedBuffer::pinned(buffer, slot));
                }
                Err(error) if error.kind() == ErrorKind::Busy => match end {
                    Awaited::Changed if !awaited.is_in_vain() || !self.has_free(need) => continue,
                    Awaited::Changed => error,
                    Awaited::Failed(error) => error,
                    Awaited::Late => {
                        let demand = awaited.gave_up(start.elapsed());
                        return self.fall_back(held, slot.owing(demand), late());
                    }
                },
                Err(error) => error,
            };
            awaited.over(start.elapsed());
            return self.fall_back(held, slot, error);
        }
    }

    /// Whether `need` bytes seem to be free in one piece.
    fn has_free(&self, need: usize) -> bool {
        self.allocator.pool().free_of(PINNED).largest >= need
    }

    /// Pageable memory, if that is allowed.
    fn fall_back(&self, held: &Request<'_>, slot: Slot, error: Error) -> Result<PinnedBuffer> {
        let Some(host) = &self.host else {
            return Err(self.allocator.pool().explain(error, held.bytes, held.name));
        };
        tracing::debug!(%error, bytes = held.bytes, "pageable memory instead of pinned");
        let request = Request {
            queue: None,
            held_only: false,
            ..*held
        };
        let buffer: Buffer = host.allocate_with(&request)?;
        Ok(PinnedBuffer::pageable(buffer, slot))
    }
}

#[cold]
fn exposed() -> Error {
    Error::new(
        ErrorKind::InvalidRequest,
        "a pool of pinned memory keeps none that other processes or peers reach; ask the allocator for it",
    )
}

#[cold]
fn late() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "no memory was pinned in time; it is still being pinned, so try again, or raise PinnedConfig::wait_max",
    )
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.ledger.stop();
        let this = std::thread::current().id();
        if let Some(thread) = self.thread.get_mut().take()
            // A callback that owned the last handle may run on it.
            && thread.thread().id() != this
            && thread.join().is_err()
        {
            tracing::error!("the thread that pins memory panicked");
        }
    }
}
