//! Functions of `tritonserver.h` that any client of Triton's uses: errors, messages, logging, metrics,
//! attributes of buffers, and response allocators.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

use crate::library::Library;
use crate::objects::{
    BufferAttributes, Error, Message, Metric, MetricFamily, Parameter, ResponseAllocator,
};
use crate::table::table;
use crate::values::Number;

/// `TRITONSERVER_ResponseAllocatorAllocFn_t`.
pub type AllocFn = unsafe extern "C" fn(
    allocator: *mut ResponseAllocator,
    tensor_name: *const c_char,
    byte_size: usize,
    memory_type: Number,
    memory_type_id: i64,
    userp: *mut c_void,
    buffer: *mut *mut c_void,
    buffer_userp: *mut *mut c_void,
    actual_memory_type: *mut Number,
    actual_memory_type_id: *mut i64,
) -> *mut Error;

/// `TRITONSERVER_ResponseAllocatorBufferAttributesFn_t`.
pub type BufferAttributesFn = unsafe extern "C" fn(
    allocator: *mut ResponseAllocator,
    tensor_name: *const c_char,
    buffer_attributes: *mut BufferAttributes,
    userp: *mut c_void,
    buffer_userp: *mut c_void,
) -> *mut Error;

/// `TRITONSERVER_ResponseAllocatorQueryFn_t`; the name and the size may be null.
pub type QueryFn = unsafe extern "C" fn(
    allocator: *mut ResponseAllocator,
    userp: *mut c_void,
    tensor_name: *const c_char,
    byte_size: *mut usize,
    memory_type: *mut Number,
    memory_type_id: *mut i64,
) -> *mut Error;

/// `TRITONSERVER_ResponseAllocatorReleaseFn_t`.
pub type ReleaseFn = unsafe extern "C" fn(
    allocator: *mut ResponseAllocator,
    buffer: *mut c_void,
    buffer_userp: *mut c_void,
    byte_size: usize,
    memory_type: Number,
    memory_type_id: i64,
) -> *mut Error;

/// `TRITONSERVER_ResponseAllocatorStartFn_t`.
pub type StartFn =
    unsafe extern "C" fn(allocator: *mut ResponseAllocator, userp: *mut c_void) -> *mut Error;

table! {
    /// Errors, messages, logging, metrics, attributes of buffers.
    Core, "TRITONSERVER_";
    error_new = "ErrorNew"(code: Number, message: *const c_char) -> *mut Error;
    error_delete = "ErrorDelete"(error: *mut Error);
    error_code = "ErrorCode"(error: *mut Error) -> Number;
    error_message = "ErrorMessage"(error: *mut Error) -> *const c_char;
    log_is_enabled = "LogIsEnabled"(level: Number) -> bool;
    log_message = "LogMessage"(
        level: Number, filename: *const c_char, line: c_int, message: *const c_char,
    ) -> *mut Error;
    message_from_json = "MessageNewFromSerializedJson"(
        message: *mut *mut Message, base: *const c_char, byte_size: usize,
    ) -> *mut Error;
    message_to_json = "MessageSerializeToJson"(
        message: *mut Message, base: *mut *const c_char, byte_size: *mut usize,
    ) -> *mut Error;
    message_delete = "MessageDelete"(message: *mut Message) -> *mut Error;
    parameter_new = "ParameterNew"(
        name: *const c_char, kind: Number, value: *const c_void,
    ) -> *mut Parameter;
    parameter_delete = "ParameterDelete"(parameter: *mut Parameter);
    metric_family_new = "MetricFamilyNew"(
        family: *mut *mut MetricFamily, kind: Number, name: *const c_char,
        description: *const c_char,
    ) -> *mut Error;
    metric_family_delete = "MetricFamilyDelete"(family: *mut MetricFamily) -> *mut Error;
    metric_new = "MetricNew"(
        metric: *mut *mut Metric, family: *mut MetricFamily, labels: *mut *const Parameter,
        label_count: u64,
    ) -> *mut Error;
    metric_delete = "MetricDelete"(metric: *mut Metric) -> *mut Error;
    metric_set = "MetricSet"(metric: *mut Metric, value: f64) -> *mut Error;
    metric_increment = "MetricIncrement"(metric: *mut Metric, by: f64) -> *mut Error;
    buffer_attributes_new = "BufferAttributesNew"(
        attributes: *mut *mut BufferAttributes,
    ) -> *mut Error;
    buffer_attributes_delete = "BufferAttributesDelete"(
        attributes: *mut BufferAttributes,
    ) -> *mut Error;
    buffer_attributes_set_memory_type = "BufferAttributesSetMemoryType"(
        attributes: *mut BufferAttributes, memory_type: Number,
    ) -> *mut Error;
    buffer_attributes_set_memory_type_id = "BufferAttributesSetMemoryTypeId"(
        attributes: *mut BufferAttributes, memory_type_id: i64,
    ) -> *mut Error;
    buffer_attributes_set_byte_size = "BufferAttributesSetByteSize"(
        attributes: *mut BufferAttributes, byte_size: usize,
    ) -> *mut Error;
}

table! {
    /// Response allocators, and the few other functions that one needs, since a program that embeds
    /// Triton may have an older one than backends need.
    ResponseAllocators, "TRITONSERVER_";
    error_new = "ErrorNew"(code: Number, message: *const c_char) -> *mut Error;
    error_delete = "ErrorDelete"(error: *mut Error);
    error_message = "ErrorMessage"(error: *mut Error) -> *const c_char;
    set_memory_type = "BufferAttributesSetMemoryType"(
        attributes: *mut BufferAttributes, memory_type: Number,
    ) -> *mut Error;
    set_memory_type_id = "BufferAttributesSetMemoryTypeId"(
        attributes: *mut BufferAttributes, memory_type_id: i64,
    ) -> *mut Error;
    set_byte_size = "BufferAttributesSetByteSize"(
        attributes: *mut BufferAttributes, byte_size: usize,
    ) -> *mut Error;
    new = "ResponseAllocatorNew"(
        allocator: *mut *mut ResponseAllocator, alloc: AllocFn, release: ReleaseFn,
        start: Option<StartFn>,
    ) -> *mut Error;
    set_buffer_attributes_function = "ResponseAllocatorSetBufferAttributesFunction"(
        allocator: *mut ResponseAllocator, function: BufferAttributesFn,
    ) -> *mut Error;
    set_query_function = "ResponseAllocatorSetQueryFunction"(
        allocator: *mut ResponseAllocator, function: QueryFn,
    ) -> *mut Error;
    delete = "ResponseAllocatorDelete"(allocator: *mut ResponseAllocator) -> *mut Error;
}

/// `TRITONSERVER_ErrorNew` alone, for a process in which other functions are missing.
#[must_use]
pub fn error_new(
    library: Library,
) -> Option<unsafe extern "C" fn(code: Number, message: *const c_char) -> *mut Error> {
    library.symbol(c"TRITONSERVER_ErrorNew").map(|found| {
        // SAFETY: Triton exports a function of this signature under this name.
        unsafe { std::mem::transmute::<NonNull<c_void>, _>(found) }
    })
}
