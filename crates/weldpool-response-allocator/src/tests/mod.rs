//! The callbacks as Triton's core calls them, without Triton: each rule of its API by itself.

mod fake;
mod rules;
mod sources;
