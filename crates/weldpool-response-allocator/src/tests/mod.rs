//! The callbacks as Triton's core calls them, without Triton: each rule of its API by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;
mod rules;
mod sources;
