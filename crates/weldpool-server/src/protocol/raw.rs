//! Raw requests: a body that is nothing but the elements of the model's only input.
//!
//! The model says the type; the shape follows from it and from the length of the body. The batch,
//! where there is one, is 1. A model that takes strings must take exactly one, and gets the body.

use weldpool::{Allocator, Buffer, Request};
use weldpool_engine::{DataType, Tensor};

use super::body::Body;
use super::elements::{ShapeText, copied};
use super::errors;
use super::limits::Limits;
use crate::config::{Served, TensorConfig};
use crate::service::types::{InputTensor, Parameters};
use crate::{Error, Result};

/// Bytes in front of a string: its length.
const LENGTH_BYTES: usize = 4;

/// Reads a raw request.
///
/// # Errors
/// `InvalidArgument` if the model has not exactly one input, or its shape does not follow from
/// the length; as the body; `Unavailable` without memory.
pub(crate) async fn read<B: Body>(
    body: &mut B,
    model: &Served,
    allocator: &Allocator,
    limits: &Limits,
) -> Result<InputTensor> {
    let input = only_input(model)?;
    let subject = format!("input '{}'", input.name);
    let prefix = if input.data_type == DataType::Bytes {
        LENGTH_BYTES
    } else {
        0
    };
    let (data, bytes) = match body.remaining() {
        Some(bytes) => direct(body, &subject, bytes, prefix, allocator, limits).await?,
        None => gathered(body, &subject, prefix, allocator, limits).await?,
    };
    let shape = deduced_shape(model, input, bytes)?;
    let tensor = Tensor::new(input.data_type, shape, data.map(Buffer::share))
        .map_err(|error| errors::tensor(&subject, &error))?;
    Ok(InputTensor {
        name: input.name.clone(),
        tensor,
        parameters: Parameters::new(),
    })
}

/// The model's input, if it has one and its shape can be deduced from a length.
fn only_input(model: &Served) -> Result<&TensorConfig> {
    let [input] = model.inputs() else {
        return Err(Error::invalid_argument(format!(
            "a raw request needs a model with exactly 1 input, but model '{}' has {}",
            model.name(),
            model.inputs().len()
        )));
    };
    let dimensions = own_dimensions(model, input);
    if input.data_type == DataType::Bytes && dimensions != [1] {
        return Err(Error::invalid_argument(format!(
            "raw input '{}' for model '{}' takes strings, so its shape must be [1], but it is {}",
            input.name,
            model.name(),
            ShapeText(dimensions)
        )));
    }
    if dimensions.iter().filter(|size| **size < 0).count() > 1 {
        return Err(Error::invalid_argument(format!(
            "the shape of raw input '{}' for model '{}' cannot be deduced, because more than one of its dimensions \
             {} are variable",
            input.name,
            model.name(),
            ShapeText(dimensions)
        )));
    }
    Ok(input)
}

/// Whether the first dimension of every shape is the batch.
fn is_batched(model: &Served) -> bool {
    model.max_batch_size() > 0
}

/// The dimensions without the batch.
fn own_dimensions<'a>(model: &Served, input: &'a TensorConfig) -> &'a [i64] {
    let batch = usize::from(is_batched(model));
    input.shape.get(batch..).unwrap_or_default()
}

/// Reads a body of known length where it is to stay.
async fn direct<B: Body>(
    body: &mut B,
    subject: &str,
    bytes: u64,
    prefix: usize,
    allocator: &Allocator,
    limits: &Limits,
) -> Result<(Option<Buffer>, usize)> {
    let bytes = usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= limits.tensor_bytes_max);
    let bytes = bytes.ok_or_else(|| {
        errors::too_large(format!(
            "{subject}: more than {} bytes",
            limits.tensor_bytes_max
        ))
    })?;
    if prefix + bytes == 0 {
        return Ok((None, 0));
    }
    let mut buffer = allocator
        .allocate_with(&Request::new(prefix + bytes).name("input"))
        .map_err(|error| errors::memory(subject, &error))?;
    {
        let mut room = buffer
            .write::<u8>()
            .map_err(|error| errors::memory(subject, &error))?;
        let (head, elements) = room.split_at_mut(prefix);
        write_length(head, bytes, subject)?;
        body.read_exact(&mut [elements]).await?;
    }
    Ok((Some(buffer), bytes))
}

/// Reads a body whose length shows at its end, which costs a copy.
async fn gathered<B: Body>(
    body: &mut B,
    subject: &str,
    prefix: usize,
    allocator: &Allocator,
    limits: &Limits,
) -> Result<(Option<Buffer>, usize)> {
    let elements = body.read_to_end(limits.tensor_bytes_max).await?;
    let bytes = elements.len();
    if prefix == 0 {
        return Ok((copied(subject, &elements, allocator)?, bytes));
    }
    let mut string = vec![0; prefix];
    write_length(&mut string, bytes, subject)?;
    string.extend_from_slice(&elements);
    Ok((copied(subject, &string, allocator)?, bytes))
}

/// Writes the length of a string into the room before it, where there is room.
fn write_length(head: &mut [u8], bytes: usize, subject: &str) -> Result<()> {
    if head.is_empty() {
        return Ok(());
    }
    let length = u32::try_from(bytes).map_err(|_| {
        errors::too_large(format!("{subject}: a string must be shorter than 4 GiB"))
    })?;
    head.copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// The shape, batch included, of an input that takes `bytes` bytes.
fn deduced_shape(model: &Served, input: &TensorConfig, bytes: usize) -> Result<Vec<usize>> {
    let mut shape = Vec::with_capacity(input.shape.len());
    if is_batched(model) {
        shape.push(1);
    }
    let element = input.data_type.byte_size();
    // How many bytes one step of the variable dimension takes, or the whole without one.
    let step = own_dimensions(model, input)
        .iter()
        .filter_map(|size| usize::try_from(*size).ok())
        .try_fold(element.unwrap_or(1), usize::checked_mul);
    for size in own_dimensions(model, input) {
        let variable = || match step {
            Some(step) if step > 0 => bytes / step,
            _ => 0,
        };
        shape.push(usize::try_from(*size).unwrap_or_else(|_| variable()));
    }
    let expected = shape
        .iter()
        .try_fold(element.unwrap_or(1), |product, size| {
            product.checked_mul(*size)
        });
    if element.is_none() || expected == Some(bytes) {
        return Ok(shape);
    }
    Err(Error::invalid_argument(format!(
        "input byte size mismatch for input '{}' for model '{}': {bytes} bytes do not make a tensor of {} and shape {}",
        input.name,
        model.name(),
        input.data_type,
        ShapeText(&input.shape)
    )))
}
