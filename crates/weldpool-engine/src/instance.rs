//! Running a model: what goes in, where what comes out is written, and how a run is stopped.

use std::fmt;
use std::sync::Arc;

use crate::{DataType, Error, ErrorKind, Result, Tensor, TensorSlice, TensorSliceMut};

/// One execution of a model. `run` takes `&mut self`: two runs at once need two instances.
pub trait Instance: Send + fmt::Debug {
    /// Runs the model once and returns the requested outputs, in the order of `outputs`.
    ///
    /// Inputs come by name, in any order, each exactly once, and are read in place. An output
    /// whose request carries a tensor is written into that tensor, and the tensor returned shares
    /// its memory; for others the engine makes one in the pool of the load options.
    ///
    /// # Errors
    /// `InvalidInput` and `InvalidOutput` name the tensor; nothing has run then. `Busy` if the
    /// memory of an input is being written, or that of an output accessed at all. `OutOfMemory`.
    /// `Execution` with the engine's message. `Cancelled`. The instance can be used again after
    /// any of them.
    fn run(
        &mut self,
        inputs: &[(&str, &Tensor)],
        outputs: &[OutputRequest<'_>],
    ) -> Result<Vec<Tensor>> {
        let inputs: Vec<Input<'_>> = inputs
            .iter()
            .map(|(name, tensor)| Input::tensor(name, tensor))
            .collect();
        let mut wanted: Vec<Output<'_>> = outputs.iter().map(|one| Output::from(*one)).collect();
        self.run_with(&inputs, &mut wanted)?
            .into_iter()
            .zip(outputs)
            .map(|(tensor, request)| tensor.ok_or_else(|| missing(request.name)))
            .collect()
    }

    /// Runs the model once, as [`run`](Instance::run), on tensors and on borrowed memory alike.
    ///
    /// The result has one entry per output, in the order of `outputs`: the tensor, or `None` where
    /// the output was written to the slice that its [`Output`] carries.
    ///
    /// # Errors
    /// As for `run`. Memory given for an output has arbitrary contents after a run that failed.
    fn run_with(
        &mut self,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<Vec<Option<Tensor>>>;

    /// Stops runs of this instance from other threads; `None` if the engine cannot.
    fn canceller(&self) -> Option<Canceller> {
        None
    }
}

/// One input of a run.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The input's name in the model.
    pub name: &'a str,
    /// Its elements.
    pub data: InputData<'a>,
}

/// Where the elements of an input are.
#[derive(Clone, Copy, Debug)]
pub enum InputData<'a> {
    /// In a tensor.
    Tensor(&'a Tensor),
    /// In borrowed memory.
    Slice(TensorSlice<'a>),
}

impl<'a> Input<'a> {
    /// An input that is a tensor.
    #[must_use]
    pub const fn tensor(name: &'a str, tensor: &'a Tensor) -> Input<'a> {
        Input {
            name,
            data: InputData::Tensor(tensor),
        }
    }

    /// An input in borrowed memory.
    #[must_use]
    pub const fn slice(name: &'a str, slice: TensorSlice<'a>) -> Input<'a> {
        Input {
            name,
            data: InputData::Slice(slice),
        }
    }

    /// The type of the elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self.data {
            InputData::Tensor(tensor) => tensor.data_type(),
            InputData::Slice(slice) => slice.data_type(),
        }
    }

    /// The dimensions, outermost first; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        match self.data {
            InputData::Tensor(tensor) => tensor.shape(),
            InputData::Slice(slice) => slice.shape(),
        }
    }
}

/// One wanted output of a run.
#[derive(Debug)]
pub struct Output<'a> {
    /// The output's name in the model.
    pub name: &'a str,
    /// Where it is written.
    pub target: OutputTarget<'a>,
}

/// Where an output is written. Memory that the caller gives has exactly the type and shape that
/// the run produces.
#[derive(Debug)]
pub enum OutputTarget<'a> {
    /// To a tensor that the engine makes in the pool of the load options.
    New,
    /// To this tensor's memory, which the tensor that is returned shares.
    Tensor(&'a Tensor),
    /// To borrowed memory; no tensor is returned.
    Slice(TensorSliceMut<'a>),
}

impl<'a> Output<'a> {
    /// An output that the engine makes.
    #[must_use]
    pub const fn new(name: &'a str) -> Output<'a> {
        Output {
            name,
            target: OutputTarget::New,
        }
    }

    /// An output written to this tensor's memory.
    #[must_use]
    pub const fn into_tensor(name: &'a str, tensor: &'a Tensor) -> Output<'a> {
        Output {
            name,
            target: OutputTarget::Tensor(tensor),
        }
    }

    /// An output written to borrowed memory.
    #[must_use]
    pub const fn into_slice(name: &'a str, slice: TensorSliceMut<'a>) -> Output<'a> {
        Output {
            name,
            target: OutputTarget::Slice(slice),
        }
    }
}

impl<'a> From<OutputRequest<'a>> for Output<'a> {
    fn from(request: OutputRequest<'a>) -> Output<'a> {
        Output {
            name: request.name,
            target: request
                .tensor
                .map_or(OutputTarget::New, OutputTarget::Tensor),
        }
    }
}

/// One wanted output of a run on tensors.
#[derive(Clone, Copy, Debug)]
pub struct OutputRequest<'a> {
    /// The output's name in the model.
    pub name: &'a str,
    /// Memory to write it to, of exactly the type and shape that the run produces; `None` lets
    /// the engine make it.
    pub tensor: Option<&'a Tensor>,
}

impl<'a> OutputRequest<'a> {
    /// An output that the engine makes.
    #[must_use]
    pub const fn new(name: &'a str) -> OutputRequest<'a> {
        OutputRequest { name, tensor: None }
    }

    /// An output written to this tensor's memory.
    #[must_use]
    pub const fn into_tensor(name: &'a str, tensor: &'a Tensor) -> OutputRequest<'a> {
        OutputRequest {
            name,
            tensor: Some(tensor),
        }
    }
}

/// Stops runs of one [`Instance`] from any thread. Cheap to clone; does not keep the instance's
/// model loaded.
#[derive(Clone)]
pub struct Canceller(Arc<dyn Fn() + Send + Sync>);

impl Canceller {
    /// Wraps what an engine does to stop the run that is under way.
    #[must_use]
    pub fn new(cancel: impl Fn() + Send + Sync + 'static) -> Canceller {
        Canceller(Arc::new(cancel))
    }

    /// Stops the run that is under way, and nothing else: when none is, the next one is not
    /// stopped. The run ends between two of the model's operators, with `Cancelled`, unless it
    /// comes to its end first. Returns at once, before the run has ended.
    ///
    /// Who runs several requests on one instance must see to it that it is still the right one
    /// that runs.
    pub fn cancel(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canceller")
    }
}

/// The run succeeded, but an output that was to be a tensor is not there.
pub(crate) fn missing(name: &str) -> Error {
    Error::new(
        ErrorKind::Execution,
        format!("the run made no output '{name}'"),
    )
    .about_tensor(name)
}
