//! Functions of `tritonbackend.h`: what a backend calls.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use crate::objects::{
    Attributes, BackendHandle, BufferAttributes, Error, Input, Message, Model, ModelInstance,
    Output, Request, Response,
};
use crate::table::table;
use crate::values::Number;

table! {
    /// What a backend calls.
    Backend, "TRITONBACKEND_";
    api_version = "ApiVersion"(major: *mut u32, minor: *mut u32) -> *mut Error;
    name = "BackendName"(backend: *mut BackendHandle, name: *mut *const c_char) -> *mut Error;
    config = "BackendConfig"(backend: *mut BackendHandle, config: *mut *mut Message) -> *mut Error;
    artifacts = "BackendArtifacts"(
        backend: *mut BackendHandle, artifact: *mut Number, location: *mut *const c_char,
    ) -> *mut Error;
    state = "BackendState"(backend: *mut BackendHandle, state: *mut *mut c_void) -> *mut Error;
    set_state = "BackendSetState"(backend: *mut BackendHandle, state: *mut c_void) -> *mut Error;
    set_parallel_instance_loading = "BackendAttributeSetParallelModelInstanceLoading"(
        attributes: *mut Attributes, enabled: bool,
    ) -> *mut Error;
    add_preferred_instance_group = "BackendAttributeAddPreferredInstanceGroup"(
        attributes: *mut Attributes, kind: Number, count: u64, device_ids: *const u64,
        id_count: u64,
    ) -> *mut Error;

    model_name = "ModelName"(model: *mut Model, name: *mut *const c_char) -> *mut Error;
    model_version = "ModelVersion"(model: *mut Model, version: *mut u64) -> *mut Error;
    model_repository = "ModelRepository"(
        model: *mut Model, artifact: *mut Number, location: *mut *const c_char,
    ) -> *mut Error;
    model_config = "ModelConfig"(
        model: *mut Model, version: u32, config: *mut *mut Message,
    ) -> *mut Error;
    model_set_config = "ModelSetConfig"(
        model: *mut Model, version: u32, config: *mut Message,
    ) -> *mut Error;
    model_auto_complete = "ModelAutoCompleteConfig"(
        model: *mut Model, auto_complete: *mut bool,
    ) -> *mut Error;
    model_backend = "ModelBackend"(
        model: *mut Model, backend: *mut *mut BackendHandle,
    ) -> *mut Error;
    model_state = "ModelState"(model: *mut Model, state: *mut *mut c_void) -> *mut Error;
    model_set_state = "ModelSetState"(model: *mut Model, state: *mut c_void) -> *mut Error;
    model_report_memory_usage = "ModelReportMemoryUsage"(
        model: *mut Model, usage: *mut *mut BufferAttributes, count: u32,
    ) -> *mut Error;

    instance_name = "ModelInstanceName"(
        instance: *mut ModelInstance, name: *mut *const c_char,
    ) -> *mut Error;
    instance_kind = "ModelInstanceKind"(
        instance: *mut ModelInstance, kind: *mut Number,
    ) -> *mut Error;
    instance_model = "ModelInstanceModel"(
        instance: *mut ModelInstance, model: *mut *mut Model,
    ) -> *mut Error;
    instance_state = "ModelInstanceState"(
        instance: *mut ModelInstance, state: *mut *mut c_void,
    ) -> *mut Error;
    instance_set_state = "ModelInstanceSetState"(
        instance: *mut ModelInstance, state: *mut c_void,
    ) -> *mut Error;
    report_statistics = "ModelInstanceReportStatistics"(
        instance: *mut ModelInstance, request: *mut Request, success: bool, exec_start_ns: u64,
        compute_start_ns: u64, compute_end_ns: u64, exec_end_ns: u64,
    ) -> *mut Error;
    report_batch_statistics = "ModelInstanceReportBatchStatistics"(
        instance: *mut ModelInstance, batch_size: u64, exec_start_ns: u64, compute_start_ns: u64,
        compute_end_ns: u64, exec_end_ns: u64,
    ) -> *mut Error;

    request_id = "RequestId"(request: *mut Request, id: *mut *const c_char) -> *mut Error;
    request_is_cancelled = "RequestIsCancelled"(
        request: *mut Request, cancelled: *mut bool,
    ) -> *mut Error;
    request_input_count = "RequestInputCount"(
        request: *mut Request, count: *mut u32,
    ) -> *mut Error;
    request_input_by_index = "RequestInputByIndex"(
        request: *mut Request, index: u32, input: *mut *mut Input,
    ) -> *mut Error;
    request_output_count = "RequestOutputCount"(
        request: *mut Request, count: *mut u32,
    ) -> *mut Error;
    request_output_name = "RequestOutputName"(
        request: *mut Request, index: u32, name: *mut *const c_char,
    ) -> *mut Error;
    request_release = "RequestRelease"(request: *mut Request, flags: u32) -> *mut Error;

    /// Any of the pointers may be null.
    input_properties = "InputProperties"(
        input: *mut Input, name: *mut *const c_char, data_type: *mut Number,
        shape: *mut *const i64, dims_count: *mut u32, byte_size: *mut u64,
        buffer_count: *mut u32,
    ) -> *mut Error;
    input_buffer = "InputBuffer"(
        input: *mut Input, index: u32, buffer: *mut *const c_void, byte_size: *mut u64,
        memory_type: *mut Number, memory_type_id: *mut i64,
    ) -> *mut Error;

    response_new = "ResponseNew"(
        response: *mut *mut Response, request: *mut Request,
    ) -> *mut Error;
    response_delete = "ResponseDelete"(response: *mut Response) -> *mut Error;
    response_output = "ResponseOutput"(
        response: *mut Response, output: *mut *mut Output, name: *const c_char, data_type: Number,
        shape: *const i64, dims_count: u32,
    ) -> *mut Error;
    output_buffer = "OutputBuffer"(
        output: *mut Output, buffer: *mut *mut c_void, byte_size: u64, memory_type: *mut Number,
        memory_type_id: *mut i64,
    ) -> *mut Error;
    response_send = "ResponseSend"(
        response: *mut Response, flags: u32, error: *mut Error,
    ) -> *mut Error;
}
