//! `libweldpool`: the memory manager for programs that are not written in Rust.
//!
//! Functions are declared in `include/weldpool.h`, which `cargo xtask header` writes from these sources, comments
//! included, in the order of the modules below. None unwinds into its caller. What may fail returns an object
//! ([`failure`]); the functions of PyTorch's interface (`torch`), whose form is PyTorch's, note a text
//! ([`last_error`]).

pub mod version;

pub mod failure;

pub mod abi;

pub mod runtime;

pub mod device;

pub mod config;
pub mod strategy;

pub mod allocator;
pub mod request;
pub mod storage;

pub mod buffer;

pub mod access;

pub mod address;

pub mod queue;
mod streams;

pub mod fence;

pub mod external;

pub mod stats;
pub mod texts;

pub mod pressure;

pub mod out_of_memory;

pub mod trace;

pub mod triton;

pub mod last_error;

#[cfg(target_os = "linux")]
pub mod torch;

#[cfg(target_os = "linux")]
mod frees;

#[cfg(test)]
mod faults;

/// Handles are used on any thread, on several at once.
const _: () = {
    const fn thread_safe<T: Send + Sync>() {}
    thread_safe::<failure::ErrorObject>();
    thread_safe::<runtime::RuntimeHandle>();
    thread_safe::<device::DeviceHandle>();
    thread_safe::<strategy::StrategyHandle>();
    thread_safe::<allocator::AllocatorHandle>();
    thread_safe::<buffer::BufferHandle>();
    thread_safe::<access::GuardHandle>();
    thread_safe::<queue::QueueHandle>();
    thread_safe::<fence::FenceHandle>();
    thread_safe::<external::SubmissionHandle>();
    thread_safe::<out_of_memory::CallbackHandle>();
    thread_safe::<triton::ResponseAllocatorHandle>();
};
