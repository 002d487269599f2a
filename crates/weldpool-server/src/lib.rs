//! See the crate description in Cargo.toml.

pub mod config;
pub mod repository;
