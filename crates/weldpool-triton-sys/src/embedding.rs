//! Functions of `tritonserver.h` with which a program runs the server within itself and sends it
//! requests: what the tests of the response allocator do.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use crate::objects::{
    Error, InferenceRequest, InferenceResponse, InferenceTrace, ResponseAllocator, Server,
    ServerOptions,
};
use crate::table::table;
use crate::values::Number;

/// `TRITONSERVER_InferenceRequestReleaseFn_t`.
pub type RequestReleaseFn =
    unsafe extern "C" fn(request: *mut InferenceRequest, flags: u32, userp: *mut c_void);

/// `TRITONSERVER_InferenceResponseCompleteFn_t`; the response is null with the last flags alone.
pub type ResponseCompleteFn =
    unsafe extern "C" fn(response: *mut InferenceResponse, flags: u32, userp: *mut c_void);

table! {
    /// A server within this process, its requests and its answers.
    Embedding, "TRITONSERVER_";
    options_new = "ServerOptionsNew"(options: *mut *mut ServerOptions) -> *mut Error;
    options_delete = "ServerOptionsDelete"(options: *mut ServerOptions) -> *mut Error;
    options_set_repository = "ServerOptionsSetModelRepositoryPath"(
        options: *mut ServerOptions, path: *const c_char,
    ) -> *mut Error;
    options_set_backend_directory = "ServerOptionsSetBackendDirectory"(
        options: *mut ServerOptions, path: *const c_char,
    ) -> *mut Error;
    options_set_log_info = "ServerOptionsSetLogInfo"(
        options: *mut ServerOptions, log: bool,
    ) -> *mut Error;
    server_new = "ServerNew"(
        server: *mut *mut Server, options: *mut ServerOptions,
    ) -> *mut Error;
    server_stop = "ServerStop"(server: *mut Server) -> *mut Error;
    server_delete = "ServerDelete"(server: *mut Server) -> *mut Error;
    server_infer_async = "ServerInferAsync"(
        server: *mut Server, request: *mut InferenceRequest, trace: *mut InferenceTrace,
    ) -> *mut Error;

    request_new = "InferenceRequestNew"(
        request: *mut *mut InferenceRequest, server: *mut Server, model: *const c_char,
        version: i64,
    ) -> *mut Error;
    request_delete = "InferenceRequestDelete"(request: *mut InferenceRequest) -> *mut Error;
    request_add_input = "InferenceRequestAddInput"(
        request: *mut InferenceRequest, name: *const c_char, data_type: Number,
        shape: *const i64, dim_count: u64,
    ) -> *mut Error;
    request_append_input_data = "InferenceRequestAppendInputData"(
        request: *mut InferenceRequest, name: *const c_char, base: *const c_void,
        byte_size: usize, memory_type: Number, memory_type_id: i64,
    ) -> *mut Error;
    request_set_release_callback = "InferenceRequestSetReleaseCallback"(
        request: *mut InferenceRequest, function: RequestReleaseFn, userp: *mut c_void,
    ) -> *mut Error;
    request_set_response_callback = "InferenceRequestSetResponseCallback"(
        request: *mut InferenceRequest, allocator: *mut ResponseAllocator,
        allocator_userp: *mut c_void, function: ResponseCompleteFn, userp: *mut c_void,
    ) -> *mut Error;

    response_error = "InferenceResponseError"(response: *mut InferenceResponse) -> *mut Error;
    response_output_count = "InferenceResponseOutputCount"(
        response: *mut InferenceResponse, count: *mut u32,
    ) -> *mut Error;
    response_output = "InferenceResponseOutput"(
        response: *mut InferenceResponse, index: u32, name: *mut *const c_char,
        data_type: *mut Number, shape: *mut *const i64, dim_count: *mut u64,
        base: *mut *const c_void, byte_size: *mut usize, memory_type: *mut Number,
        memory_type_id: *mut i64, userp: *mut *mut c_void,
    ) -> *mut Error;
    response_delete = "InferenceResponseDelete"(response: *mut InferenceResponse) -> *mut Error;
}
