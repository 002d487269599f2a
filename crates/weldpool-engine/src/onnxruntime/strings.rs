//! Byte strings between tensors and the library. The library keeps strings as objects of its own,
//! so these are copied once in each direction: the one type that is.

use weldpool::{Allocator, Request};

use super::raw::{Api, Status, Value};
use super::status::{During, error};
use crate::tensor::{LENGTH_BYTES, put_string};
use crate::{DataType, Error, ErrorKind, Result, StringsIter, Tensor};

/// A tensor of the library's with copies of these strings, one per element.
pub(super) fn to_value(
    api: Api,
    shape: &[i64],
    strings: StringsIter<'_>,
) -> Result<Value<'static>> {
    let run = |status| error(status, During::Run);
    let mut value = Value::strings(api, shape).map_err(run)?;
    for (index, string) in strings.enumerate() {
        value.set_string(index, string).map_err(run)?;
    }
    Ok(value)
}

/// A tensor in the pool with copies of the strings of a tensor of the library's.
pub(super) fn from_value(
    allocator: &Allocator,
    shape: Vec<usize>,
    count: usize,
    value: &Value<'_>,
) -> Result<Tensor> {
    let lengths = (0..count)
        .map(|index| value.string_len(index))
        .collect::<std::result::Result<Vec<usize>, Status>>()
        .map_err(|status| error(status, During::Run))?;
    let total = lengths
        .iter()
        .try_fold(0_usize, |total, length| {
            u32::try_from(*length).ok()?;
            total.checked_add(LENGTH_BYTES)?.checked_add(*length)
        })
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the model made a byte string of 4 GiB or more",
            )
        })?;
    if total == 0 {
        return Tensor::new(DataType::Bytes, shape, None);
    }
    let mut buffer = allocator.allocate_with(&Request::new(total).name("tensor"))?;
    {
        let mut guard = buffer.write::<u8>()?;
        let mut rest: &mut [u8] = &mut guard;
        for (index, length) in lengths.iter().enumerate() {
            rest = put_string(rest, *length, |room| value.get_string(index, room))
                .map_err(|status| error(status, During::Run))?;
        }
    }
    Tensor::new(DataType::Bytes, shape, Some(buffer.share()))
}
