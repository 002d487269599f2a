//! `TRITONSERVER_ResponseAllocator`: the outputs of a Triton server lie in Weldpool's pools.
//!
//! A program that runs Triton within itself gives each request an allocator, which Triton asks for
//! the memory of every output. [`ResponseAllocator`] serves it from a list of [`Source`]s: the one
//! whose kind of memory was asked for, else the next best, else the error says what each of them
//! said. Memory that the device shares with the host is handed out as it is, so nothing is copied
//! between the model and who reads its answer.
//!
//! Nothing of Triton's is linked: its functions are found in the process when an allocator is made.
//!
//! ```no_run
//! use weldpool::{Allocator, StorageMode};
//! use weldpool_response_allocator::{Options, ResponseAllocator, Source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Allocator::host()?;
//! let sources = [Source::pool(&pool, StorageMode::Shared)?, Source::plain()];
//! let allocator = ResponseAllocator::new(sources, &Options::default())?;
//! // TRITONSERVER_InferenceRequestSetResponseCallback(
//! //     request, allocator.as_ptr(), allocator.user_pointer(), complete, complete_userp);
//! println!("{}", allocator.stats());
//! # Ok(())
//! # }
//! ```
//!
//! # Contracts
//!
//! * The allocator lives until every request that was given it has had its last response. Responses
//!   may outlive it.
//! * Callbacks come on any thread, several at once; no panic leaves one.
//! * Whatever Triton does or leaves out, each buffer is freed once: with its response, or at once
//!   where Triton never learns of it.

mod allocator;
mod block;
mod callbacks;
mod counters;
mod error;
mod functions;
mod options;
mod place;
mod source;
mod state;
#[cfg(test)]
mod tests;

pub use allocator::ResponseAllocator;
pub use counters::Stats;
pub use error::{Error, ErrorKind, Result};
pub use functions::Functions;
pub use options::{Options, Order};
pub use place::Place;
pub use source::Source;
pub use weldpool_triton_sys::{MemoryType, ResponseAllocator as TritonResponseAllocator};

/// Compiles the example of the page on the allocator.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/response-allocator.md")]
struct Page;
