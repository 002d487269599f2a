//! The KServe v2 protocol over HTTP, with Triton's extensions: bodies of requests and answers.
//!
//! This module turns bytes into [`InferRequest`](crate::service::types::InferRequest)s and answers
//! into bytes. It knows nothing of paths and of connections, and runs no model.
//!
//! A request for inference is JSON, followed by one blob for each input that gives its size; or
//! it is nothing but the elements of the only input. Each blob is read from the connection into a
//! pool buffer of its own, which then is the tensor. Blobs of an answer are views of the memory
//! that the model wrote. JSON tensors are parsed into their pool buffers without a tree between.

mod binary;
mod body;
mod classification;
mod elements;
mod errors;
mod head;
mod json;
mod limits;
mod metadata;
mod parameters;
mod raw;
mod repository;
mod request;
mod response;

#[cfg(test)]
mod tests;

pub use limits::Limits;

pub(crate) use body::Body;
pub(crate) use errors::body as error_body;
pub(crate) use metadata::{json as to_json, model as model_metadata, server as server_metadata};
pub(crate) use repository::{index, read_index, read_load, read_unload};
pub(crate) use request::{Context, Decoded, Layout, read};
pub(crate) use response::{Encoded, Form, Model};
