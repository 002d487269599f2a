//! The programs Weldpool is measured against, pinned by hash and kept out of every product's dependencies.

pub mod fetch;
pub mod perf_analyzer;
pub mod triton;
