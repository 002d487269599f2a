//! Triton Inference Server's C API: the part that a backend, a response allocator and a program
//! that embeds the server use.
//!
//! Nothing is linked. A backend is loaded into a process that holds Triton already, and a library
//! with a response allocator must load where there is none; so every function is looked up when it
//! is first wanted ([`Library`]), and the tables ([`Core`], [`Backend`], [`Embedding`]) hold
//! pointers. A table is there as a whole or not at all, and what is missing is named.
//!
//! Signatures and numbers are those of `tritonserver.h` (API 1.34) and `tritonbackend.h`
//! (API 1.19), checked by hand. Numbers that Triton hands out arrive as [`Number`]s, since a value
//! that a Rust enumeration does not know would be undefined behaviour.

mod backend;
mod core;
mod embedding;
mod library;
mod objects;
mod table;
mod values;

pub use backend::Backend;
pub use core::{
    AllocFn, BufferAttributesFn, Core, QueryFn, ReleaseFn, ResponseAllocators, StartFn, error_new,
};
pub use embedding::{Embedding, RequestReleaseFn, ResponseCompleteFn};
pub use library::Library;
pub use objects::{
    Attributes, BackendHandle, BufferAttributes, Error, InferenceRequest, InferenceResponse,
    InferenceTrace, Input, Message, Metric, MetricFamily, Model, ModelInstance, Output, Parameter,
    Request, Response, ResponseAllocator, Server, ServerOptions,
};
pub use table::Missing;
pub use values::{
    ARTIFACT_FILESYSTEM, DataType, ErrorCode, InstanceGroupKind, LogLevel, MemoryType, MetricKind,
    Number, ParameterType, REQUEST_RELEASE_ALL, RESPONSE_COMPLETE_FINAL,
};

/// The major version of the backend API that the tables are of. Triton's must equal it.
pub const BACKEND_API_MAJOR: u32 = 1;

/// The minor version that is demanded: that of Triton 2.51, with which the tables were checked. Which of the functions older
/// versions lack is not known.
pub const BACKEND_API_MINOR: u32 = 19;
