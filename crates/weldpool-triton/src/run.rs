//! One run of a model for a group of requests.
//!
//! An input is read where Triton keeps it if it lies there in one piece at an address that its
//! elements allow; if not it is copied to memory of the pool, with those of the other requests of
//! its group.

use weldpool_engine::{
    Canceller, DataType, Input, Instance as EngineInstance, Output, Tensor, TensorSlice,
    TensorSliceMut,
};

use crate::batch::Asked;
use crate::clock::Times;
use crate::error::{Error, Result};
use crate::execute::Member;
use crate::faults::Place;
use crate::few::{Dims, Few};
use crate::gather::gather;
use crate::model::ModelState;
use crate::places::Places;

/// One run of the model.
pub(crate) struct Run<'m> {
    pub(crate) model: &'m ModelState,
    pub(crate) canceller: Option<&'m Canceller>,
    pub(crate) times: Times,
    /// The items of all requests together.
    pub(crate) batch_size: usize,
}

/// An input as a run reads it.
enum Held<'r> {
    /// Where Triton keeps it.
    InPlace(&'r [u8]),
    /// Copied to the pool.
    Gathered(Tensor),
}

impl Run<'_> {
    /// Runs the model; the outputs by the model's order, none where nobody wants one or where it is
    /// in the answer already.
    pub(crate) fn infer(
        &mut self,
        engine: &mut dyn EngineInstance,
        group: &[Member<'_>],
    ) -> Result<Few<Option<Tensor>>> {
        self.model.faults.reach(Place::BeforeRun)?;
        let ports = &self.model.ports;
        let first = group
            .first()
            .ok_or_else(|| Error::internal("there is nothing to run"))?;
        let shape_of = |position: usize| -> Dims {
            let mut shape = first.asked.inputs[position].shape.clone();
            if ports.max_batch_size > 0
                && let Some(items) = shape.first_mut()
            {
                *items = self.batch_size;
            }
            shape
        };
        let input_shapes: Few<Dims> = (0..first.asked.inputs.len()).map(shape_of).collect();
        let held = input_shapes
            .iter()
            .enumerate()
            .map(|(position, shape)| self.hold(group, position, shape))
            .collect::<Result<Few<_>>>()?;
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
            .collect::<Result<Few<_>>>()?;

        let mut places = match group {
            [alone] => Places::reserve(
                ports,
                alone,
                self.known_shapes(&alone.asked),
                &held_in_place(&held),
            )?,
            _ => Places::default(),
        };
        let wanted = wanted(group);
        let mut outputs = wanted
            .iter()
            .map(|port| Output::new(&ports.outputs[*port].name))
            .collect::<Few<_>>();
        for place in places.direct() {
            let output = wanted.iter().position(|port| *port == place.port);
            if let Some(output) = output.and_then(|output| outputs.get_mut(output)) {
                let data_type = ports.outputs[place.port].data_type;
                let slice = TensorSliceMut::new(data_type, &place.shape, place.bytes)?;
                *output = Output::into_slice(output.name, slice);
            }
        }

        self.times.computing();
        let made = self.run(engine, group, &inputs, &mut outputs);
        drop(outputs);
        self.times.computed();
        let mut made = made?.into_iter();
        self.model.faults.reach(Place::AfterRun)?;
        let mut by_port: Few<Option<Tensor>> = ports.outputs.iter().map(|_| None).collect();
        for port in wanted {
            by_port[port] = made.next().flatten();
        }
        places.copy_from(ports, &mut by_port)?;
        Ok(by_port)
    }

    /// Runs the model until it ends or nobody waits for it any more.
    fn run(
        &self,
        engine: &mut dyn EngineInstance,
        group: &[Member<'_>],
        inputs: &[Input<'_>],
        outputs: &mut [Output<'_>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(canceller) = self.canceller else {
            return Ok(engine.run_with(inputs, outputs)?);
        };
        let requests = group
            .iter()
            .map(|member| member.responder.request())
            .collect::<Result<Few<_>>>()?;
        let run = || engine.run_with(inputs, outputs);
        Ok(self.model.watcher.during(&requests, canceller, run)?)
    }

    /// The shapes that outputs of a request have, as far as that is sure before it runs.
    fn known_shapes(&self, asked: &Asked) -> Vec<Option<Vec<usize>>> {
        let ports = &self.model.ports;
        let inputs: Few<(&str, &[usize])> = asked
            .inputs
            .iter()
            .map(|given| {
                (
                    ports.inputs[given.port].name.as_str(),
                    given.shape.as_slice(),
                )
            })
            .collect();
        let mut shapes = self.model.model.expected_shapes(&inputs);
        if ports.max_batch_size > 0 {
            // What does not begin with the batch is no answer, and is refused when it is there.
            for shape in &mut shapes {
                shape.take_if(|shape| shape.first() != Some(&self.batch_size));
            }
        }
        shapes
    }

    /// Brings an input of all requests of a group into one piece, where it is not in one already.
    fn hold<'r>(
        &self,
        group: &'r [Member<'_>],
        position: usize,
        shape: &[usize],
    ) -> Result<Held<'r>> {
        let mut pieces = Few::new();
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
}

/// The outputs that any request of a group wants, in the model's order.
fn wanted(group: &[Member<'_>]) -> Few<usize> {
    let wanted = group.iter().flat_map(|member| &member.asked.outputs);
    let mut wanted: Few<usize> = wanted.copied().collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

fn held_in_place<'r>(held: &[Held<'r>]) -> Few<&'r [u8]> {
    let in_place = |held: &Held<'r>| match held {
        Held::InPlace(bytes) => Some(*bytes),
        Held::Gathered(_) => None,
    };
    held.iter().filter_map(in_place).collect()
}
