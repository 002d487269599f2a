//! What an engine is: it loads models, a model makes instances, an instance runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use weldpool::Allocator;

use crate::{Error, ErrorKind, Instance, Result, TensorSpec};

/// Something that can load ONNX models and run them.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The engine's short name, such as `onnxruntime`.
    fn name(&self) -> &str;

    /// The version of what executes the models, for reports.
    fn version(&self) -> &str;

    /// The names of the load parameters this engine understands; it ignores others.
    fn parameters(&self) -> &'static [&'static str];

    /// Checks values of load parameters before there is a model to load with them.
    ///
    /// # Errors
    /// `InvalidOption`, naming the parameter and what is allowed.
    fn check_parameters(&self, parameters: &BTreeMap<String, String>) -> Result<()> {
        let _ = parameters;
        Ok(())
    }

    /// Loads one model. Takes long; may be called from several threads at once.
    ///
    /// # Errors
    /// `ModelNotFound`, `ModelInvalid`, `Unsupported` (for instance inputs that are not tensors),
    /// `InvalidOption`, `OutOfMemory`, and `Execution` when the engine gives no better reason.
    fn load(
        &self,
        source: ModelSource<'_>,
        options: &LoadOptions,
    ) -> Result<std::sync::Arc<dyn Model>>;
}

/// Where a model comes from.
#[derive(Clone, Copy, Debug)]
pub enum ModelSource<'a> {
    /// A file; weights stored beside it are found relative to it.
    Path(&'a Path),
    /// The file's contents. Weights in other files cannot be found.
    Bytes(&'a [u8]),
}

/// How independent operators of one model run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecutionMode {
    /// One after another.
    #[default]
    Sequential,
    /// Side by side, on the threads of `inter_op_threads`.
    Parallel,
}

/// How much the engine may rewrite the graph at load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphOptimization {
    /// Not at all.
    Disabled,
    /// Rewrites that keep the meaning on every device: constant folding, dead nodes, simple fusions.
    Basic,
    /// Also fusions into operators of the engine's own.
    Extended,
    /// Also changes of memory layout.
    #[default]
    All,
}

/// Where the memory between operators comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arena {
    /// The pool of [`LoadOptions::allocator`]; its statistics show it under the engine's name.
    Pool,
    /// An arena of the engine's own, outside the pool.
    Engine,
    /// The system's allocator, a call per tensor.
    System,
}

/// How to load a model. Every field has the engine's default after [`LoadOptions::new`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Inputs are read from, and outputs made in, memory of this pool.
    pub allocator: Allocator,
    /// Threads that share the work of one operator; `None` lets the engine decide.
    pub intra_op_threads: Option<usize>,
    /// Threads that run operators side by side; used with [`ExecutionMode::Parallel`] only.
    pub inter_op_threads: Option<usize>,
    /// Whether independent operators run side by side.
    pub execution_mode: ExecutionMode,
    /// How much the graph is rewritten at load.
    pub graph_optimization: GraphOptimization,
    /// Where the memory between operators comes from; `None` is the engine's default.
    pub arena: Option<Arena>,
    /// Whether the engine plans the memory of a run ahead, from the first run with the same shapes.
    pub memory_pattern: bool,
    /// Settings by the names a model's configuration uses; they outrank the fields above.
    /// [`Engine::parameters`] lists the names that are understood.
    pub parameters: BTreeMap<String, String>,
}

impl LoadOptions {
    /// The engine's defaults, with memory from this pool.
    #[must_use]
    pub fn new(allocator: Allocator) -> LoadOptions {
        LoadOptions {
            allocator,
            intra_op_threads: None,
            inter_op_threads: None,
            execution_mode: ExecutionMode::default(),
            graph_optimization: GraphOptimization::default(),
            arena: None,
            memory_pattern: true,
            parameters: BTreeMap::new(),
        }
    }

    /// The same options with one parameter set.
    #[must_use]
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> LoadOptions {
        self.parameters.insert(name.into(), value.into());
        self
    }
}

/// What a model says about itself. Empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelMetadata {
    /// The program that wrote the file.
    pub producer: String,
    /// The graph's name.
    pub graph: String,
    /// The model's domain.
    pub domain: String,
    /// The model's description.
    pub description: String,
    /// The model's own version number.
    pub version: i64,
    /// The version of the ONNX operator set, where the engine can tell.
    pub opset: Option<i64>,
    /// Whatever else the file carries, by name.
    pub custom: BTreeMap<String, String>,
}

/// A loaded model. Shared by threads; each makes an [`Instance`] of its own to run it.
pub trait Model: Send + Sync + fmt::Debug {
    /// The inputs that a run needs, in the model's order.
    fn inputs(&self) -> &[TensorSpec];

    /// Inputs that a run may leave out, because the model has values for them (ONNX: initialisers
    /// that are inputs as well). None unless the engine says otherwise.
    fn optional_inputs(&self) -> &[TensorSpec] {
        &[]
    }

    /// The outputs, in the model's order.
    fn outputs(&self) -> &[TensorSpec];

    /// What the model says about itself.
    fn metadata(&self) -> &ModelMetadata;

    /// The name of the engine that loaded it.
    fn engine(&self) -> &str;

    /// Where the memory between operators comes from.
    fn arena(&self) -> Arena;

    /// The shapes that a run with inputs of these shapes will give the outputs, in the model's
    /// order; `None` where that is not sure before. Inputs come by name, in any order.
    ///
    /// Sure is what the model's file says, by fixed sizes and by names that its dimensions share
    /// with those of inputs, where the last run with the same input shapes made just that; an
    /// engine remembers a limited number of runs. A file that is right at one time and wrong at
    /// another is believed all the same: a run whose output is given memory of another shape than
    /// it makes fails with `InvalidOutput`, and nothing is said of this output from then on.
    fn expected_shapes(&self, inputs: &[(&str, &[usize])]) -> Vec<Option<Vec<usize>>> {
        let _ = inputs;
        vec![None; self.outputs().len()]
    }

    /// A new execution of the model, for one thread at a time. Weights are shared between them.
    ///
    /// # Errors
    /// `OutOfMemory`, and `Execution` when the engine refuses.
    fn instance(&self) -> Result<Box<dyn Instance>>;
}

impl ModelSource<'_> {
    /// Reads nothing; says how to call the model in messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            ModelSource::Path(path) => path.display().to_string(),
            ModelSource::Bytes(bytes) => format!("model of {} bytes in memory", bytes.len()),
        }
    }
}

/// Turns a duplicate or unknown name into the error that says so.
pub(crate) fn position_of(specs: &[TensorSpec], name: &str, kind: ErrorKind) -> Result<usize> {
    specs
        .iter()
        .position(|spec| spec.name == name)
        .ok_or_else(|| {
            let what = if kind == ErrorKind::InvalidOutput {
                "output"
            } else {
                "input"
            };
            let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            Error::new(
                kind,
                format!(
                    "the model has no {what} '{}'; it has {}",
                    name.escape_debug(),
                    known.join(", ")
                ),
            )
            .about_tensor(name)
        })
}
