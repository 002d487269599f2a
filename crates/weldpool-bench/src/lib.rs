//! Benchmarks of Weldpool against its peers, and the load tests that share their client.
//!
//! The servers under test are separate processes, ours included: this crate knows them only through the
//! protocol, their process id and their metrics, so every figure is taken the same way for all of them.
//! Peers are fetched, pinned by hash, when a benchmark first needs them; no product crate depends on any.

pub mod cargo;
pub mod cpu;
pub mod echo;
pub mod error;
pub mod http;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod ours;
pub mod peers;
pub mod placement;
pub mod pressure;
pub mod process;
pub mod report;
pub mod request;
pub mod serve;
pub mod soak;
pub mod statistics;

pub use error::{Error, ErrorKind, Result};
