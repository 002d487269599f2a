//! libweldpool as its users have it: installed, found by pkg-config, compiled against with warnings as errors, and run,
//! plainly, under AddressSanitizer, and under valgrind where that is installed.
//!
//! The installation is made by `cargo xtask install-c`, once for all tests, with the profile of the tests.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod build;
mod examples;
mod exports;
mod installed;
mod page;
mod triton;
