//! What is decided before a run: whether inputs and outputs fit the model, and where each output is
//! written.

use super::Few;
use super::predicted::Shapes;
use super::session::Loaded;
use super::value::Target;
use crate::engine::position_of;
use crate::shape::ShapeText;
use crate::{
    DataType, Error, ErrorKind, Input, Output, OutputTarget, Result, Tensor, TensorSliceMut,
};

/// The inputs of a run, checked against the model.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'r> {
    pub(super) given: &'r [Input<'r>],
    /// Each one's position in the model.
    pub(super) order: &'r [usize],
}

impl<'r> Inputs<'r> {
    /// Their shapes.
    pub(super) fn shapes(self) -> impl Shapes<'r> {
        let order = self.order.iter().copied();
        order.zip(self.given.iter().map(Input::shape))
    }
}

/// An output as a run will produce it.
pub(super) struct Planned<'o> {
    /// Its position in the model.
    pub(super) index: usize,
    pub(super) place: Place<'o>,
    /// Whether the model hands an input through: the library does not write such an output, but
    /// returns the input, which is then copied to its place.
    pub(super) handed_through: bool,
}

/// Where an output is written.
pub(super) enum Place<'o> {
    /// Wherever the library likes.
    Library,
    /// To a tensor of ours, of a shape that is only guessed.
    Guess(Tensor),
    /// To the caller's tensor.
    Tensor(&'o Tensor),
    /// To memory that the caller has lent.
    Slice(TensorSliceMut<'o>),
}

impl Place<'_> {
    /// The shape of the caller's memory.
    pub(super) fn given_shape(&self) -> Option<&[usize]> {
        match self {
            Place::Tensor(tensor) => Some(tensor.shape()),
            Place::Slice(slice) => Some(slice.shape()),
            Place::Library | Place::Guess(_) => None,
        }
    }
}

impl Planned<'_> {
    /// The memory that the library writes; `None` lets it make some.
    pub(super) fn target(&mut self) -> Result<Option<Target<'_>>> {
        if self.handed_through {
            return Ok(None);
        }
        match &mut self.place {
            Place::Library => Ok(None),
            Place::Guess(tensor) => Target::tensor(tensor).map(Some),
            Place::Tensor(tensor) => Target::tensor(tensor).map(Some),
            Place::Slice(slice) => Target::slice(slice).map(Some),
        }
    }

    /// Whether the library writes into memory of the caller's.
    pub(super) fn is_given(&self) -> bool {
        !self.handed_through && self.place.given_shape().is_some()
    }

    /// Whether it is written to memory of a guessed shape.
    pub(super) fn is_guessed(&self) -> bool {
        matches!(self.place, Place::Guess(_))
    }
}

impl Loaded {
    /// Checks the inputs against the signature; returns their positions in the model.
    pub(super) fn check_inputs(&self, inputs: &[Input<'_>]) -> Result<Few<usize>> {
        let specs = &self.inputs.specs;
        let mut order = Few::with_capacity(inputs.len());
        for input in inputs {
            let name = input.name;
            let index = position_of(specs, name, ErrorKind::InvalidInput)?;
            if order.contains(&index) {
                return Err(refused_input(
                    name,
                    format!("input '{name}' is given twice"),
                ));
            }
            let spec = &specs[index];
            if input.data_type() != spec.data_type {
                return Err(refused_input(
                    name,
                    format!(
                        "input '{name}' is {}, but the model takes {}",
                        input.data_type(),
                        spec.data_type
                    ),
                ));
            }
            // No dimensions may also mean that the model says nothing; the library then decides.
            if !spec.dims.is_empty() && !spec.accepts(input.shape()) {
                return Err(refused_input(
                    name,
                    format!(
                        "input '{name}' has the shape {}, but the model takes {}",
                        ShapeText(input.shape()),
                        ShapeText(&spec.dims)
                    ),
                ));
            }
            order.push(index);
        }
        match (0..self.required_inputs).find(|index| !order.contains(index)) {
            Some(missing) => {
                let name = &specs[missing].name;
                Err(refused_input(name, format!("input '{name}' is missing")))
            }
            None => Ok(order),
        }
    }

    /// Checks the wanted outputs against the signature, and decides where each is written: to the
    /// caller's memory, to new memory of a shape that is fixed or was seen before, or wherever the
    /// library likes. With the pool as its arena that is memory we can take over, so nothing but
    /// fixed shapes is guessed then.
    pub(super) fn plan<'o>(
        &self,
        inputs: Inputs<'_>,
        outputs: &'o mut [Output<'_>],
    ) -> Result<Few<Planned<'o>>> {
        let wanted = self.check_outputs(outputs)?;
        outputs
            .iter_mut()
            .zip(wanted)
            .map(|(output, index)| {
                let spec = &self.outputs.specs[index];
                let is_it = |input: &crate::TensorSpec| input.name == spec.name;
                let handed_through = self.inputs.specs.iter().any(is_it);
                let place = match &mut output.target {
                    OutputTarget::Tensor(tensor) => Place::Tensor(tensor),
                    OutputTarget::Slice(slice) => Place::Slice(slice.reborrow()),
                    OutputTarget::New if handed_through || spec.data_type == DataType::Bytes => {
                        Place::Library
                    }
                    OutputTarget::New => match self.guess(inputs, index) {
                        Some(shape) => Place::Guess(
                            Tensor::uninitialised(&self.allocator, spec.data_type, shape)
                                .map_err(|error| about_output(output.name, error))?,
                        ),
                        None => Place::Library,
                    },
                };
                Ok(Planned {
                    index,
                    place,
                    handed_through,
                })
            })
            .collect()
    }

    /// The shape of memory to make for an output before the run.
    fn guess(&self, inputs: Inputs<'_>, output: usize) -> Option<Vec<usize>> {
        self.predicted.fixed(output).or_else(|| match self.table {
            Some(_) => None,
            None => self.predicted.seen(inputs.shapes(), output),
        })
    }

    /// Checks the wanted outputs; returns their positions in the model.
    fn check_outputs(&self, outputs: &[Output<'_>]) -> Result<Few<usize>> {
        let specs = &self.outputs.specs;
        if outputs.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidOutput,
                "no output is requested",
            ));
        }
        let mut wanted = Few::with_capacity(outputs.len());
        for output in outputs {
            let name = output.name;
            let refuse = |message: String| {
                Err(Error::new(ErrorKind::InvalidOutput, message).about_tensor(name))
            };
            let index = position_of(specs, name, ErrorKind::InvalidOutput)?;
            if wanted.contains(&index) {
                return refuse(format!("output '{name}' is requested twice"));
            }
            wanted.push(index);
            let spec = &specs[index];
            let (data_type, shape) = match &output.target {
                OutputTarget::New => continue,
                OutputTarget::Tensor(tensor) => (tensor.data_type(), tensor.shape()),
                OutputTarget::Slice(slice) => (slice.data_type(), slice.shape()),
            };
            if data_type != spec.data_type {
                return refuse(format!(
                    "the memory for output '{name}' is {data_type}, but the model makes {}",
                    spec.data_type
                ));
            }
            if data_type == DataType::Bytes {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("output '{name}' has byte strings, which cannot be written in place"),
                )
                .about_tensor(name));
            }
            if !spec.dims.is_empty() && !spec.accepts(shape) {
                return refuse(format!(
                    "the memory for output '{name}' has the shape {}, but the model makes {}",
                    ShapeText(shape),
                    ShapeText(&spec.dims)
                ));
            }
        }
        Ok(wanted)
    }

    /// See [`Model::expected_shapes`](crate::Model::expected_shapes).
    pub(super) fn expected_shapes(&self, inputs: &[(&str, &[usize])]) -> Vec<Option<Vec<usize>>> {
        let specs = &self.inputs.specs;
        let position = |name: &str| specs.iter().position(|spec| spec.name == name);
        let order: Few<usize> = inputs
            .iter()
            .filter_map(|(name, _)| position(name))
            .collect();
        let complete = inputs.len() == order.len()
            && (0..self.required_inputs).all(|index| order.contains(&index));
        let shapes = order
            .iter()
            .copied()
            .zip(inputs.iter().map(|(_, shape)| *shape));
        if complete {
            self.predicted.expected(shapes)
        } else {
            vec![None; self.outputs.specs.len()]
        }
    }
}

fn refused_input(name: &str, message: String) -> Error {
    Error::new(ErrorKind::InvalidInput, message).about_tensor(name)
}

/// Says which input a failure is about.
pub(super) fn about_input(name: &str, error: Error) -> Error {
    error
        .context(format_args!("input '{name}'"))
        .about_tensor(name)
}

/// Says which output a failure is about.
pub(super) fn about_output(name: &str, error: Error) -> Error {
    error
        .context(format_args!("output '{name}'"))
        .about_tensor(name)
}
