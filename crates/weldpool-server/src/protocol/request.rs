//! Reads the body of a request for inference.

use std::time::Instant;

use weldpool::{Allocator, Buffer};
use weldpool_engine::Tensor;

use super::binary::Plan;
use super::body::Body;
use super::errors;
use super::head::{Head, Input, Rejected, Source};
use super::limits::Limits;
use super::raw;
use super::response::Form;
use crate::config::{InputShape, Served};
use crate::service::types::{InferRequest, InputTensor, Parameters};
use crate::{Error, Result};

/// A JSON part longer than this is parsed on a thread that may take its time.
const INLINE_JSON_BYTES_MAX: usize = 256 << 10;

/// How a body is divided, from its header `Inference-Header-Content-Length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// There is no such header: all of the body is JSON.
    Json,
    /// The value is 0: all of the body is the only input's elements.
    Raw,
    /// This many bytes of JSON come first, and blobs follow.
    Binary(u64),
}

impl Layout {
    /// Reads the value of the header, if it was sent.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not a whole number.
    pub(crate) fn of_header(value: Option<&[u8]>) -> Result<Layout> {
        let Some(value) = value else {
            return Ok(Layout::Json);
        };
        let text = std::str::from_utf8(value).unwrap_or_default().trim();
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse().ok().filter(|_| digits) {
            Some(0) => Ok(Layout::Raw),
            Some(length) => Ok(Layout::Binary(length)),
            None => Err(Error::invalid_argument(format!(
                "the header Inference-Header-Content-Length is '{}', which is not a number of bytes",
                String::from_utf8_lossy(value).escape_debug()
            ))),
        }
    }
}

/// What a request is read with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) model: &'a Served,
    pub(crate) allocator: &'a Allocator,
    pub(crate) limits: &'a Limits,
    /// When the first byte of the request was seen.
    pub(crate) arrival: Instant,
}

/// A request, and the form in which its answer is wanted.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) request: InferRequest,
    pub(crate) form: Form,
}

/// Reads a request from `body` and checks it against the model.
///
/// Names, types, shapes and sizes are checked before a blob is read. What is left of the body
/// after an error is not read.
///
/// # Errors
/// `InvalidArgument` for anything the client got wrong, with a message that names the tensor and
/// begins with the request's id if it has one; `PayloadTooLarge` beyond a limit on sizes;
/// `Unsupported` for shared memory; `Unavailable` if there is no memory; and as the body.
pub(crate) async fn read<B: Body>(
    body: &mut B,
    layout: Layout,
    context: Context<'_>,
) -> Result<Decoded> {
    let json = match layout {
        Layout::Raw => return read_raw(body, context).await,
        Layout::Json => body.read_to_end(context.limits.json_bytes_max).await?,
        Layout::Binary(length) => read_json(body, length, context.limits).await?,
    };
    if json.is_empty() {
        return Err(Error::invalid_argument("the request has no body"));
    }
    match parse(json, context).await {
        Ok(head) => {
            let id = head.id.clone();
            read_rest(body, head, context)
                .await
                .map_err(|error| with_id(&id, error))
        }
        Err(rejected) => Err(with_id(&rejected.id, rejected.error)),
    }
}

async fn read_raw<B: Body>(body: &mut B, context: Context<'_>) -> Result<Decoded> {
    let input = raw::read(body, context.model, context.allocator, context.limits).await?;
    Ok(Decoded {
        form: Form::all(true),
        request: InferRequest {
            id: String::new(),
            parameters: Parameters::new(),
            priority: 0,
            timeout: None,
            inputs: vec![input],
            outputs: Vec::new(),
            arrival: context.arrival,
        },
    })
}

/// Reads the JSON part that blobs follow.
async fn read_json<B: Body>(body: &mut B, length: u64, limits: &Limits) -> Result<Vec<u8>> {
    if let Some(remaining) = body.remaining().filter(|remaining| length > *remaining) {
        return Err(Error::invalid_argument(format!(
            "inference header size should be in range (0, {remaining}), got: {length}"
        )));
    }
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= limits.json_bytes_max);
    let length = length.ok_or_else(|| {
        errors::too_large(format!(
            "the JSON part is longer than {} bytes",
            limits.json_bytes_max
        ))
    })?;
    let mut json = vec![0; length];
    body.read_exact(&mut [&mut json]).await?;
    Ok(json)
}

async fn parse(json: Vec<u8>, context: Context<'_>) -> std::result::Result<Head, Rejected> {
    if json.len() <= INLINE_JSON_BYTES_MAX {
        return Head::parse(&json, context.allocator, context.limits);
    }
    let allocator = context.allocator.clone();
    let limits = context.limits.clone();
    tokio::task::spawn_blocking(move || Head::parse(&json, &allocator, &limits))
        .await
        .unwrap_or_else(|_| {
            Err(Rejected {
                error: Error::internal("the request was not parsed"),
                id: String::new(),
            })
        })
}

async fn read_rest<B: Body>(body: &mut B, head: Head, context: Context<'_>) -> Result<Decoded> {
    let plan = Plan::new(
        &head.inputs,
        body.remaining(),
        context.model,
        context.limits,
    )?;
    let given: Vec<InputShape<'_>> = head
        .inputs
        .iter()
        .map(|input| InputShape {
            name: &input.name,
            data_type: input.data_type,
            shape: &input.shape,
        })
        .collect();
    context
        .model
        .check_inputs(&given)
        .map_err(|error| errors::mismatch(&error))?;
    for output in &head.outputs {
        context
            .model
            .check_output(&output.name)
            .map_err(|error| errors::mismatch(&error))?;
    }
    let blobs = plan.read(body, context.allocator).await?;
    let form = Form::new(head.options.binary_data_output, &head.outputs);
    Ok(Decoded {
        request: InferRequest {
            id: head.id,
            parameters: head.options.parameters,
            priority: head.options.priority,
            timeout: head.options.timeout,
            inputs: tensors(head.inputs, blobs)?,
            outputs: head.outputs,
            arrival: context.arrival,
        },
        form,
    })
}

/// Puts each blob to the input it belongs to.
fn tensors(inputs: Vec<Input>, blobs: Vec<Option<Buffer>>) -> Result<Vec<InputTensor>> {
    let mut blobs = blobs.into_iter();
    let tensor = |input: Input| {
        let tensor = match input.source {
            Source::Json(tensor) => tensor,
            Source::Binary(_) => {
                let data = blobs.next().flatten().map(Buffer::share);
                Tensor::new(input.data_type, input.shape, data).map_err(|error| {
                    errors::tensor(format_args!("input '{}'", input.name), &error)
                })?
            }
        };
        Ok(InputTensor {
            name: input.name,
            tensor,
            parameters: input.parameters,
        })
    };
    inputs.into_iter().map(tensor).collect()
}

/// Tells which request an error is about.
fn with_id(id: &str, error: Error) -> Error {
    if id.is_empty() {
        return error;
    }
    Error::new(error.kind(), format!("[request id: {id}] {error}"))
}
