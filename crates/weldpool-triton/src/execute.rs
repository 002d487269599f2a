//! One execution: requests are checked, divided into groups that run together, run, and answered.
//!
//! An input is read where Triton keeps it if it lies there in one piece at an address that its
//! elements allow; if not it is copied to memory of the pool, with those of the other requests of
//! its group. An output of a request that runs alone is written to the answer's memory by the
//! model itself where its shape is known before; all others are copied there.

use weldpool_engine::{
    Canceller, DataType, ErrorKind, Input, Instance as EngineInstance, Output, Tensor, TensorSlice,
    TensorSliceMut,
};

use crate::batch::{Asked, Port};
use crate::clock::{Times, now_ns};
use crate::error::{Error, ErrorCode, Result};
use crate::faults::Place;
use crate::gather::{gather, rows};
use crate::handles::{Instance, Request};
use crate::instance::InstanceState;
use crate::model::ModelState;
use crate::responder::Responder;

/// Answers every request, well or not.
pub(crate) fn execute(
    instance: &Instance,
    state: &InstanceState,
    model: &ModelState,
    requests: Vec<Request>,
) {
    let times = Times::start();
    let responders: Vec<Responder<'_>> = requests
        .into_iter()
        .map(|request| Responder::new(instance, request, times))
        .collect();
    let mut members: Vec<Option<Member<'_>>> = responders
        .into_iter()
        .filter_map(|responder| Member::admit(responder, model))
        .map(Some)
        .collect();
    let asked = members.iter().flatten().map(|member| &member.asked);
    for positions in model.ports.groups(asked) {
        let group: Vec<Member<'_>> = positions
            .into_iter()
            .filter_map(|position| members.get_mut(position)?.take())
            .collect();
        let batch_size = group.iter().map(|member| member.asked.batch_size).sum();
        let mut execution = Execution {
            model,
            canceller: state.canceller.as_ref(),
            times,
            batch_size,
        };
        let result = execution.run(state.engine().as_mut(), group);
        if result.is_ok() {
            let times = execution.times.ending(now_ns());
            let batch_size = u64::try_from(batch_size).unwrap_or(u64::MAX);
            if let Err(error) = instance.report_batch(batch_size, times) {
                tracing::warn!("a batch is missing in the statistics: {error}");
            }
        }
    }
}

/// A request that was checked and is not answered yet.
#[derive(Debug)]
struct Member<'i> {
    responder: Responder<'i>,
    asked: Asked,
}

impl<'i> Member<'i> {
    /// Checks a request; one that cannot run, or that its client has given up, is answered.
    fn admit(responder: Responder<'i>, model: &ModelState) -> Option<Member<'i>> {
        let asked = responder.request().and_then(|request| {
            if request.is_cancelled()? {
                return Err(Error::new(
                    ErrorCode::Cancelled,
                    "the request was cancelled before it ran",
                ));
            }
            model.ports.check(request)
        });
        match asked {
            Ok(asked) => Some(Member { responder, asked }),
            Err(error) => {
                responder.fail(&error);
                None
            }
        }
    }
}

/// One run of the model, for a group of requests.
struct Execution<'m> {
    model: &'m ModelState,
    canceller: Option<&'m Canceller>,
    times: Times,
    /// The items of all requests together.
    batch_size: usize,
}

/// An input as a run reads it.
enum Held<'r> {
    /// Where Triton keeps it.
    InPlace(&'r [u8]),
    /// Copied to the pool.
    Gathered(Tensor),
}

/// Memory of an answer that is to be written before the run's results are looked at.
struct Prepared<'r> {
    port: usize,
    shape: &'r [usize],
    bytes: &'r mut [u8],
}

impl Execution<'_> {
    /// Runs the model and answers the requests.
    fn run(
        &mut self,
        engine: &mut dyn EngineInstance,
        mut group: Vec<Member<'_>>,
    ) -> Result<(), ()> {
        let made = self.infer(engine, &mut group);
        for member in &mut group {
            member.responder.set_times(self.times);
        }
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                for member in group {
                    member.responder.fail(&error);
                }
                return Err(());
            }
        };
        let mut start = 0;
        for member in group {
            let end = start + member.asked.batch_size;
            match self.fill(&member, &made, start, end) {
                Ok(()) => member.responder.succeed(),
                Err(error) => member.responder.fail(&error),
            };
            start = end;
            self.model.faults.reach_or_log(Place::BetweenAnswers);
        }
        Ok(())
    }

    /// Runs the model; the outputs by the model's order, none where nobody wants one or where it is
    /// in the answer already.
    fn infer(
        &mut self,
        engine: &mut dyn EngineInstance,
        group: &mut [Member<'_>],
    ) -> Result<Vec<Option<Tensor>>> {
        self.model.faults.reach(Place::BeforeRun)?;
        if let [alone] = group {
            let shapes = self.expected_shapes(&alone.asked);
            if shapes.iter().any(Option::is_some) {
                match self.attempt(engine, std::slice::from_ref(alone), &shapes) {
                    // The model makes another shape than was expected.
                    Err(Failed::Engine(error)) if error.kind() == ErrorKind::InvalidOutput => {
                        alone.responder.renew()?;
                    }
                    other => return other.map_err(Error::from),
                }
            }
        }
        Ok(self.attempt(engine, group, &[])?)
    }

    /// The shapes that outputs of a request are known to have before it runs.
    fn expected_shapes(&self, asked: &Asked) -> Vec<Option<Vec<usize>>> {
        let ports = &self.model.ports;
        let inputs: Vec<(&str, &[usize])> = asked
            .inputs
            .iter()
            .map(|given| {
                (
                    ports.inputs[given.port].name.as_str(),
                    given.shape.as_slice(),
                )
            })
            .collect();
        // By the outputs of the model, of which the configuration may choose some.
        let expected = self.model.model.expected_shapes(&inputs);
        let specs = self.model.model.outputs();
        let shape_of = |(port, output): (usize, &Port)| {
            if !asked.outputs.contains(&port) || output.data_type == DataType::Bytes {
                return None;
            }
            let position = specs.iter().position(|spec| spec.name == output.name)?;
            expected.get(position)?.clone()
        };
        ports.outputs.iter().enumerate().map(shape_of).collect()
    }

    /// One run. Outputs for which there is a shape are written to the answer of the one request.
    fn attempt(
        &mut self,
        engine: &mut dyn EngineInstance,
        group: &[Member<'_>],
        shapes: &[Option<Vec<usize>>],
    ) -> Result<Vec<Option<Tensor>>, Failed> {
        let ports = &self.model.ports;
        let first = group
            .first()
            .ok_or_else(|| Error::internal("there is nothing to run"))?;
        let shape_of = |position: usize| -> Vec<usize> {
            let mut shape = first.asked.inputs[position].shape.clone();
            if ports.max_batch_size > 0
                && let Some(items) = shape.first_mut()
            {
                *items = self.batch_size;
            }
            shape
        };
        let input_shapes: Vec<Vec<usize>> = (0..first.asked.inputs.len()).map(shape_of).collect();
        let held = input_shapes
            .iter()
            .enumerate()
            .map(|(position, shape)| self.hold(group, position, shape))
            .collect::<Result<Vec<_>>>()?;
        let inputs = held
            .iter()
            .zip(&input_shapes)
            .zip(&first.asked.inputs)
            .map(|((held, shape), given)| {
                let port = &ports.inputs[given.port];
                Ok(match held {
                    Held::Gathered(tensor) => Input::tensor(&port.name, tensor),
                    Held::InPlace(bytes) => {
                        let slice = TensorSlice::new(port.data_type, shape, bytes)
                            .map_err(|error| error.context(format!("input '{}'", port.name)))?;
                        Input::slice(&port.name, slice)
                    }
                })
            })
            .collect::<Result<Vec<_>, Failed>>()?;

        let mut prepared = Vec::new();
        for (port, shape) in shapes.iter().enumerate() {
            if let Some(shape) = shape {
                prepared.push(Prepared {
                    port,
                    shape,
                    bytes: self.add_output(first, port, shape)?,
                });
            }
        }
        let mut wanted: Vec<usize> = Vec::new();
        for member in group {
            for port in &member.asked.outputs {
                if !wanted.contains(port) {
                    wanted.push(*port);
                }
            }
        }
        let mut outputs = Vec::with_capacity(wanted.len());
        // Memory whose address does not allow the model to write there; copied to afterwards.
        let mut copied: Vec<Prepared<'_>> = Vec::new();
        for port in &wanted {
            let name = ports.outputs[*port].name.as_str();
            let place = prepared.iter().position(|output| output.port == *port);
            let Some(output) = place.map(|place| prepared.swap_remove(place)) else {
                outputs.push(Output::new(name));
                continue;
            };
            let data_type = ports.outputs[*port].data_type;
            if data_type.is_aligned(output.bytes) {
                let slice = TensorSliceMut::new(data_type, output.shape, output.bytes)?;
                outputs.push(Output::into_slice(name, slice));
            } else {
                outputs.push(Output::new(name));
                copied.push(output);
            }
        }

        self.times.computing();
        let mut run = || engine.run_with(&inputs, &mut outputs);
        let made = match self.canceller {
            Some(canceller) => {
                let requests = group
                    .iter()
                    .map(|member| member.responder.request())
                    .collect::<Result<Vec<_>>>()?;
                self.model.watcher.during(&requests, canceller, run)
            }
            None => run(),
        };
        self.times.computed();
        let made = made?;
        self.model.faults.reach(Place::AfterRun)?;
        let mut by_port: Vec<Option<Tensor>> = vec![None; ports.outputs.len()];
        for (port, tensor) in wanted.into_iter().zip(made) {
            by_port[port] = tensor;
        }
        for output in copied {
            if let Some(tensor) = by_port[output.port].take() {
                if tensor.shape() != output.shape {
                    return Err(Failed::Engine(weldpool_engine::Error::new(
                        ErrorKind::InvalidOutput,
                        "an output has another shape than was expected",
                    )));
                }
                output.bytes.copy_from_slice(&tensor.bytes()?);
            }
        }
        Ok(by_port)
    }

    /// Brings an input of all requests of a group into one piece, where it is not in one already.
    fn hold<'r>(
        &self,
        group: &'r [Member<'_>],
        position: usize,
        shape: &[usize],
    ) -> Result<Held<'r>> {
        let mut pieces = Vec::new();
        let mut data_type = DataType::Uint8;
        for member in group {
            let given = &member.asked.inputs[position];
            data_type = self.model.ports.inputs[given.port].data_type;
            let input = member.responder.request()?.input(given.index)?;
            pieces.extend(input.pieces()?);
        }
        match pieces.as_slice() {
            [] => Ok(Held::InPlace(&[])),
            [one] if data_type.is_aligned(one) => Ok(Held::InPlace(one)),
            _ => {
                self.model.faults.reach(Place::Gather)?;
                gather(&self.model.allocator, data_type, shape, &pieces).map(Held::Gathered)
            }
        }
    }

    /// Adds to an answer the outputs that are not in it yet: items `start` to `end` of what the
    /// run made.
    fn fill(
        &self,
        member: &Member<'_>,
        made: &[Option<Tensor>],
        start: usize,
        end: usize,
    ) -> Result<()> {
        for port in &member.asked.outputs {
            let Some(tensor) = made.get(*port).and_then(Option::as_ref) else {
                continue;
            };
            let about = |error: Error| {
                error.context(format!("output '{}'", self.model.ports.outputs[*port].name))
            };
            let bytes = tensor.bytes().map_err(Error::from).map_err(about)?;
            if self.model.ports.max_batch_size == 0 {
                self.add_output_of(member, *port, tensor.shape(), &bytes)
                    .map_err(about)?;
                continue;
            }
            let range = rows(tensor.data_type(), tensor.shape(), &bytes, self.batch_size)
                .and_then(|rows| rows.range(start, end))
                .map_err(about)?;
            let mut shape = tensor.shape().to_vec();
            if let Some(items) = shape.first_mut() {
                *items = end - start;
            }
            self.add_output_of(member, *port, &shape, &bytes[range])
                .map_err(about)?;
        }
        Ok(())
    }

    fn add_output_of(
        &self,
        member: &Member<'_>,
        port: usize,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<()> {
        let output = &self.model.ports.outputs[port];
        let response = member.responder.response()?;
        response
            .add_output(
                &output.c_name,
                output.triton_type(),
                &output.triton_shape(shape)?,
                bytes.len(),
            )?
            .copy_from_slice(bytes);
        Ok(())
    }

    /// Adds an output of numbers, of this shape, to an answer.
    fn add_output<'r>(
        &self,
        member: &'r Member<'_>,
        port: usize,
        shape: &[usize],
    ) -> Result<&'r mut [u8]> {
        let output = &self.model.ports.outputs[port];
        let bytes = weldpool_engine::element_count(shape)
            .zip(output.data_type.byte_size())
            .and_then(|(elements, size)| elements.checked_mul(size))
            .ok_or_else(|| Error::internal(format!("output '{}' is too large", output.name)))?;
        member.responder.response()?.add_output(
            &output.c_name,
            output.triton_type(),
            &output.triton_shape(shape)?,
            bytes,
        )
    }
}

/// Why an attempt failed.
enum Failed {
    /// The engine refused or failed.
    Engine(weldpool_engine::Error),
    /// Something around it.
    Here(Error),
}

impl From<weldpool_engine::Error> for Failed {
    fn from(error: weldpool_engine::Error) -> Failed {
        Failed::Engine(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Here(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::Engine(error) => Error::from(error),
            Failed::Here(error) => error,
        }
    }
}
