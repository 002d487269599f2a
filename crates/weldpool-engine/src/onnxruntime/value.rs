//! Tensors as the library's values: what goes in, what is written, what comes out.

use std::ops::Deref;

use smallvec::SmallVec;
use weldpool::{Allocator, Request, WriteGuard};

use super::raw::{self, AllocatorTable, Api, MemoryInfo, Taken, Value};
use super::status::{During, error};
use super::strings;
use crate::shape::ShapeText;
use crate::tensor::{TensorBytes, checked_strings};
use crate::{
    DataType, Error, ErrorKind, Input, InputData, Result, StringsIter, Tensor, TensorSliceMut,
    element_count,
};

/// A shape as the library has it.
type Dims = SmallVec<[i64; 6]>;

/// An input while it is held for a run: nobody writes it meanwhile.
pub(super) struct Held<'t> {
    data_type: DataType,
    dims: &'t [usize],
    shape: Dims,
    bytes: Bytes<'t>,
}

/// The memory of an input.
enum Bytes<'t> {
    Pool(TensorBytes<'t>),
    Borrowed(&'t [u8]),
}

impl Deref for Bytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Pool(bytes) => bytes,
            Bytes::Borrowed(bytes) => bytes,
        }
    }
}

impl<'t> Held<'t> {
    /// Holds an input.
    pub(super) fn new(input: &Input<'t>) -> Result<Held<'t>> {
        Ok(Held {
            data_type: input.data_type(),
            dims: input.shape(),
            shape: wire_shape(input.shape())?,
            bytes: match input.data {
                InputData::Tensor(tensor) => Bytes::Pool(tensor.bytes()?),
                InputData::Slice(slice) => Bytes::Borrowed(slice.bytes()),
            },
        })
    }

    /// The value a run reads: over the input's memory, or a copy of its strings.
    pub(super) fn value(&self, api: Api, host_memory: &MemoryInfo) -> Result<Value<'_>> {
        if self.data_type == DataType::Bytes {
            // A tensor's memory may have been written since the tensor was made.
            checked_strings(self.dims, &self.bytes)?;
            return strings::to_value(api, &self.shape, StringsIter::over(&self.bytes));
        }
        Value::reading(host_memory, self.data_type, &self.shape, &self.bytes)
            .map_err(|status| error(status, During::Run))
    }

    /// Whether an address lies in the input's memory.
    fn contains(&self, address: *const u8) -> bool {
        self.bytes.as_ptr_range().contains(&address)
    }
}

/// An output's memory while it is held for a run: nobody else touches it meanwhile.
pub(super) struct Target<'t> {
    data_type: DataType,
    shape: Dims,
    bytes: Room<'t>,
}

/// The memory of an output.
enum Room<'t> {
    None,
    Pool(WriteGuard<'t, u8>),
    Borrowed(&'t mut [u8]),
}

impl<'t> Target<'t> {
    /// Holds the memory of a tensor.
    pub(super) fn tensor(tensor: &'t Tensor) -> Result<Target<'t>> {
        Ok(Target {
            data_type: tensor.data_type(),
            shape: wire_shape(tensor.shape())?,
            bytes: match tensor.data() {
                Some(view) => Room::Pool(view.write::<u8>()?),
                None => Room::None,
            },
        })
    }

    /// Borrowed memory, held by its borrow.
    pub(super) fn slice(slice: &'t mut TensorSliceMut<'_>) -> Result<Target<'t>> {
        Ok(Target {
            data_type: slice.data_type(),
            shape: wire_shape(slice.shape())?,
            bytes: Room::Borrowed(slice.bytes_mut()),
        })
    }

    /// The value a run writes, over the output's memory.
    pub(super) fn value(&mut self, host_memory: &MemoryInfo) -> Result<Value<'_>> {
        let bytes = match &mut self.bytes {
            Room::None => &mut [],
            Room::Pool(guard) => &mut **guard,
            Room::Borrowed(bytes) => &mut **bytes,
        };
        Value::writing(host_memory, self.data_type, &self.shape, bytes)
            .map_err(|status| error(status, During::Run))
    }
}

/// Turns an output that the library made into a tensor of the pool: its memory is taken over where
/// it is the pool's already, and copied otherwise.
pub(super) fn into_tensor(
    value: Value<'_>,
    expected: DataType,
    allocator: &Allocator,
    table: Option<&AllocatorTable>,
    inputs: &[Held<'_>],
) -> Result<Tensor> {
    let run = |status| error(status, During::Run);
    let (number, dims) = value.tensor().map_err(run)?;
    let data_type = raw::data_type(number)
        .filter(|data_type| *data_type == expected)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Execution,
                format!("the model made elements of ONNX type {number} instead of {expected}"),
            )
        })?;
    let shape = dims
        .iter()
        .map(|dim| usize::try_from(*dim).ok())
        .collect::<Option<Vec<usize>>>();
    let counted = shape.and_then(|shape| element_count(&shape).map(|count| (shape, count)));
    let (shape, count) = counted.ok_or_else(|| {
        Error::new(
            ErrorKind::Execution,
            format!("the model made a tensor of shape {dims:?}"),
        )
    })?;
    if data_type == DataType::Bytes {
        return strings::from_value(allocator, shape, count, &value);
    }
    let bytes = value.bytes().map_err(run)?;
    let length = bytes.len();
    if length == 0 {
        return Tensor::new(data_type, shape, None);
    }
    // A model may hand an input through: its memory is the caller's, not the library's to give.
    let handed_through = inputs.iter().any(|input| input.contains(bytes.as_ptr()));
    let value = match table.filter(|_| !handed_through) {
        Some(table) => match value.take_buffer(table).map_err(run)? {
            Taken::Buffer(buffer) => {
                return Tensor::new(data_type, shape, Some(buffer.share().slice(0..length)?));
            }
            Taken::Elsewhere(value) => value,
        },
        None => value,
    };
    let mut buffer = allocator.allocate_with(&Request::new(length).name("tensor"))?;
    buffer
        .write::<u8>()?
        .copy_from_slice(value.bytes().map_err(run)?);
    Tensor::new(data_type, shape, Some(buffer.share()))
}

/// Copies an output that the library made to a tensor of the caller's.
pub(super) fn copy_to_tensor(made: &Value<'_>, tensor: &Tensor) -> Result<()> {
    match tensor.data() {
        Some(view) => copy(made, tensor.shape(), &mut view.write::<u8>()?),
        None => copy(made, tensor.shape(), &mut []),
    }
}

/// Copies an output that the library made to memory that the caller has lent.
pub(super) fn copy_to_slice(made: &Value<'_>, slice: &mut TensorSliceMut<'_>) -> Result<()> {
    copy(made, slice.shape(), slice.bytes_mut())
}

/// Copies to room for a tensor of this shape.
fn copy(made: &Value<'_>, shape: &[usize], room: &mut [u8]) -> Result<()> {
    let run = |status| error(status, During::Run);
    let (_, dims) = made.tensor().map_err(run)?;
    let bytes = made.bytes().map_err(run)?;
    if wire_shape(shape)?[..] != dims[..] || room.len() != bytes.len() {
        return Err(Error::new(
            ErrorKind::InvalidOutput,
            format!(
                "the memory given has the shape {}, but this run makes {}",
                ShapeText(shape),
                ShapeText(&dims)
            ),
        ));
    }
    room.copy_from_slice(bytes);
    Ok(())
}

/// A shape in the library's integers.
fn wire_shape(shape: &[usize]) -> Result<Dims> {
    shape
        .iter()
        .map(|size| i64::try_from(*size))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| {
            Error::new(
                ErrorKind::InvalidInput,
                "a dimension is larger than 2^63 - 1",
            )
        })
}
