//! Tests of the engine against the real library. `cargo xtask test` sets what they need.

mod arena;
mod errors;
mod loading;
mod reference;
mod running;
mod support;
