//! What crosses the boundary to C: pointers, texts, structures that grow, functions of the caller's, and panics.
//!
//! **The promise of callers.** Exported functions are called from C, which keeps what the header says: a pointer is null
//! or points to what its type and the function's comment say, for as long as the comment says; a handle is not used after
//! it was freed; functions that are passed in do not unwind. Everything here relies on that and on nothing else. No Rust
//! code calls an exported function (the crate has no rlib), so they are not `unsafe` in Rust's sense.

pub mod callback;
pub mod duration;
pub(crate) mod flags;
pub(crate) mod guard;
pub(crate) mod pointer;
pub(crate) mod sized;
pub mod text;
