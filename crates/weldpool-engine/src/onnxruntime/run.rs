//! Running a loaded model.

use std::sync::Arc;

use super::Few;
use super::cancellation::{Cancellable, Cancellation};
use super::plan::{Inputs, Place, Planned, about_input, about_output};
use super::raw::Value;
use super::session::{Loaded, refused};
use super::status::{During, error};
use super::value::{Held, copy_to_slice, copy_to_tensor, into_tensor};
use crate::instance::missing;
use crate::shape::ShapeText;
use crate::{Canceller, Error, ErrorKind, Input, Instance, Output, Result, Tensor};

/// One execution of a model. The session is shared: the library allows runs side by side.
#[derive(Debug)]
pub(super) struct OrtInstance {
    cancellation: Cancellation,
    model: Arc<Loaded>,
}

impl OrtInstance {
    pub(super) fn new(model: Arc<Loaded>) -> Result<OrtInstance> {
        let options = model.settings.run_options(model.environment.api())?;
        Ok(OrtInstance {
            cancellation: Cancellation::new(options),
            model,
        })
    }
}

impl Instance for OrtInstance {
    fn run_with(
        &mut self,
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<Vec<Option<Tensor>>> {
        let model = &*self.model;
        let order = model.check_inputs(inputs)?;
        let inputs = Inputs {
            given: inputs,
            order: &order,
        };
        let mut planned = model.plan(inputs, outputs)?;
        let run = Run {
            model,
            cancellation: &self.cancellation,
            cancellable: self.cancellation.begin(),
            inputs,
        };
        let result = run.attempt(&mut planned);
        if model.settings.shrinks_pool() {
            let given_back = model.allocator.clear();
            tracing::trace!("gave {given_back} bytes back to the device");
        }
        let tensors = result?;
        let made = planned.iter().zip(&tensors).filter_map(|(output, tensor)| {
            let tensor = tensor.as_ref().map(Tensor::shape);
            Some((output.index, tensor.or(output.place.given_shape())?))
        });
        model.predicted.learn(inputs.shapes(), made);
        Ok(tensors)
    }

    fn canceller(&self) -> Option<Canceller> {
        Some(self.cancellation.canceller())
    }
}

/// One run, which may take several executions.
struct Run<'r> {
    model: &'r Loaded,
    cancellation: &'r Cancellation,
    cancellable: Cancellable,
    inputs: Inputs<'r>,
}

impl Run<'_> {
    /// Runs with the guesses made, then without, and finds out what is wrong if neither works.
    fn attempt(&self, planned: &mut [Planned<'_>]) -> Result<Vec<Option<Tensor>>> {
        let failed = |result: &Result<_>| matches!(result, Err(error) if error.kind() == ErrorKind::Execution);
        let mut result = self.execute(planned);
        if failed(&result) && planned.iter().any(Planned::is_guessed) {
            result = self.execute_without_guesses(planned);
        }
        if failed(&result) && planned.iter().any(Planned::is_given) {
            self.check_given(planned)?;
        }
        result
    }

    /// Runs again and lets the library make what was guessed; guesses that turn out wrong are not
    /// made again.
    fn execute_without_guesses(&self, planned: &mut [Planned<'_>]) -> Result<Vec<Option<Tensor>>> {
        let guesses: Vec<Option<Tensor>> = planned
            .iter_mut()
            .map(
                |output| match std::mem::replace(&mut output.place, Place::Library) {
                    Place::Guess(tensor) => Some(tensor),
                    place => {
                        output.place = place;
                        None
                    }
                },
            )
            .collect();
        let tensors = self.execute(planned)?;
        for ((output, guess), tensor) in planned.iter().zip(guesses).zip(&tensors) {
            if let (Some(guess), Some(tensor)) = (guess, tensor)
                && guess.shape() != tensor.shape()
            {
                self.model.predicted.give_up(output.index);
            }
        }
        Ok(tensors)
    }

    /// After a failed run, finds out whether memory that the caller gave has the wrong shape: only
    /// a run without it tells which would be right. A shape that we had guessed is not guessed again.
    fn check_given(&self, planned: &[Planned<'_>]) -> Result<()> {
        let mut free: Vec<Planned<'_>> = planned
            .iter()
            .map(|output| Planned {
                index: output.index,
                place: Place::Library,
                handed_through: output.handed_through,
            })
            .collect();
        let made = match self.execute(&mut free) {
            Ok(made) => made,
            // Not about the given memory: this is why the run fails whatever was given.
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::OutOfMemory) => {
                return Err(error);
            }
            Err(_) => return Ok(()),
        };
        let mut wrong = None;
        for (output, made) in planned.iter().zip(made) {
            let (Some(given), Some(made)) = (output.place.given_shape(), made) else {
                continue;
            };
            if given == made.shape() {
                continue;
            }
            let shapes = self.inputs.shapes();
            self.model.predicted.refute(shapes, output.index, given);
            let name = &self.model.outputs.specs[output.index].name;
            wrong.get_or_insert_with(|| {
                Error::new(
                    ErrorKind::InvalidOutput,
                    format!(
                        "the memory for output '{name}' has the shape {}, but this run makes {}",
                        ShapeText(given),
                        ShapeText(made.shape())
                    ),
                )
                .about_tensor(name)
            });
        }
        wrong.map_or(Ok(()), Err)
    }

    /// One execution, with everything checked before.
    fn execute(&self, planned: &mut [Planned<'_>]) -> Result<Vec<Option<Tensor>>> {
        let held = self
            .inputs
            .given
            .iter()
            .map(|input| Held::new(input).map_err(|error| about_input(input.name, error)))
            .collect::<Result<Few<_>>>()?;
        let made = self.execute_held(&held, planned)?;
        planned
            .iter_mut()
            .zip(made)
            .map(|(output, value)| self.finish(output, value, &held))
            .collect()
    }

    /// Lets the library run. Returns the values it made, in the places of outputs that it was given
    /// no memory for.
    fn execute_held<'h>(
        &'h self,
        held: &'h [Held<'_>],
        planned: &mut [Planned<'_>],
    ) -> Result<Few<Option<Value<'h>>>> {
        let model = self.model;
        let api = model.environment.api();
        let host_memory = model.environment.host_memory();

        let values = held
            .iter()
            .zip(self.inputs.given)
            .map(|(held, input)| {
                held.value(api, host_memory)
                    .map_err(|error| about_input(input.name, error))
            })
            .collect::<Result<Few<_>>>()?;
        let named_inputs: Few<_> = self
            .inputs
            .order
            .iter()
            .zip(&values)
            .map(|(index, value)| (model.inputs.names[*index].as_c_str(), value))
            .collect();

        let mut targets = planned
            .iter_mut()
            .map(|output| {
                let index = output.index;
                let target = output.target();
                Ok((index, target.map_err(|error| self.about(index, error))?))
            })
            .collect::<Result<Few<_>>>()?;
        let named_outputs = targets
            .iter_mut()
            .map(|(index, target)| {
                let value = target
                    .as_mut()
                    .map(|target| target.value(host_memory))
                    .transpose()
                    .map_err(|error| self.about(*index, error))?;
                Ok((model.outputs.names[*index].as_c_str(), value))
            })
            .collect::<Result<Few<_>>>()?;

        let refusals = model
            .table
            .as_ref()
            .map_or(0, |table| table.memory().refusals());
        model
            .session
            .run(self.cancellation.options(), &named_inputs, &named_outputs)
            .map_err(|status| error(status, During::Run))
            .map_err(|error| refused(error, model.table.as_deref(), refusals))
            .map_err(|error| self.cancellable.explain(error))
    }

    /// What the caller gets for an output: `None` for a slice of its own, which holds it then.
    fn finish(
        &self,
        output: &mut Planned<'_>,
        value: Option<Value<'_>>,
        held: &[Held<'_>],
    ) -> Result<Option<Tensor>> {
        let model = self.model;
        let spec = &model.outputs.specs[output.index];
        let made = || value.ok_or_else(|| missing(&spec.name));
        let about = |error| about_output(&spec.name, error);
        match (&mut output.place, output.handed_through) {
            (Place::Library, _) => {
                let table = model.table.as_deref();
                into_tensor(made()?, spec.data_type, &model.allocator, table, held)
                    .map(Some)
                    .map_err(about)
            }
            (Place::Tensor(tensor), true) => {
                copy_to_tensor(&made()?, tensor).map_err(about)?;
                Ok(Some(tensor.clone()))
            }
            (Place::Slice(slice), true) => {
                copy_to_slice(&made()?, slice).map_err(about)?;
                Ok(None)
            }
            (Place::Guess(tensor), _) => Ok(Some(tensor.clone())),
            (Place::Tensor(tensor), false) => Ok(Some(tensor.clone())),
            (Place::Slice(_), false) => Ok(None),
        }
    }

    fn about(&self, output: usize, error: Error) -> Error {
        about_output(&self.model.outputs.specs[output].name, error)
    }
}
