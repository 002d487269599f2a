//! Strategies: how a request is to be served, decided from its size, alignment, storage mode and name and
//! from how the allocator stands.
//!
//! Set one as [`Config::strategy`](crate::Config::strategy). Without one, requests and configuration
//! decide, and nothing is asked.
//!
//! ```
//! use std::sync::Arc;
//! use weldpool::strategy::{Asked, Choice, Strategy, Surroundings};
//! use weldpool::{Allocator, Config};
//!
//! /// Gives what is large memory of its own, which goes back to the device when it is freed.
//! #[derive(Debug)]
//! struct LargeDirect;
//!
//! impl Strategy for LargeDirect {
//!     fn choose(&self, asked: &Asked, _: &Surroundings<'_>) -> Choice {
//!         Choice { pool: asked.bytes <= 1 << 20, ..Choice::of(asked) }
//!     }
//! }
//!
//! # fn main() -> weldpool::Result<()> {
//! # let device = Arc::new(weldpool::device::host::HostDevice::new()?);
//! let config = Config { strategy: Some(Arc::new(LargeDirect)), ..Config::default() };
//! let allocator = Allocator::builder(device).config(config).build()?;
//! drop(allocator.allocate(8 << 20)?);
//! assert_eq!(allocator.stats().reserved.value, 0);
//! # Ok(())
//! # }
//! ```

mod adaptive;
mod fixed;
mod seed_document;
mod tuning;

use std::fmt;

pub use self::adaptive::Adaptive;
pub use self::fixed::Fixed;
pub use self::seed_document::SeedDocument;
pub use self::tuning::{Demand, Driven, Shape, Tuning};
use crate::device::{DeviceProperties, StorageMode};
use crate::pool::Pool;
use crate::request::Request;
use crate::stats::Stats;
use crate::sync::Arc;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// Bytes.
    pub bytes: usize,
    /// Alignment in bytes, 256 if the request names none.
    pub alignment: usize,
    /// Storage mode.
    pub storage: StorageMode,
    /// Name of the buffer.
    pub name: &'static str,
}

impl Asked {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        Self {
            bytes: request.bytes,
            alignment: request.alignment,
            storage: request.storage,
            name: request.name.as_str(),
        }
    }
}

/// How a request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// From the pools, and back into them; else from memory of its own, which goes back to the device
    /// when the buffer is freed. While pooling is switched off, all memory is of the latter kind.
    pub pool: bool,
    /// In which storage mode. A mode that the device lacks fails the request.
    pub storage: StorageMode,
    /// At which alignment in bytes: a power of two up to 1 GiB, at least raised to 256,
    /// [`Config::alignment`](crate::Config::alignment) and the device's minimum.
    pub alignment: usize,
}

impl Choice {
    /// The pools, and otherwise what is asked for.
    #[must_use]
    pub const fn of(asked: &Asked) -> Self {
        Self {
            pool: true,
            storage: asked.storage,
            alignment: asked.alignment,
        }
    }
}

/// How an allocator stands. Each figure is read when it is asked for.
pub struct Surroundings<'a> {
    pool: &'a Pool,
}

impl<'a> Surroundings<'a> {
    pub(crate) const fn of(pool: &'a Pool) -> Self {
        Self { pool }
    }

    /// Properties of the device.
    #[must_use]
    pub fn device(&self) -> &'a DeviceProperties {
        self.pool.device().properties()
    }

    /// Bytes held from the driver; one load.
    #[must_use]
    pub fn reserved_bytes(&self) -> u64 {
        self.pool.reserved_bytes()
    }

    /// The most that may be held, if there is a limit; one load.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.pool.reserve().limit()
    }

    /// Bytes requested by users and not yet freed; a few loads per thread.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.pool.live_bytes()
    }

    /// All statistics but those of pressure and collection; a few microseconds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pool.stats()
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings")
            .field("reserved_bytes", &self.reserved_bytes())
            .finish_non_exhaustive()
    }
}

/// Decides how requests are served.
///
/// A panic in [`choose`](Self::choose), [`shape`](Self::shape) or [`tune`](Self::tune) is caught and logged as
/// an error, and the allocator goes on as without a strategy: the request is served as it asks, its class as it
/// is configured, and nothing is changed. One while an allocator is built ends the building, of which nothing
/// stays behind.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// Decides about one request. Called on the requesting thread with no lock held, for each request
    /// unless [`chooses`](Self::chooses) says that it need not be; it must not allocate from the same
    /// allocator.
    fn choose(&self, asked: &Asked, surroundings: &Surroundings<'_>) -> Choice;

    /// Whether [`choose`](Self::choose) is to be asked, which it is once, when the allocator is built.
    /// Where not, the strategy costs a request that is served from a cache nothing.
    fn chooses(&self) -> bool {
        true
    }

    /// The strategy for one allocator, asked for when that is built: a fresh one of the same settings if it
    /// learns from the workload; none if this one may serve any number of allocators.
    fn for_allocator(&self) -> Option<Arc<dyn Strategy>> {
        None
    }

    /// How a size class serves a request past the threads' caches. Called with no lock held; it must not
    /// allocate from the same allocator.
    fn shape(&self, demand: &Demand) -> Shape {
        Shape::of(&demand.class)
    }

    /// What the allocator is to do from now on; none for no change. Asked after requests past the threads'
    /// caches: after those for which memory was obtained, mapped or returned, and after each 1024th other.
    fn tune(&self, driven: &Driven) -> Option<Tuning> {
        let _ = driven;
        None
    }
}
