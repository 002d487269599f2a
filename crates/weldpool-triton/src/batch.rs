//! What the requests of one execution ask for, and which of them run together.

use std::borrow::Cow;
use std::ffi::CString;

use smallvec::smallvec;
use weldpool_engine::{DataType, TensorSlice, element_count};
use weldpool_triton_sys as sys;

use crate::error::{Error, Result};
use crate::few::{Dims, Few, Lone};
use crate::handles::{Input, OutputMemory, Request, Response};

/// An input or output of a model as requests and answers name it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// The name in the model and in requests.
    pub(crate) name: String,
    /// The same for Triton.
    pub(crate) c_name: CString,
    /// The type of its elements.
    pub(crate) data_type: DataType,
    /// Whether the model knows it as a scalar and Triton as one element.
    pub(crate) scalar: bool,
    /// Whether requests may leave it out.
    pub(crate) optional: bool,
}

impl Port {
    /// Triton's number of the element type.
    fn triton_type(&self) -> sys::DataType {
        triton_type(self.data_type)
    }

    /// The shape that the model sees.
    fn model_shape(&self, shape: &[i64]) -> Result<Dims> {
        if self.scalar && shape == [1] {
            return Ok(Dims::new());
        }
        shape
            .iter()
            .map(|size| {
                usize::try_from(*size).map_err(|_| {
                    Error::invalid(format!("input '{}' has the shape {shape:?}", self.name))
                })
            })
            .collect()
    }

    /// Adds this output to an answer.
    ///
    /// # Errors
    /// As [`Response::add_output`].
    pub(crate) fn add_to<'r>(
        &self,
        response: &'r Response,
        shape: &[usize],
        bytes: usize,
    ) -> Result<OutputMemory<'r>> {
        let shape = self.triton_shape(shape)?;
        response.add_output(&self.c_name, self.triton_type(), &shape, bytes)
    }

    /// The shape that Triton is told.
    fn triton_shape(&self, shape: &[usize]) -> Result<Dims<i64>> {
        if self.scalar && shape.is_empty() {
            return Ok(smallvec![1]);
        }
        shape
            .iter()
            .map(|size| {
                i64::try_from(*size).map_err(|_| {
                    Error::internal(format!("output '{}' has the shape {shape:?}", self.name))
                })
            })
            .collect()
    }
}

/// What requests to a model may ask for.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    /// The most items that run together; 0 if the model knows no batches.
    pub(crate) max_batch_size: usize,
}

/// An input of a request that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// Its position among the model's inputs.
    pub(crate) port: usize,
    /// Its position in the request.
    pub(crate) index: u32,
    /// The shape that the model sees.
    pub(crate) shape: Dims,
}

/// A request that was checked: it can be run, alone or with others.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The inputs, in the model's order.
    pub(crate) inputs: Few<Given>,
    /// Positions of the wanted outputs, in the model's order, each once.
    pub(crate) outputs: Few<usize>,
    /// Its items; 1 if the model knows no batches.
    pub(crate) batch_size: usize,
}

impl Ports {
    /// Checks a request against the model.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the input or output.
    pub(crate) fn check(&self, request: &Request) -> Result<Asked> {
        let mut inputs = (0..request.input_count()?)
            .map(|index| self.check_input(index, &request.input(index)?))
            .collect::<Result<Few<_>>>()?;
        inputs.sort_by_key(|given| given.port);
        if let Some(twice) = inputs.windows(2).find(|pair| pair[0].port == pair[1].port) {
            let name = &self.inputs[twice[0].port].name;
            return Err(Error::invalid(format!("input '{name}' is given twice")));
        }
        let missing = self.inputs.iter().enumerate().find(|(position, port)| {
            !port.optional && inputs.iter().all(|given| given.port != *position)
        });
        if let Some((_, port)) = missing {
            return Err(Error::invalid(format!("input '{}' is missing", port.name)));
        }
        let batch_size = self.batch_size(&inputs)?;
        let wanted = request.wanted_outputs()?;
        let mut outputs = Few::with_capacity(wanted.len());
        for name in &wanted {
            let is_it = |port: &Port| port.name.as_bytes() == *name;
            let position = self.outputs.iter().position(is_it);
            let position = position.ok_or_else(|| {
                let name = String::from_utf8_lossy(name);
                Error::invalid(format!("the model has no output '{name}'"))
            })?;
            if !outputs.contains(&position) {
                outputs.push(position);
            }
        }
        if wanted.is_empty() {
            outputs.extend(0..self.outputs.len());
        }
        outputs.sort_unstable();
        Ok(Asked {
            inputs,
            outputs,
            batch_size,
        })
    }

    fn check_input(&self, index: u32, input: &Input<'_>) -> Result<Given> {
        let named = |port: &Port| port.name.as_bytes() == input.name;
        let position = self.inputs.iter().position(named).ok_or_else(|| {
            let name = String::from_utf8_lossy(input.name);
            Error::invalid(format!("the model has no input '{name}'"))
        })?;
        let port = &self.inputs[position];
        let name = &port.name;
        if input.data_type != port.triton_type().number() {
            let given = sys::DataType::of(input.data_type).map(engine_type);
            return Err(Error::invalid(match given {
                Some(given) => format!("input '{name}' is {given}, not {}", port.data_type),
                None => format!("input '{name}' is of a type that is not known"),
            }));
        }
        let shape = port.model_shape(input.shape)?;
        let elements = element_count(&shape).ok_or_else(|| {
            Error::invalid(format!("input '{name}' of shape {shape:?} is too large"))
        })?;
        let expected = port.data_type.byte_size().map(|size| {
            elements
                .checked_mul(size)
                .and_then(|len| len.try_into().ok())
        });
        if expected.is_some_and(|expected: Option<u64>| expected != Some(input.byte_size)) {
            return Err(Error::invalid(format!(
                "input '{name}' of shape {shape:?} has {} bytes, not the {} of its type {}",
                input.byte_size,
                expected.flatten().unwrap_or(u64::MAX),
                port.data_type
            )));
        }
        // Looked at here, where it fails this request alone: the memory, bytes of BOOL, and strings, which would take
        // what they lack from those that are gathered behind them.
        let pieces = input.pieces()?;
        if port.data_type == DataType::Bool {
            let wrong = pieces.iter().copied().flatten().find(|byte| **byte > 1);
            if let Some(wrong) = wrong {
                let what =
                    format!("input '{name}' is BOOL, but has a byte {wrong}: 0 and 1 are allowed");
                return Err(Error::invalid(what));
            }
        }
        if port.data_type == DataType::Bytes && self.max_batch_size > 0 {
            check_strings(&pieces, &shape)
                .map_err(|error| error.context(format!("input '{name}'")))?;
        }
        Ok(Given {
            port: position,
            index,
            shape,
        })
    }

    fn batch_size(&self, inputs: &[Given]) -> Result<usize> {
        if self.max_batch_size == 0 {
            return Ok(1);
        }
        let name = |given: &Given| self.inputs[given.port].name.as_str();
        let mut batch_size = None;
        for given in inputs {
            let size = *given.shape.first().ok_or_else(|| {
                Error::invalid(format!("input '{}' has no batch dimension", name(given)))
            })?;
            if batch_size.is_some_and(|others| others != size) {
                return Err(Error::invalid(format!(
                    "the batch of input '{}' has {size} items, those of others more or fewer",
                    name(given)
                )));
            }
            batch_size = Some(size);
        }
        let batch_size = batch_size.unwrap_or(1);
        if batch_size > self.max_batch_size {
            return Err(Error::invalid(format!(
                "the batch has {batch_size} items, more than the {} that max_batch_size allows",
                self.max_batch_size
            )));
        }
        Ok(batch_size)
    }

    /// Divides requests into groups that run together: same inputs, same shapes but for the batch,
    /// no more items than allowed. Positions among those given, in their order.
    pub(crate) fn groups<'a>(
        &self,
        asked: impl IntoIterator<Item = &'a Asked>,
    ) -> Lone<Lone<usize>> {
        struct Group<'a> {
            first: &'a Asked,
            items: usize,
            positions: Lone<usize>,
        }
        let mut groups: Lone<Group<'_>> = Lone::new();
        for (position, request) in asked.into_iter().enumerate() {
            let joined = groups.iter_mut().find(|group| {
                self.max_batch_size > 0
                    && group.items + request.batch_size <= self.max_batch_size
                    && group.first.joins(request)
            });
            match joined {
                Some(group) => {
                    group.items += request.batch_size;
                    group.positions.push(position);
                }
                None => groups.push(Group {
                    first: request,
                    items: request.batch_size,
                    positions: smallvec![position],
                }),
            }
        }
        groups.into_iter().map(|group| group.positions).collect()
    }
}

impl Asked {
    /// Whether the inputs are the same ones, and of the same shapes but for the batch.
    fn joins(&self, other: &Asked) -> bool {
        self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(|(mine, others)| {
                mine.port == others.port && mine.shape.get(1..) == others.shape.get(1..)
            })
    }
}

fn check_strings(pieces: &[&[u8]], shape: &[usize]) -> Result<()> {
    let bytes = match pieces {
        [one] => Cow::Borrowed(*one),
        pieces => Cow::Owned(pieces.concat()),
    };
    TensorSlice::new(DataType::Bytes, shape, &bytes)?;
    Ok(())
}

/// The engine's name of an element type of Triton's.
pub(crate) fn engine_type(data_type: sys::DataType) -> DataType {
    match data_type {
        sys::DataType::Bool => DataType::Bool,
        sys::DataType::Uint8 => DataType::Uint8,
        sys::DataType::Uint16 => DataType::Uint16,
        sys::DataType::Uint32 => DataType::Uint32,
        sys::DataType::Uint64 => DataType::Uint64,
        sys::DataType::Int8 => DataType::Int8,
        sys::DataType::Int16 => DataType::Int16,
        sys::DataType::Int32 => DataType::Int32,
        sys::DataType::Int64 => DataType::Int64,
        sys::DataType::Fp16 => DataType::Fp16,
        sys::DataType::Fp32 => DataType::Fp32,
        sys::DataType::Fp64 => DataType::Fp64,
        sys::DataType::Bytes => DataType::Bytes,
        sys::DataType::Bf16 => DataType::Bf16,
    }
}

/// Triton's name of an element type of the engine's.
fn triton_type(data_type: DataType) -> sys::DataType {
    sys::DataType::ALL
        .iter()
        .copied()
        .find(|triton| engine_type(*triton) == data_type)
        // Every type of the engine's is one of Triton's, which a test shows.
        .unwrap_or(sys::DataType::Uint8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_engine_is_one_of_tritons() {
        for data_type in DataType::ALL {
            assert_eq!(engine_type(triton_type(data_type)), data_type);
        }
    }

    fn asked(port: usize, shape: &[usize]) -> Asked {
        Asked {
            inputs: smallvec![Given {
                port,
                index: 0,
                shape: shape.into(),
            }],
            outputs: smallvec![0],
            batch_size: shape.first().copied().unwrap_or(1),
        }
    }

    fn ports(max_batch_size: usize) -> Ports {
        Ports {
            inputs: Vec::new(),
            outputs: Vec::new(),
            max_batch_size,
        }
    }

    #[test]
    fn requests_of_one_shape_run_together_up_to_the_limit() {
        let requests = [
            asked(0, &[2, 5]),
            asked(0, &[1, 6]),
            asked(0, &[1, 5]),
            asked(1, &[1, 5]),
            asked(0, &[2, 5]),
            asked(0, &[1, 5]),
        ];
        let groups = ports(4).groups(&requests);
        let expected: [&[usize]; 4] = [&[0, 2, 5], &[1], &[3], &[4]];
        assert!(
            groups.iter().map(|group| &group[..]).eq(expected),
            "{groups:?}"
        );
    }

    #[test]
    fn without_batches_each_request_runs_alone() {
        let requests = [asked(0, &[2]), asked(0, &[2])];
        let groups = ports(0).groups(&requests);
        let expected: [&[usize]; 2] = [&[0], &[1]];
        assert!(
            groups.iter().map(|group| &group[..]).eq(expected),
            "{groups:?}"
        );
        assert!(ports(0).groups(&[]).is_empty());
    }

    #[test]
    fn a_scalar_of_the_model_is_one_element_for_triton() {
        let mut port = Port {
            name: "x".into(),
            c_name: c"x".into(),
            data_type: DataType::Fp32,
            scalar: true,
            optional: false,
        };
        assert!(port.model_shape(&[1]).unwrap().is_empty());
        assert_eq!(port.triton_shape(&[]).unwrap()[..], [1]);
        port.scalar = false;
        assert_eq!(port.model_shape(&[1]).unwrap()[..], [1]);
        assert!(port.model_shape(&[-1]).is_err());
    }
}
