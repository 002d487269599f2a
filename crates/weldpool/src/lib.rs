//! Pools and unifies the memory of a GPU and its host.
//!
//! An [`Allocator`] is the pool of one [`Device`]. It obtains large [segments](device::Segment)
//! from the device, hands out [`Buffer`]s from them and takes the buffers back when they are
//! dropped, so that a program in its steady state makes no driver call at all.
//!
//! ```
//! use weldpool::{Allocator, Request};
//!
//! # fn main() -> weldpool::Result<()> {
//! let allocator = Allocator::host()?;
//! let mut weights = allocator.allocate_with(&Request::new(4096).name("weights"))?;
//! weights.write::<f32>()?.fill(0.5);
//! assert_eq!(weights.read::<f32>()?[1023], 0.5);
//!
//! let shared = weights.share(); // from here on several views may hold the same block
//! let head = shared.slice(0..1024)?;
//! assert_eq!(head.read::<f32>()?.len(), 256);
//!
//! drop((shared, head));
//! assert_eq!(allocator.stats().live.value, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Contracts
//!
//! * Contents are touched from the host only through [`ReadGuard`] and [`WriteGuard`]. A guard is
//!   refused while work in flight could race with it, so safe code cannot observe a torn write.
//! * Work submitted to a [`Queue`] keeps the memory it uses: a buffer dropped early is reused at
//!   once on the same queue, and elsewhere only after the [`Fence`] of that work.
//! * Every error is an [`Error`] with a [`kind()`](Error::kind). Nothing panics on any request, and
//!   nothing is lost when a driver call fails.
//! * `live` counts requested bytes, `reserved` is metered below the allocator, where the driver is
//!   called; live / reserved is therefore an honest utilisation.
//!
//! # Non-goals
//!
//! The crate knows nothing of models, tensors, network protocols or async runtimes.

mod address;
mod address_map;
mod allocator;
mod arena;
mod asymmetric_fence;
mod binding;
mod block;
mod buffer;
mod class_pool;
mod config;
mod counter;
mod dashboard;
pub mod device;
pub mod env;
mod error;
mod export;
mod exposed;
pub mod gc;
mod grouped;
mod guard;
mod health;
mod high_water;
mod histogram;
mod in_flight;
#[cfg(feature = "serde")]
mod json;
mod kept;
mod moment;
mod name;
mod observer;
mod order;
mod out_of_memory;
pub mod pinned;
mod pool;
mod preset;
pub mod pressure;
pub mod profiling;
pub mod prometheus;
mod queue;
mod registered;
mod report;
mod request;
mod runtime;
mod sampler;
#[cfg(feature = "serde")]
mod serial;
mod signals;
mod size_class;
mod sorted;
mod space;
mod stats;
pub mod strategy;
mod supervisor;
mod sync;
mod text;
mod thread_cache;
pub mod trace;
pub mod transfer;
mod view;
mod wait;

pub use address::BlockInfo;
pub use allocator::{Allocator, AllocatorBuilder};
pub use binding::{Binding, Resource};
pub use buffer::Buffer;
pub use config::{Config, LeakHandler};
pub use dashboard::{Dashboard, DashboardOptions};
pub use device::{Device, StorageMode};
pub use error::{Error, ErrorKind, PoolState, Result};
pub use export::{Export, Exported, ExportedHandle};
pub use guard::{Element, ReadGuard, WriteGuard};
pub use health::{Finding, Health, HealthStatus};
pub use histogram::Histogram;
pub use name::Name;
pub use out_of_memory::{
    OutOfMemory, OutOfMemoryCallback, OutOfMemoryHandler, OutOfMemoryStats, Recourse, RecoveryStep,
};
pub use preset::Preset;
pub use queue::{ExternalSubmission, Fence, Operand, Queue};
pub use registered::{RawBytes, RegisterError, Registered, StableBytes};
pub use report::{ArenaReport, LeakReport, LeakedBuffer, Report, ReportOptions, SampledBuffer};
pub use request::Request;
pub use runtime::{Absent, Runtime};
pub use sampler::Samples;
pub use size_class::{SizeClass, SizeClasses};
pub use stats::{ClassStats, Counter, NodeStats, Stats};
pub use strategy::Strategy;
pub use view::BufferView;

/// Compiles and runs the examples of the page on policies.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/policies.md")]
struct Policies;

/// Compiles and runs the examples of the page on pinned memory.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/pinned.md")]
struct Pinned;

/// Compiles and runs the example of the page on seeing what an allocator does.
#[cfg(all(doctest, feature = "serde"))]
#[doc = include_str!("../../../docs/observability.md")]
struct Observability;

/// Compiles and runs the example of the page on copies.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/transfers.md")]
struct Transfers;

/// Compiles and runs the example of the page on memory shared between processes.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/sharing.md")]
struct Sharing;

/// Compiles and runs the example of the page on profilers.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/profiling.md")]
struct ProfilingPage;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
