//! Tests of the engine against the real library. `cargo xtask test` sets what they need.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arena;
mod cancellation;
mod errors;
mod loading;
mod reference;
mod running;
mod slices;
mod support;
