//! A loaded model and its instances.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use weldpool::Allocator;

use super::NAME;
use super::environment::Environment;
use super::opset;
use super::options::Settings;
use super::predicted::{Key, Predicted};
use super::raw::{self, AllocatorTable, RunOptions, Session, Side, Value};
use super::signature::{self, Signature};
use super::status::{During, error};
use super::value::{Held, Target, into_tensor};
use crate::engine::position_of;
use crate::shape::ShapeText;
use crate::{
    Arena, DataType, Error, ErrorKind, Instance, LoadOptions, Model, ModelMetadata, ModelSource,
    OutputRequest, Result, Tensor, TensorSpec,
};

/// A model that onnxruntime has loaded.
#[derive(Clone, Debug)]
pub(super) struct OrtModel(Arc<Loaded>);

/// Fields are dropped in this order: the session before what it uses.
#[derive(Debug)]
struct Loaded {
    session: Session,
    table: Option<Arc<AllocatorTable>>,
    environment: Arc<Environment>,
    allocator: Allocator,
    settings: Settings,
    inputs: Signature,
    outputs: Signature,
    metadata: ModelMetadata,
    predicted: Predicted,
}

impl OrtModel {
    /// Loads a model.
    pub(super) fn load(
        environment: &Arc<Environment>,
        source: ModelSource<'_>,
        options: &LoadOptions,
    ) -> Result<OrtModel> {
        let settings = Settings::new(options)?;
        check_source(source)?;
        let at = |error: Error| error.context(source.describe());
        let (session, table, settings) = if settings.arena() == Arena::Pool {
            let table = environment.allocator_table(&options.allocator)?;
            match environment.offer(&table) {
                Ok(share) => {
                    let refusals = table.memory().refusals();
                    let session = open(environment, source, &settings)
                        .map_err(|error| refused(error, Some(&table), refusals))
                        .map_err(at)?;
                    drop(share);
                    (session, Some(table), settings)
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    let settings = settings.without_pool().ok_or_else(|| at(error))?;
                    let session = open(environment, source, &settings).map_err(at)?;
                    (session, None, settings)
                }
            }
        } else {
            let session = open(environment, source, &settings).map_err(at)?;
            (session, None, settings)
        };

        let inputs = Signature::read(&session, Side::Input).map_err(at)?;
        let outputs = Signature::read(&session, Side::Output).map_err(at)?;
        let mut metadata = signature::metadata(&session).map_err(at)?;
        metadata.opset = match source {
            ModelSource::Path(path) => opset::of_file(path),
            ModelSource::Bytes(bytes) => opset::of_bytes(bytes),
        };
        raw::trim_heap();
        Ok(OrtModel(Arc::new(Loaded {
            session,
            table,
            environment: Arc::clone(environment),
            allocator: options.allocator.clone(),
            settings,
            predicted: Predicted::new(&outputs.specs),
            inputs,
            outputs,
            metadata,
        })))
    }
}

/// Makes a session.
fn open(
    environment: &Environment,
    source: ModelSource<'_>,
    settings: &Settings,
) -> Result<Session> {
    let options = settings.session_options(environment.api())?;
    let env = environment.env();
    match source {
        ModelSource::Path(path) => env.session_from_file(path, &options),
        ModelSource::Bytes(bytes) => env.session_from_bytes(bytes, &options),
    }
    .map_err(|status| error(status, During::Load))
}

/// Tells a missing or empty model from a broken one before the library sees it.
fn check_source(source: ModelSource<'_>) -> Result<()> {
    let empty = match source {
        ModelSource::Path(path) => check_file(path)? == 0,
        ModelSource::Bytes(bytes) => bytes.is_empty(),
    };
    if empty {
        return Err(Error::new(
            ErrorKind::ModelInvalid,
            format!("{}: the file is empty", source.describe()),
        ));
    }
    Ok(())
}

/// The length of a model's file.
fn check_file(path: &Path) -> Result<u64> {
    let unreadable = |why: std::io::Error| {
        Error::new(
            ErrorKind::ModelNotFound,
            format!("cannot read {}", path.display()),
        )
        .caused_by(why)
    };
    let metadata = fs::File::open(path)
        .and_then(|file| file.metadata())
        .map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Error::new(
            ErrorKind::ModelNotFound,
            format!("{} is a folder, not a model's file", path.display()),
        ));
    }
    Ok(metadata.len())
}

/// Puts the pool's reason in place of the library's when the pool refused it memory meanwhile.
fn refused(error: Error, table: Option<&AllocatorTable>, seen: u64) -> Error {
    match table.and_then(|table| table.memory().refusal_since(seen)) {
        Some(reason) => Error::from(reason),
        None => error,
    }
}

impl Model for OrtModel {
    fn inputs(&self) -> &[TensorSpec] {
        &self.0.inputs.specs
    }

    fn outputs(&self) -> &[TensorSpec] {
        &self.0.outputs.specs
    }

    fn metadata(&self) -> &ModelMetadata {
        &self.0.metadata
    }

    fn engine(&self) -> &str {
        NAME
    }

    fn arena(&self) -> Arena {
        self.0.settings.arena()
    }

    fn instance(&self) -> Result<Box<dyn Instance>> {
        Ok(Box::new(OrtInstance {
            options: self.0.settings.run_options(self.0.environment.api())?,
            model: Arc::clone(&self.0),
        }))
    }
}

/// One execution of a model. The session is shared: the library allows runs side by side.
#[derive(Debug)]
struct OrtInstance {
    options: RunOptions,
    model: Arc<Loaded>,
}

/// An output as a run will produce it.
struct Planned {
    /// Its position in the model.
    index: usize,
    /// The memory it is written to; `None` lets the library make it.
    tensor: Option<Tensor>,
    /// Whether that memory's shape is our guess, not the caller's will.
    guessed: bool,
    /// The caller's memory for an input that the model hands through: the library does not write
    /// such an output, but returns the input.
    copied_to: Option<Tensor>,
}

impl Instance for OrtInstance {
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[OutputRequest<'_>],
    ) -> Result<Vec<Tensor>> {
        let model = &*self.model;
        let order = model.check_inputs(inputs)?;
        let wanted = model.check_outputs(outputs)?;
        let key = model.key(inputs, &order);
        let mut planned = model.plan(outputs, &wanted, &key)?;

        let mut result = self.execute(inputs, &order, &planned);
        let failed = matches!(&result, Err(error) if error.kind() == ErrorKind::Execution);
        if failed && planned.iter().any(|output| output.guessed) {
            result = self.execute_without_guesses(inputs, &order, &mut planned);
        }
        let failed = matches!(&result, Err(error) if error.kind() == ErrorKind::Execution);
        if failed && planned.iter().any(|output| output.tensor.is_some()) {
            self.check_given(inputs, &order, &planned)?;
        }
        if model.settings.shrinks_pool() {
            let given_back = model.allocator.clear();
            tracing::trace!("gave {given_back} bytes back to the device");
        }
        let tensors = result?;
        if model.table.is_none() {
            for (output, tensor) in planned.iter().zip(&tensors) {
                if output.tensor.is_none() {
                    model.predicted.learn(&key, output.index, tensor.shape());
                }
            }
        }
        Ok(tensors)
    }
}

impl OrtInstance {
    /// Runs again and lets the library make what was guessed; guesses that turn out wrong are not
    /// made again.
    fn execute_without_guesses(
        &self,
        inputs: &[(&str, &Tensor)],
        order: &[usize],
        planned: &mut [Planned],
    ) -> Result<Vec<Tensor>> {
        let guesses: Vec<Option<Tensor>> = planned
            .iter_mut()
            .map(|output| output.tensor.take_if(|_| output.guessed))
            .collect();
        let tensors = self.execute(inputs, order, planned)?;
        for ((output, guess), tensor) in planned.iter().zip(guesses).zip(&tensors) {
            if guess.is_some_and(|guess| guess.shape() != tensor.shape()) {
                self.model.predicted.give_up(output.index);
            }
        }
        Ok(tensors)
    }

    /// After a failed run, finds out whether memory that the caller gave has the wrong shape: only
    /// a run without it tells which would be right.
    fn check_given(
        &self,
        inputs: &[(&str, &Tensor)],
        order: &[usize],
        planned: &[Planned],
    ) -> Result<()> {
        let free: Vec<Planned> = planned
            .iter()
            .map(|output| Planned {
                index: output.index,
                tensor: None,
                guessed: false,
                copied_to: None,
            })
            .collect();
        let Ok(tensors) = self.execute(inputs, order, &free) else {
            return Ok(());
        };
        for (output, made) in planned.iter().zip(&tensors) {
            let Some(given) = &output.tensor else {
                continue;
            };
            if given.shape() != made.shape() {
                let name = &self.model.outputs.specs[output.index].name;
                return Err(Error::new(
                    ErrorKind::InvalidOutput,
                    format!(
                        "the memory for output '{name}' has the shape {}, but this run makes {}",
                        ShapeText(given.shape()),
                        ShapeText(made.shape())
                    ),
                )
                .about_tensor(name));
            }
        }
        Ok(())
    }

    /// One run, with everything checked before.
    fn execute(
        &self,
        inputs: &[(&str, &Tensor)],
        order: &[usize],
        planned: &[Planned],
    ) -> Result<Vec<Tensor>> {
        let model = &*self.model;
        let api = model.environment.api();
        let host_memory = model.environment.host_memory();

        let held = inputs
            .iter()
            .map(|(name, tensor)| Held::new(tensor).map_err(|error| about("input", name, error)))
            .collect::<Result<Vec<_>>>()?;
        let values = held
            .iter()
            .zip(inputs)
            .map(|(held, (name, _))| {
                held.value(api, host_memory)
                    .map_err(|error| about("input", name, error))
            })
            .collect::<Result<Vec<_>>>()?;
        let named_inputs: Vec<_> = order
            .iter()
            .zip(&values)
            .map(|(index, value)| (model.inputs.names[*index].as_c_str(), value))
            .collect();

        let name_of = |output: &Planned| model.outputs.specs[output.index].name.as_str();
        let mut targets = planned
            .iter()
            .map(|output| {
                output
                    .tensor
                    .as_ref()
                    .map(Target::new)
                    .transpose()
                    .map_err(|error| about("output", name_of(output), error))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut named_outputs = planned
            .iter()
            .zip(&mut targets)
            .map(|(output, target)| {
                let value = target
                    .as_mut()
                    .map(|target| target.value(host_memory))
                    .transpose()
                    .map_err(|error| about("output", name_of(output), error))?;
                Ok((model.outputs.names[output.index].as_c_str(), value))
            })
            .collect::<Result<Vec<_>>>()?;

        let refusals = model
            .table
            .as_ref()
            .map_or(0, |table| table.memory().refusals());
        model
            .session
            .run(&self.options, &named_inputs, &mut named_outputs)
            .map_err(|status| error(status, During::Run))
            .map_err(|error| refused(error, model.table.as_deref(), refusals))?;

        let made: Vec<Option<Value<'_>>> = planned
            .iter()
            .zip(named_outputs)
            .map(|(output, (_, value))| value.filter(|_| output.tensor.is_none()))
            .collect();
        planned
            .iter()
            .zip(made)
            .map(|(output, value)| match (&output.tensor, value) {
                (Some(tensor), _) => Ok(tensor.clone()),
                (None, Some(value)) => into_tensor(
                    value,
                    model.outputs.specs[output.index].data_type,
                    &model.allocator,
                    model.table.as_deref(),
                    &held,
                )
                .and_then(|tensor| match &output.copied_to {
                    Some(given) => copy(&tensor, given),
                    None => Ok(tensor),
                })
                .map_err(|error| about("output", name_of(output), error)),
                (None, None) => Err(Error::new(
                    ErrorKind::Execution,
                    format!("the run made no output '{}'", name_of(output)),
                )),
            })
            .collect()
    }
}

impl Loaded {
    /// Checks the inputs against the signature; returns their positions in the model.
    fn check_inputs(&self, inputs: &[(&str, &Tensor)]) -> Result<Vec<usize>> {
        let specs = &self.inputs.specs;
        let mut order = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            let index = position_of(specs, name, ErrorKind::InvalidInput)?;
            if order.contains(&index) {
                return Err(about_input(name, format!("input '{name}' is given twice")));
            }
            let spec = &specs[index];
            if tensor.data_type() != spec.data_type {
                return Err(about_input(
                    name,
                    format!(
                        "input '{name}' is {}, but the model takes {}",
                        tensor.data_type(),
                        spec.data_type
                    ),
                ));
            }
            // No dimensions may also mean that the model says nothing; the library then decides.
            if !spec.dims.is_empty() && !spec.accepts(tensor.shape()) {
                return Err(about_input(
                    name,
                    format!(
                        "input '{name}' has the shape {}, but the model takes {}",
                        ShapeText(tensor.shape()),
                        ShapeText(&spec.dims)
                    ),
                ));
            }
            order.push(index);
        }
        match (0..specs.len()).find(|index| !order.contains(index)) {
            Some(missing) => {
                let name = &specs[missing].name;
                Err(about_input(name, format!("input '{name}' is missing")))
            }
            None => Ok(order),
        }
    }

    /// Checks the wanted outputs against the signature; returns their positions in the model.
    fn check_outputs(&self, outputs: &[OutputRequest<'_>]) -> Result<Vec<usize>> {
        let specs = &self.outputs.specs;
        if outputs.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidOutput,
                "no output is requested",
            ));
        }
        let mut wanted = Vec::with_capacity(outputs.len());
        for request in outputs {
            let name = request.name;
            let refuse = |message: String| {
                Err(Error::new(ErrorKind::InvalidOutput, message).about_tensor(name))
            };
            let index = position_of(specs, name, ErrorKind::InvalidOutput)?;
            if wanted.contains(&index) {
                return refuse(format!("output '{name}' is requested twice"));
            }
            wanted.push(index);
            let spec = &specs[index];
            let Some(tensor) = request.tensor else {
                continue;
            };
            if tensor.data_type() != spec.data_type {
                return refuse(format!(
                    "the memory for output '{name}' is {}, but the model makes {}",
                    tensor.data_type(),
                    spec.data_type
                ));
            }
            if spec.data_type == DataType::Bytes {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("output '{name}' has byte strings, which cannot be written in place"),
                )
                .about_tensor(name));
            }
            if !spec.dims.is_empty() && !spec.accepts(tensor.shape()) {
                return refuse(format!(
                    "the memory for output '{name}' has the shape {}, but the model makes {}",
                    ShapeText(tensor.shape()),
                    ShapeText(&spec.dims)
                ));
            }
        }
        Ok(wanted)
    }

    /// The input shapes in the model's order.
    fn key(&self, inputs: &[(&str, &Tensor)], order: &[usize]) -> Key {
        let mut key = vec![Vec::new(); self.inputs.specs.len()];
        for (index, (_, tensor)) in order.iter().zip(inputs) {
            key[*index] = tensor.shape().to_vec();
        }
        key
    }

    /// Decides where each output is written: to the caller's memory, to new memory of a shape that
    /// is fixed or was seen before, or wherever the library likes. With the pool as its arena that
    /// is memory we can take over, so nothing but fixed shapes is guessed then.
    fn plan(
        &self,
        outputs: &[OutputRequest<'_>],
        wanted: &[usize],
        key: &Key,
    ) -> Result<Vec<Planned>> {
        outputs
            .iter()
            .zip(wanted)
            .map(|(request, index)| {
                let spec = &self.outputs.specs[*index];
                let data_type = spec.data_type;
                let given = request.tensor.cloned();
                if self
                    .inputs
                    .specs
                    .iter()
                    .any(|input| input.name == spec.name)
                {
                    return Ok(Planned {
                        index: *index,
                        tensor: None,
                        guessed: false,
                        copied_to: given,
                    });
                }
                let guess = if given.is_some() || data_type == DataType::Bytes {
                    None
                } else {
                    self.predicted.fixed(*index).or_else(|| match self.table {
                        Some(_) => None,
                        None => self.predicted.seen(key, *index),
                    })
                };
                let guessed = guess.is_some();
                let tensor = match guess {
                    Some(shape) => Some(
                        Tensor::uninitialised(&self.allocator, data_type, shape)
                            .map_err(|error| about("output", request.name, error))?,
                    ),
                    None => given,
                };
                Ok(Planned {
                    index: *index,
                    tensor,
                    guessed,
                    copied_to: None,
                })
            })
            .collect()
    }
}

/// Copies a tensor into memory that the caller gave for it.
fn copy(tensor: &Tensor, given: &Tensor) -> Result<Tensor> {
    if given.shape() != tensor.shape() {
        return Err(Error::new(
            ErrorKind::InvalidOutput,
            format!(
                "the memory given has the shape {}, but this run makes {}",
                ShapeText(given.shape()),
                ShapeText(tensor.shape())
            ),
        ));
    }
    if let Some(view) = given.data() {
        view.write::<u8>()?.copy_from_slice(&tensor.bytes()?);
    }
    Ok(given.clone())
}

fn about_input(name: &str, message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message).about_tensor(name)
}

fn about(side: &str, name: &str, error: Error) -> Error {
    error
        .context(format_args!("{side} '{name}'"))
        .about_tensor(name)
}
