//! The program as its users run it. `cargo xtask test` sets what these tests need.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod devices;
mod doctor;
mod environment;
mod infer;
mod lifecycle;
mod models;
#[cfg(unix)]
mod output;
mod replay;
mod server;
mod start;
#[cfg(unix)]
mod terminal;
mod trace;
