//! `libweldpool`: the memory manager for programs that are not written in Rust.
//!
//! Functions are declared in `include/weldpool.h`. None unwinds into its caller: what goes wrong is a null
//! pointer or a number other than zero, and [`weldpool_last_error`](error::weldpool_last_error) says what.

pub mod error;
#[cfg(target_os = "linux")]
mod frees;
#[cfg(target_os = "linux")]
pub mod torch;
