//! The response allocator in a real Triton Inference Server, which runs within this process.
//!
//! Triton's library comes out of a pinned wheel, which exists for Linux x86_64 with glibc; elsewhere there is nothing to
//! test against, and the tests say so. `cargo xtask test` prepares what they need.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod failures;
mod in_c;
mod outputs;
mod places;
mod threads;
mod triton;
