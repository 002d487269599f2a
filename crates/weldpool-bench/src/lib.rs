//! Benchmarks of Weldpool against its peers, and the load tests that share their client.
//!
//! The servers under test are separate processes, ours included: this crate knows them only through the
//! protocol, their process id and their metrics, so every figure is taken the same way for all of them.
//! Peers are fetched, pinned by hash, when a benchmark first needs them; no product crate depends on any.
//! Allocators are libraries, ours included, and their peers are dependencies of this crate alone, pinned by
//! version; [`alloc`] runs each in processes of its own.

pub mod alloc;
pub mod cargo;
pub mod cpu;
pub mod echo;
pub mod error;
#[cfg(target_os = "linux")]
pub mod gpu;
pub mod http;
pub mod instructions;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod ours;
pub mod peers;
pub mod placement;
pub mod pressure;
pub mod process;
mod random;
pub mod replay;
pub mod report;
pub mod repository;
pub mod request;
pub mod rounds;
pub mod serve;
pub mod soak;
pub mod soak_alloc;
pub mod statistics;
pub mod triton;

pub use error::{Error, ErrorKind, Result};
