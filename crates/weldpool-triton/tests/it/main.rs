//! The backend in a real Triton Inference Server, driven by real clients.
//!
//! Triton comes out of a pinned wheel, which exists for Linux x86_64 with glibc; elsewhere there is nothing to
//! test against, and the tests say so. `cargo xtask test` prepares what they need.

mod backend;
mod python;
mod symbols;
