//! What the operating system tells of memory and processors.

#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(target_os = "macos", test))]
mod pages;

#[cfg(target_os = "linux")]
pub(in crate::device) use self::linux::{budget, list, node_memory, numa_nodes, processor_name};
#[cfg(target_os = "macos")]
pub(in crate::device) use self::macos::{budget, numa_nodes, processor_name};
#[cfg(target_os = "macos")]
pub(super) use self::pages::Pages;
