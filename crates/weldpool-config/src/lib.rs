//! A model's configuration: reading it, completing it, and checking requests against it.
//!
//! The way from a model's directory to what requests are checked against:
//!
//! 1. [`text::parse`] or [`json::parse`] reads what was written; with no configuration at all,
//!    [`ModelConfig::default`] is where it starts.
//! 2. [`prepare`] fills in what does not depend on the model and checks it: enough to find the
//!    model's file ([`Prepared::config`]) and to load it ([`Prepared::engine_settings`]).
//! 3. [`Prepared::complete`] takes the loaded model's signature, fills in inputs, outputs and
//!    batching, and compares: the result is [`Served`].
//!
//! Values and messages are Triton's wherever Triton has them; the differences:
//! - Two inputs, or two outputs, of one name are an error.
//! - Fields given in part (an input without a data type or dims) are completed too, and inputs
//!   left out of a list are added.
//! - A scalar may be written as dims `[1]` with an empty reshape when the model is not batched.
//! - `default_model_filename` is filled in for every backend.
//!
//! A backend in Triton goes the same way, with what Triton gives and takes: [`json::parse_lenient`]
//! reads the configuration of `TRITONBACKEND_ModelConfig`, [`Context::host`] says that Triton is
//! around, and [`json::to_text`] of [`Served::config`] goes to `TRITONBACKEND_ModelSetConfig`.
//!
//! Nothing here reads files, and nothing panics on any input.

mod backend;
mod complete;
mod error;
mod normalise;
mod parameters;
mod request;
mod tensor;
mod unified_memory;
mod validate;

#[doc(hidden)]
pub mod fuzzing;
pub mod json;
pub mod proto;
pub mod support;
pub mod text;

pub use backend::Backend;
pub use complete::ModelSignature;
pub use error::{Error, ErrorKind, Position, Result};
pub use normalise::MODEL_FILENAME;
pub use parameters::{EngineSettings, Parameters};
pub use proto::ModelConfig;
pub use request::InputShape;
pub use support::{Host, Impact, Unsupported};
pub use tensor::TensorConfig;
pub use unified_memory::{AccessPattern, TENSOR_PATTERNS_MAX, UNIFIED_MEMORY, UnifiedMemory};
pub use validate::TENSORS_MAX;

/// What [`prepare`] knows besides the configuration.
#[derive(Clone, Debug)]
pub struct Context {
    model: String,
    model_files: Vec<String>,
    engine_parameters: Vec<String>,
    host: Host,
    instances_max: u32,
    auto_complete: bool,
    default_max_batch_size: u32,
}

impl Context {
    /// The defaults, for a model of this name, which is that of its directory.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Context {
        Context {
            model: model.into(),
            model_files: Vec::new(),
            engine_parameters: Vec::new(),
            host: Host::default(),
            instances_max: 256,
            auto_complete: true,
            default_max_batch_size: 4,
        }
    }

    /// The names in the version directories, which tell the backend if nothing else does.
    #[must_use]
    pub fn model_files(mut self, names: impl IntoIterator<Item = String>) -> Context {
        self.model_files = names.into_iter().collect();
        self
    }

    /// The `parameters` that the engine understands; others are reported. None by default.
    #[must_use]
    pub fn engine_parameters<S: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = S>,
    ) -> Context {
        self.engine_parameters = names.into_iter().map(Into::into).collect();
        self
    }

    /// What runs the model, which decides what is reported as not implemented.
    /// [`Host::Weldpool`] by default.
    #[must_use]
    pub fn host(mut self, host: Host) -> Context {
        self.host = host;
        self
    }

    /// The most instances that a model may have in all. 256 by default.
    #[must_use]
    pub fn instances_max(mut self, instances: u32) -> Context {
        self.instances_max = instances;
        self
    }

    /// Whether inputs, outputs and batching are filled in from the model; with
    /// `--disable-auto-complete-config` they are not, and a configuration is required to be whole.
    /// True by default.
    #[must_use]
    pub fn auto_complete(mut self, on: bool) -> Context {
        self.auto_complete = on;
        self
    }

    /// The `max_batch_size` that is filled in for models that can be batched; with 0 none is.
    /// 4 by default, as in Triton.
    #[must_use]
    pub fn default_max_batch_size(mut self, size: u32) -> Context {
        self.default_max_batch_size = size;
        self
    }
}

/// Fills in what does not depend on the model, and checks all but inputs and outputs.
///
/// # Errors
/// `Invalid`, `LimitExceeded`, and `Unsupported` for another backend and for fields that are not
/// implemented and without which answers would be wrong ([`Impact::Refused`]).
pub fn prepare(mut config: ModelConfig, context: &Context) -> Result<Prepared> {
    let model = context.model.as_str();
    let backend = Backend::of(&config, model, &context.model_files)?;
    let known: Vec<&str> = context
        .engine_parameters
        .iter()
        .map(String::as_str)
        .collect();
    let (refused, ignored): (Vec<_>, Vec<_>) = support::report(&config, &known, context.host)
        .into_iter()
        .partition(|field| field.impact == Impact::Refused);
    normalise::normalise(&mut config, model, backend);
    validate::general(&config, model, context.instances_max)?;
    if !refused.is_empty() {
        let fields: Vec<String> = refused
            .iter()
            .map(|field| format!("{} ({})", field.path, field.effect))
            .collect();
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the configuration of '{model}' has fields that are not implemented: {}",
                fields.join(", ")
            ),
        ));
    }
    Ok(Prepared {
        engine_settings: EngineSettings::of(&config)?,
        unified_memory: UnifiedMemory::of(&config)?,
        config,
        backend,
        ignored,
        auto_complete: context.auto_complete,
        default_max_batch_size: context.default_max_batch_size,
    })
}

/// A configuration that is enough to load the model.
#[derive(Clone, Debug)]
pub struct Prepared {
    config: ModelConfig,
    backend: Backend,
    engine_settings: EngineSettings,
    unified_memory: UnifiedMemory,
    ignored: Vec<Unsupported>,
    auto_complete: bool,
    default_max_batch_size: u32,
}

impl Prepared {
    /// The configuration so far; inputs and outputs may be missing.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The backend that was asked for.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How the engine is to load the model.
    #[must_use]
    pub fn engine_settings(&self) -> &EngineSettings {
        &self.engine_settings
    }

    /// What is asked of unified memory; it is checked, and nothing heeds it yet.
    #[must_use]
    pub fn unified_memory(&self) -> &UnifiedMemory {
        &self.unified_memory
    }

    /// Fields that are set and ignored: to be told at load.
    #[must_use]
    pub fn ignored(&self) -> &[Unsupported] {
        &self.ignored
    }

    /// Completes the configuration from the loaded model, and compares them.
    ///
    /// # Errors
    /// `Invalid` and `Mismatch`, naming the input or output; `LimitExceeded`; `Unsupported`.
    pub fn complete(mut self, signature: ModelSignature<'_>) -> Result<Served> {
        if self.auto_complete {
            complete::complete(&mut self.config, signature, self.default_max_batch_size);
            normalise::scheduling(&mut self.config);
        }
        validate::tensors(&self.config)?;
        complete::compare(&self.config, signature)?;
        Ok(Served::new(self, signature))
    }
}

/// A complete configuration that agrees with the model.
#[derive(Clone, Debug)]
pub struct Served {
    config: ModelConfig,
    backend: Backend,
    ignored: Vec<Unsupported>,
    inputs: Vec<TensorConfig>,
    outputs: Vec<TensorConfig>,
}

impl Served {
    fn new(prepared: Prepared, signature: ModelSignature<'_>) -> Served {
        let config = prepared.config;
        let batched = config.max_batch_size > 0;
        let inputs = config.input.iter().filter_map(|input| {
            let spec = signature.input(&input.name);
            let data_type = validate::engine_type(input.data_type)?;
            let reshape = input.reshape.as_ref();
            let mut tensor =
                TensorConfig::new(&input.name, data_type, &input.dims, reshape, spec, batched);
            tensor.optional = input.optional;
            Some(tensor)
        });
        let outputs = config.output.iter().filter_map(|output| {
            let mut specs = signature.outputs.iter();
            let spec = specs.find(|spec| spec.name == output.name);
            let data_type = validate::engine_type(output.data_type)?;
            let reshape = output.reshape.as_ref();
            let mut tensor = TensorConfig::new(
                &output.name,
                data_type,
                &output.dims,
                reshape,
                spec,
                batched,
            );
            let label_filename = Some(output.label_filename.clone());
            tensor.label_filename = label_filename.filter(|name| !name.is_empty());
            Some(tensor)
        });
        Served {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            backend: prepared.backend,
            ignored: prepared.ignored,
            config,
        }
    }

    /// The complete configuration, as `GET /v2/models/M/config` shows it.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The backend that was asked for.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Fields that are set and ignored.
    #[must_use]
    pub fn ignored(&self) -> &[Unsupported] {
        &self.ignored
    }

    /// The largest batch, or 0 if the model is not batched.
    #[must_use]
    pub fn max_batch_size(&self) -> usize {
        usize::try_from(self.config.max_batch_size).unwrap_or(0)
    }

    /// How many instances the model has in all; at least 1.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        self.config
            .instance_group
            .iter()
            .filter_map(|group| usize::try_from(group.count).ok())
            .sum::<usize>()
            .max(1)
    }

    /// The inputs, in the configuration's order. A request brings every one of them.
    #[must_use]
    pub fn inputs(&self) -> &[TensorConfig] {
        &self.inputs
    }

    /// The outputs, in the configuration's order.
    #[must_use]
    pub fn outputs(&self) -> &[TensorConfig] {
        &self.outputs
    }

    /// An input by name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&TensorConfig> {
        self.inputs.iter().find(|tensor| tensor.name == name)
    }

    /// An output by name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&TensorConfig> {
        self.outputs.iter().find(|tensor| tensor.name == name)
    }
}

#[cfg(test)]
mod tests;
