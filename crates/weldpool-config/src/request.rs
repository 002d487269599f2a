//! Whether the tensors of a request are those that the configuration declares.
//!
//! Messages are Triton's, without the `[request id: ...] ` that it puts before most of them.

use weldpool_engine::DataType;

use super::Served;
use super::error::{Error, ErrorKind, Result, ShapeText};
use super::tensor::TensorConfig;

/// What is checked of one input of a request.
#[derive(Clone, Copy, Debug)]
pub struct InputShape<'a> {
    /// The input's name.
    pub name: &'a str,
    /// The type of its elements.
    pub data_type: DataType,
    /// Its shape, with the batch dimension if the model is batched.
    pub shape: &'a [usize],
}

/// What Triton adds when a shape is wrong and the model is batched.
const BATCH_NOTE: &str = "NOTE: Setting a non-zero max_batch_size in the model config requires a \
     batch dimension to be prepended to each input shape. If you want to specify the full shape \
     including the batch dim in your input dims config, try setting max_batch_size to zero. See \
     the model configuration docs for more info on max_batch_size.";

fn wrong(message: impl Into<String>, tensor: &str) -> Error {
    Error::new(ErrorKind::Request, message).about_tensor(tensor)
}

impl Served {
    /// Checks names, types and shapes of the inputs of a request, and returns its batch size: the
    /// first dimension of every input, or 1 if the model is not batched.
    ///
    /// # Errors
    /// `Request`, naming the input, and what was expected and what came.
    pub fn check_inputs(&self, inputs: &[InputShape<'_>]) -> Result<usize> {
        let model = self.name();
        for (index, input) in inputs.iter().enumerate() {
            let declared = self.input(input.name).ok_or_else(|| {
                wrong(
                    format!(
                        "unexpected inference input '{}' for model '{model}'",
                        input.name
                    ),
                    input.name,
                )
            })?;
            if inputs[..index]
                .iter()
                .any(|earlier| earlier.name == input.name)
            {
                return Err(wrong(
                    format!("input '{}' already exists in request", input.name),
                    input.name,
                ));
            }
            if input.data_type != declared.data_type {
                return Err(wrong(
                    format!(
                        "inference input '{}' data-type is '{}', but model '{model}' expects '{}'",
                        input.name, input.data_type, declared.data_type
                    ),
                    input.name,
                ));
            }
        }
        self.check_all_present(inputs)?;
        let batch_size = self.check_batch(inputs)?;
        for input in inputs {
            if let Some(declared) = self.input(input.name) {
                self.check_shape(declared, input.shape)?;
            }
        }
        Ok(batch_size)
    }

    /// Finds an output that a request asks for.
    ///
    /// # Errors
    /// `Request` if the model has no output of this name.
    pub fn check_output(&self, name: &str) -> Result<&TensorConfig> {
        self.output(name).ok_or_else(|| {
            wrong(
                format!(
                    "unexpected inference output '{name}' for model '{}'",
                    self.name()
                ),
                name,
            )
        })
    }

    fn check_all_present(&self, inputs: &[InputShape<'_>]) -> Result<()> {
        let missing: Vec<&str> = self
            .inputs()
            .iter()
            .filter(|declared| !declared.optional)
            .map(|declared| declared.name.as_str())
            .filter(|name| inputs.iter().all(|input| input.name != *name))
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let quoted = |names: Vec<&str>| {
            let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            quoted.join(",")
        };
        Err(wrong(
            format!(
                "expected {} inputs but got {} inputs for model '{}'. Got input(s) [{}], but \
                 missing required input(s) [{}]. Please provide all required input(s).",
                self.inputs().len(),
                inputs.len(),
                self.name(),
                quoted(inputs.iter().map(|input| input.name).collect()),
                quoted(missing.clone()),
            ),
            first,
        ))
    }

    fn check_batch(&self, inputs: &[InputShape<'_>]) -> Result<usize> {
        let model = self.name();
        let max = self.max_batch_size();
        if max == 0 {
            return Ok(1);
        }
        let mut batch_size = None;
        for input in inputs {
            let Some(size) = input.shape.first() else {
                return Err(wrong(
                    format!(
                        "input '{}' has no shape but model requires batch dimension for '{model}'",
                        input.name
                    ),
                    input.name,
                ));
            };
            if batch_size.is_some_and(|batch_size| batch_size != *size) {
                return Err(wrong(
                    format!(
                        "input '{}' batch size does not match other inputs for '{model}'",
                        input.name
                    ),
                    input.name,
                ));
            }
            batch_size = Some(*size);
        }
        let batch_size = batch_size.unwrap_or(1);
        let bound = if batch_size == 0 {
            ">= 1".to_owned()
        } else if batch_size > max {
            format!("<= {max}")
        } else {
            return Ok(batch_size);
        };
        Err(Error::new(
            ErrorKind::Request,
            format!("inference request batch-size must be {bound} for '{model}'"),
        ))
    }

    fn check_shape(&self, declared: &TensorConfig, shape: &[usize]) -> Result<()> {
        let fits = declared.shape.len() == shape.len()
            && declared.shape.iter().zip(shape).all(|(declared, size)| {
                match usize::try_from(*declared) {
                    Ok(declared) => declared == *size,
                    Err(_) => true,
                }
            });
        if fits {
            return Ok(());
        }
        let got: Vec<i64> = shape
            .iter()
            .map(|size| i64::try_from(*size).unwrap_or(i64::MAX))
            .collect();
        Err(wrong(
            format!(
                "unexpected shape for input '{}' for model '{}'. Expected {}, got {}. {}",
                declared.name,
                self.name(),
                ShapeText(&declared.shape),
                ShapeText(&got),
                if self.max_batch_size() > 0 {
                    BATCH_NOTE
                } else {
                    ""
                },
            ),
            &declared.name,
        ))
    }
}
