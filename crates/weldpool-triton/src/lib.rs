//! The `metal_mps` backend of Triton Inference Server: ONNX models, run on memory of a
//! [`weldpool`] pool.
//!
//! Triton loads this library as `libtriton_metal_mps.so` and calls the functions of `exports.rs`;
//! they are all that it exports. docs/triton.md says how to install and configure it.
//!
//! # Contracts
//! - No panic crosses the border: it becomes an error, and the server goes on.
//! - Every request of an execution gets exactly one final response, and is given back once,
//!   whatever fails where (`responder.rs`).
//! - Timestamps in the statistics are in order (`clock.rs`).

mod answer;
mod backend;
mod batch;
mod clock;
mod error;
mod execute;
pub mod exports;
mod faults;
mod few;
mod gather;
mod handles;
mod instance;
mod loads;
mod log;
mod metrics;
mod model;
mod places;
mod responder;
mod run;
mod settings;
mod watch;
