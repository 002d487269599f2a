//! Filling in inputs, outputs and batching from the model, and comparing what was given with it.

use std::fmt;

use weldpool_engine::{DataType, Dim, TensorSpec};

use super::error::{Error, ErrorKind, Result, ShapeText};
use super::proto::model_config::SchedulingChoice;
use super::proto::{
    self, ModelConfig, ModelDynamicBatching, ModelInput, ModelOutput, ModelTensorReshape,
};
use super::validate::{engine_type, schema_type};

/// What the model says about itself.
#[derive(Clone, Copy, Debug)]
pub struct ModelSignature<'a> {
    /// The inputs that a run needs.
    pub inputs: &'a [TensorSpec],
    /// The inputs that a run may leave out. They are served where a configuration names them.
    pub optional_inputs: &'a [TensorSpec],
    /// Its outputs.
    pub outputs: &'a [TensorSpec],
}

impl<'a> ModelSignature<'a> {
    /// An input by its name, whether a run needs it or not.
    pub(super) fn input(&self, name: &str) -> Option<&'a TensorSpec> {
        let mut inputs = self.inputs.iter().chain(self.optional_inputs);
        inputs.find(|spec| spec.name == name)
    }

    /// Whether a run needs the input.
    fn requires(&self, name: &str) -> bool {
        self.inputs.iter().any(|spec| spec.name == name)
    }

    /// Whether every input and output has a first dimension that requests decide.
    fn batchable(&self) -> bool {
        let mut tensors = self.inputs.iter().chain(self.outputs).peekable();
        tensors.peek().is_some()
            && tensors.all(|tensor| matches!(tensor.dims.first(), Some(Dim::Symbolic(_))))
    }
}

/// Fills in what is missing from the model; what is given stays as it is.
///
/// `default_max_batch_size` is used where inputs or outputs were left out, no `max_batch_size`
/// was given, and the model can be batched.
pub(super) fn complete(
    config: &mut ModelConfig,
    signature: ModelSignature<'_>,
    default_max_batch_size: u32,
) {
    let left_out = config.input.is_empty() || config.output.is_empty();
    if left_out && signature.batchable() {
        if config.max_batch_size == 0 && !has_complete_shapes(config, signature) {
            config.max_batch_size = i32::try_from(default_max_batch_size).unwrap_or(i32::MAX);
        }
        if config.max_batch_size > 1 {
            config
                .scheduling_choice
                .get_or_insert(SchedulingChoice::DynamicBatching(
                    ModelDynamicBatching::default(),
                ));
        }
    }
    let batched = config.max_batch_size > 0;

    for spec in signature.inputs {
        match config
            .input
            .iter_mut()
            .find(|input| input.name == spec.name)
        {
            Some(input) => {
                fill(
                    &mut input.data_type,
                    &mut input.dims,
                    &mut input.reshape,
                    spec,
                    batched,
                );
            }
            None => {
                let mut input = ModelInput {
                    name: spec.name.clone(),
                    ..Default::default()
                };
                fill(
                    &mut input.data_type,
                    &mut input.dims,
                    &mut input.reshape,
                    spec,
                    batched,
                );
                config.input.push(input);
            }
        }
    }
    // A list of outputs may be a choice among them; only an absent one is filled.
    let all_outputs = config.output.is_empty();
    for spec in signature.outputs {
        if all_outputs {
            config.output.push(ModelOutput {
                name: spec.name.clone(),
                ..Default::default()
            });
        }
        if let Some(output) = config
            .output
            .iter_mut()
            .find(|output| output.name == spec.name)
        {
            fill(
                &mut output.data_type,
                &mut output.dims,
                &mut output.reshape,
                spec,
                batched,
            );
        }
    }
}

/// Whether dimensions that were given include the first one of the model, so that the
/// configuration describes complete shapes and not the items of a batch.
fn has_complete_shapes(config: &ModelConfig, signature: ModelSignature<'_>) -> bool {
    let inputs = config
        .input
        .iter()
        .map(|input| (&input.name, &input.dims, &input.reshape));
    let outputs = config
        .output
        .iter()
        .map(|output| (&output.name, &output.dims, &output.reshape));
    let complete =
        |specs: &[TensorSpec], name: &str, dims: &[i64], reshape: &Option<ModelTensorReshape>| {
            let rank = reshape
                .as_ref()
                .map_or(dims.len(), |reshape| reshape.shape.len());
            specs
                .iter()
                .any(|spec| spec.name == name && !dims.is_empty() && spec.dims.len() == rank)
        };
    inputs
        .clone()
        .any(|(name, dims, reshape)| complete(signature.inputs, name, dims, reshape))
        || outputs
            .clone()
            .any(|(name, dims, reshape)| complete(signature.outputs, name, dims, reshape))
}

fn fill(
    data_type: &mut i32,
    dims: &mut Vec<i64>,
    reshape: &mut Option<ModelTensorReshape>,
    spec: &TensorSpec,
    batched: bool,
) {
    if *data_type == i32::from(proto::DataType::TypeInvalid) {
        *data_type = schema_type(spec.data_type);
    }
    if !dims.is_empty() || reshape.is_some() {
        return;
    }
    dims.extend(spec.dims.iter().skip(usize::from(batched)).map(Dim::wire));
    if dims.is_empty() {
        dims.push(1);
        // Without batching Triton leaves the reshape to the backend, which knows a scalar.
        if batched {
            *reshape = Some(ModelTensorReshape::default());
        }
    }
}

/// Compares the configuration with the model.
///
/// # Errors
/// `Mismatch`, naming the tensor and both sides.
pub(super) fn compare(config: &ModelConfig, signature: ModelSignature<'_>) -> Result<()> {
    let model = config.name.as_str();
    let batched = config.max_batch_size > 0;
    for input in &config.input {
        let Some(spec) = signature.input(&input.name) else {
            return Err(unknown("input", &input.name, signature.inputs, model));
        };
        if input.optional && signature.requires(&input.name) {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!(
                    "configuration says that input '{}' of '{model}' is optional, but the model \
                     needs it",
                    input.name
                ),
            )
            .about_tensor(&input.name));
        }
        let given = Given {
            model,
            what: "input",
            name: &input.name,
            data_type: input.data_type,
            dims: &input.dims,
            reshape: input.reshape.as_ref(),
            batched,
        };
        // A configuration may narrow what the model takes.
        given.compare(spec, |model_size, size| {
            model_size == -1 || model_size == size
        })?;
    }
    if let Some(missing) = signature
        .inputs
        .iter()
        .find(|spec| config.input.iter().all(|input| input.name != spec.name))
    {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!(
                "unable to load model '{model}', configuration expects {} inputs, model provides \
                 {}; input '{}' is missing in the configuration",
                config.input.len(),
                signature.inputs.len(),
                missing.name
            ),
        )
        .about_tensor(&missing.name));
    }
    for output in &config.output {
        let Some(spec) = signature
            .outputs
            .iter()
            .find(|spec| spec.name == output.name)
        else {
            return Err(unknown("output", &output.name, signature.outputs, model));
        };
        let given = Given {
            model,
            what: "output",
            name: &output.name,
            data_type: output.data_type,
            dims: &output.dims,
            reshape: output.reshape.as_ref(),
            batched,
        };
        // Nothing a configuration says can narrow what the model makes.
        given.compare(spec, |model_size, size| model_size == size)?;
    }
    Ok(())
}

struct Given<'a> {
    model: &'a str,
    what: &'static str,
    name: &'a str,
    data_type: i32,
    dims: &'a [i64],
    reshape: Option<&'a ModelTensorReshape>,
    batched: bool,
}

impl Given<'_> {
    fn error(&self, wrong: impl fmt::Display) -> Error {
        Error::new(
            ErrorKind::Mismatch,
            format!(
                "model '{}', {} '{}': {wrong}",
                self.model, self.what, self.name
            ),
        )
        .about_tensor(self.name)
    }

    fn compare(&self, spec: &TensorSpec, agree: impl Fn(i64, i64) -> bool) -> Result<()> {
        if engine_type(self.data_type) != Some(spec.data_type) {
            return Err(self.error(format!(
                "the model has data type {} but the model configuration specifies {}",
                spec.data_type.config_name(),
                engine_type(self.data_type).map_or("none", DataType::config_name)
            )));
        }
        let model_shape: Vec<i64> = spec.dims.iter().map(Dim::wire).collect();
        let dims = self.reshape.map_or(self.dims, |reshape| &reshape.shape);
        if !self.batched {
            let scalar = model_shape.is_empty() && dims.iter().all(|size| *size == 1);
            if scalar || shapes_agree(&model_shape, dims, agree) {
                return Ok(());
            }
            return Err(self.error(format!(
                "the model has shape {} but the model configuration gives {}",
                ShapeText(&model_shape),
                ShapeText(dims)
            )));
        }
        if model_shape.first() != Some(&-1) {
            return Err(self.error(format!(
                "max_batch_size is above 0, so the first dimension must be variable, but the \
                 shape of the model is {}",
                ShapeText(&model_shape)
            )));
        }
        let full: Vec<i64> = [-1].into_iter().chain(dims.iter().copied()).collect();
        if shapes_agree(&model_shape, &full, agree) {
            return Ok(());
        }
        Err(self.error(format!(
            "the model has shape {} but the model configuration gives {}, a batch dimension \
             because max_batch_size is above 0 and then {}",
            ShapeText(&model_shape),
            ShapeText(&full),
            ShapeText(dims)
        )))
    }
}

fn shapes_agree(model: &[i64], given: &[i64], agree: impl Fn(i64, i64) -> bool) -> bool {
    model.len() == given.len() && model.iter().zip(given).all(|(a, b)| agree(*a, *b))
}

fn unknown(what: &str, name: &str, specs: &[TensorSpec], model: &str) -> Error {
    let allowed: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    Error::new(
        ErrorKind::Mismatch,
        format!(
            "unexpected inference {what} '{name}' for model '{model}', allowed {what}s are: {}",
            allowed.join(", ")
        ),
    )
    .about_tensor(name)
}
