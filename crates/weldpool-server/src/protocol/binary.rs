//! The bytes behind the JSON part: one blob for each input that gives its size.
//!
//! Blobs follow the order of the inputs and hold their elements as they lie in memory:
//! little-endian, row-major, one byte per boolean, each string behind its 32-bit length. Each is
//! read into a pool buffer of its own, which then is the tensor: nothing copies it again.

use weldpool::{Allocator, Buffer, Request, WriteGuard};

use super::body::Body;
use super::errors;
use super::head::{Input, Source};
use super::limits::Limits;
use crate::config::Served;
use crate::{Error, Result};

/// The blobs of a request, checked against what is known before any is read.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    blobs: Vec<Blob<'a>>,
    model: &'a str,
}

#[derive(Debug)]
struct Blob<'a> {
    input: &'a str,
    bytes: usize,
}

impl<'a> Plan<'a> {
    /// Lays out the blobs of `inputs`. `remaining` is how long the body is behind the JSON part,
    /// if that is known.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the input, if a size does not fit type and shape, all of them
    /// together do not fit `remaining`, or are beyond the limit.
    pub(crate) fn new(
        inputs: &'a [Input],
        remaining: Option<u64>,
        model: &'a Served,
        limits: &Limits,
    ) -> Result<Plan<'a>> {
        let mut blobs = Vec::new();
        let mut total = 0_u64;
        for input in inputs {
            let Source::Binary(size) = input.source else {
                continue;
            };
            total = total
                .checked_add(size)
                .ok_or_else(|| too_large(input, limits))?;
            if let Some(remaining) = remaining.filter(|remaining| total > *remaining) {
                return Err(Error::invalid_argument(format!(
                    "unexpected size for input '{}', expecting {} additional bytes for model '{}'",
                    input.name,
                    total - remaining,
                    model.name()
                )));
            }
            check_size(input, size, model)?;
            let bytes = usize::try_from(size).map_err(|_| too_large(input, limits))?;
            if total > limits.tensor_bytes_max as u64 {
                return Err(too_large(input, limits));
            }
            blobs.push(Blob {
                input: &input.name,
                bytes,
            });
        }
        match remaining {
            Some(remaining) if remaining > total => Err(surplus(model.name())),
            _ => Ok(Plan {
                blobs,
                model: model.name(),
            }),
        }
    }

    /// Reads the blobs, each into new pool memory; `None` where there are no bytes. What is
    /// returned stands in the order of those inputs that have a blob.
    ///
    /// # Errors
    /// As the body, `InvalidArgument` if it is not exactly as long as planned, and `Unavailable`
    /// without memory.
    pub(crate) async fn read<B: Body>(
        self,
        body: &mut B,
        allocator: &Allocator,
    ) -> Result<Vec<Option<Buffer>>> {
        let mut buffers = Vec::with_capacity(self.blobs.len());
        if body.remaining().is_some() {
            for blob in &self.blobs {
                buffers.push(blob.allocate(allocator)?);
            }
            self.fill(body, &mut buffers).await?;
        } else {
            // Whether the blobs are there at all is only known once they are read, so no more
            // memory is taken than what the client really sends asks for.
            for blob in &self.blobs {
                let mut buffer = [blob.allocate(allocator)?];
                self.fill(body, &mut buffer).await.map_err(|error| {
                    errors::within(
                        format_args!("input '{}' for model '{}'", blob.input, self.model),
                        &error,
                    )
                })?;
                buffers.extend(buffer);
            }
        }
        if body.is_at_end().await? {
            Ok(buffers)
        } else {
            Err(surplus(self.model))
        }
    }

    /// Reads from the body into all of `buffers`, in as few calls as the body can.
    async fn fill<B: Body>(&self, body: &mut B, buffers: &mut [Option<Buffer>]) -> Result<()> {
        let mut guards = Vec::with_capacity(buffers.len());
        for buffer in buffers.iter_mut().flatten() {
            let guard: WriteGuard<'_, u8> = buffer.write().map_err(|error| {
                errors::memory(format_args!("a request for model '{}'", self.model), &error)
            })?;
            guards.push(guard);
        }
        let mut destinations: Vec<&mut [u8]> =
            guards.iter_mut().map(|guard| &mut **guard).collect();
        body.read_exact(&mut destinations).await
    }
}

impl Blob<'_> {
    fn allocate(&self, allocator: &Allocator) -> Result<Option<Buffer>> {
        if self.bytes == 0 {
            return Ok(None);
        }
        allocator
            .allocate_with(&Request::new(self.bytes).name("input"))
            .map(Some)
            .map_err(|error| errors::memory(format_args!("input '{}'", self.input), &error))
    }
}

/// Checks the size of a blob whose elements all have the same size.
fn check_size(input: &Input, size: u64, model: &Served) -> Result<()> {
    let Some(element) = input.data_type.byte_size() else {
        return Ok(());
    };
    let expected = (input.count as u64).checked_mul(element as u64);
    if expected == Some(size) {
        return Ok(());
    }
    let expected = expected.map_or_else(
        || "more than can be counted".to_owned(),
        |bytes| bytes.to_string(),
    );
    Err(Error::invalid_argument(format!(
        "input byte size mismatch for input '{}' for model '{}'. Expected {expected}, got {size}",
        input.name,
        model.name()
    )))
}

fn too_large(input: &Input, limits: &Limits) -> Error {
    errors::too_large(format!(
        "input '{}': the tensors of the request take more than {} bytes",
        input.name, limits.tensor_bytes_max
    ))
}

fn surplus(model: &str) -> Error {
    Error::invalid_argument(format!(
        "unexpected additional input data for model '{model}'"
    ))
}
