//! The elements of a tensor as JSON: read into pool memory, written from it.
//!
//! Elements stand in row-major order, in one array or nested in any way; only their number must
//! fit the shape. Integers must be written as such and be within the range of their type. Floats
//! may be any number, `NaN`, `Infinity` or `-Infinity`. FP16 and BF16 have no JSON form.

use std::str::FromStr;

use serde_json::ser::{CompactFormatter, Formatter};
use weldpool::{Allocator, Buffer, BufferView, Element, Request};
use weldpool_engine::{DataType, Tensor};

use super::errors;
use super::json::{JsonError, Kind, Number, Reader};
use super::limits::Limits;
use crate::{Error, Result};

/// What is known of a tensor before its elements are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described<'a> {
    /// The tensor in messages, such as `input 'x'`.
    pub(crate) subject: &'a str,
    pub(crate) data_type: DataType,
    pub(crate) shape: &'a [usize],
    /// The product of the shape.
    pub(crate) count: usize,
}

/// Reads the elements of a tensor from `reader` into memory of `allocator`.
///
/// # Errors
/// `InvalidArgument` if they do not fit the description, `Unavailable` without memory.
pub(crate) fn read(
    tensor: Described<'_>,
    reader: &mut Reader<'_>,
    allocator: &Allocator,
    limits: &Limits,
) -> Result<Tensor> {
    let reading = Reading {
        tensor,
        allocator,
        limits,
    };
    errors::field(
        format_args!("{}: 'data'", tensor.subject),
        reader.expect(Kind::Array),
    )?;
    // An element takes a character and a comma at least: a shape that claims more than the text
    // can hold is refused before memory is taken for it.
    if tensor.count > reader.remaining() / 2 + 1 {
        return Err(reading.miscounted("fewer"));
    }
    let data = match tensor.data_type {
        DataType::Bool => reading.booleans(reader)?,
        DataType::Uint8 => reading.integers::<u8>(reader)?,
        DataType::Uint16 => reading.integers::<u16>(reader)?,
        DataType::Uint32 => reading.integers::<u32>(reader)?,
        DataType::Uint64 => reading.integers::<u64>(reader)?,
        DataType::Int8 => reading.integers::<i8>(reader)?,
        DataType::Int16 => reading.integers::<i16>(reader)?,
        DataType::Int32 => reading.integers::<i32>(reader)?,
        DataType::Int64 => reading.integers::<i64>(reader)?,
        DataType::Fp32 => reading.numbers(reader, single)?,
        DataType::Fp64 => reading.numbers(reader, |number| number.float())?,
        DataType::Bytes => reading.strings(reader)?,
        DataType::Fp16 | DataType::Bf16 => {
            return Err(Error::invalid_argument(format!(
                "{}: {} has no JSON form; send it as binary data",
                tensor.subject, tensor.data_type
            )));
        }
    };
    Tensor::new(tensor.data_type, tensor.shape.to_vec(), data)
        .map_err(|error| errors::tensor(tensor.subject, &error))
}

/// JSON numbers are doubles to the clients that write them, so they are rounded twice.
#[allow(clippy::cast_possible_truncation)]
fn single(number: Number<'_>) -> Option<f32> {
    number.float().map(|value| value as f32)
}

struct Reading<'a> {
    tensor: Described<'a>,
    allocator: &'a Allocator,
    limits: &'a Limits,
}

impl Reading<'_> {
    fn booleans(&self, reader: &mut Reader<'_>) -> Result<Option<BufferView>> {
        self.fill(reader, |index, reader| {
            let value = self.kind(index, reader.bool())?;
            Ok(u8::from(value))
        })
    }

    fn integers<T: Element + FromStr>(
        &self,
        reader: &mut Reader<'_>,
    ) -> Result<Option<BufferView>> {
        self.numbers(reader, |number| number.integer::<T>())
    }

    fn numbers<T: Element>(
        &self,
        reader: &mut Reader<'_>,
        convert: impl Fn(Number<'_>) -> Option<T>,
    ) -> Result<Option<BufferView>> {
        self.fill(reader, |index, reader| {
            let number = self.kind(index, reader.number())?;
            convert(number).ok_or_else(|| self.not_of_the_type(index, number))
        })
    }

    /// Reads as many elements as the shape has, each with `element`, into new memory.
    fn fill<T: Element>(
        &self,
        reader: &mut Reader<'_>,
        element: impl Fn(usize, &mut Reader<'_>) -> Result<T>,
    ) -> Result<Option<BufferView>> {
        let count = self.tensor.count;
        if count == 0 {
            each(reader, &mut |reader| {
                reader.skip()?;
                Err(self.miscounted("more"))
            })?;
            return Ok(None);
        }
        let bytes = count
            .checked_mul(size_of::<T>())
            .filter(|&bytes| bytes <= self.limits.tensor_bytes_max);
        let bytes = bytes.ok_or_else(|| self.too_large())?;
        let mut buffer = self
            .allocator
            .allocate_with(&Request::new(bytes).name("input"))
            .map_err(|error| errors::memory(self.tensor.subject, &error))?;
        {
            let mut room = buffer
                .write::<T>()
                .map_err(|error| errors::memory(self.tensor.subject, &error))?;
            let mut index = 0;
            each(reader, &mut |reader| {
                let value = element(index, reader)?;
                *room.get_mut(index).ok_or_else(|| self.miscounted("more"))? = value;
                index += 1;
                Ok(())
            })?;
            if index < count {
                return Err(self.miscounted("fewer"));
            }
        }
        Ok(Some(buffer.share()))
    }

    /// Reads strings. How many bytes they take is not known before, so they are gathered first.
    fn strings(&self, reader: &mut Reader<'_>) -> Result<Option<BufferView>> {
        let mut gathered = Vec::new();
        let mut index = 0;
        each(reader, &mut |reader| {
            let string = self.kind(index, reader.string())?;
            if index >= self.tensor.count {
                return Err(self.miscounted("more"));
            }
            index += 1;
            let length = u32::try_from(string.len()).map_err(|_| self.too_large())?;
            gathered.extend_from_slice(&length.to_le_bytes());
            gathered.extend_from_slice(string.as_bytes());
            if gathered.len() > self.limits.tensor_bytes_max {
                Err(self.too_large())
            } else {
                Ok(())
            }
        })?;
        if index < self.tensor.count {
            return Err(self.miscounted("fewer"));
        }
        let buffer = copied(self.tensor.subject, &gathered, self.allocator)?;
        Ok(buffer.map(Buffer::share))
    }

    fn kind<T>(&self, index: usize, value: std::result::Result<T, JsonError>) -> Result<T> {
        errors::field(
            format_args!("{}: element {index} of 'data'", self.tensor.subject),
            value,
        )
    }

    fn not_of_the_type(&self, index: usize, number: Number<'_>) -> Error {
        let Described {
            subject, data_type, ..
        } = self.tensor;
        Error::invalid_argument(format!(
            "{subject}: element {index} of 'data' is {}, which is not a value of {data_type}",
            abbreviated(number.text())
        ))
    }

    fn miscounted(&self, how: &str) -> Error {
        let Described {
            subject,
            shape,
            count,
            ..
        } = self.tensor;
        Error::invalid_argument(format!(
            "{subject}: shape {} has {count} elements, but 'data' has {how}",
            ShapeText(shape)
        ))
    }

    fn too_large(&self) -> Error {
        errors::too_large(format!(
            "{}: the elements take more than {} bytes",
            self.tensor.subject, self.limits.tensor_bytes_max
        ))
    }
}

/// Calls `element` at each value that is not an array, in an array nested in any way.
fn each<F>(reader: &mut Reader<'_>, element: &mut F) -> Result<()>
where
    F: FnMut(&mut Reader<'_>) -> Result<()>,
{
    reader.array(|reader| match reader.kind()? {
        Kind::Array => each(reader, element),
        _ => element(reader),
    })
}

/// The same bytes in new pool memory; none if there are none.
pub(crate) fn copied(subject: &str, bytes: &[u8], allocator: &Allocator) -> Result<Option<Buffer>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut buffer = allocator
        .allocate_with(&Request::new(bytes.len()).name("input"))
        .map_err(|error| errors::memory(subject, &error))?;
    buffer
        .write::<u8>()
        .map_err(|error| errors::memory(subject, &error))?
        .copy_from_slice(bytes);
    Ok(Some(buffer))
}

/// A text from a client, short enough for a message.
pub(crate) fn abbreviated(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A shape as Triton writes it in messages, without spaces.
pub(crate) struct ShapeText<'a, T>(pub(crate) &'a [T]);

impl<T: std::fmt::Display> std::fmt::Display for ShapeText<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[")?;
        for (index, dimension) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dimension}")?;
        }
        f.write_str("]")
    }
}

/// Appends the elements of a tensor to `text` as one flat JSON array.
///
/// Single-precision floats are written with as few digits as lead back to them.
///
/// # Errors
/// `InvalidArgument` if the tensor has no JSON form: FP16, BF16, and strings that are not UTF-8.
/// `Unavailable` if its memory is being written.
pub(crate) fn write(subject: &str, tensor: &Tensor, text: &mut Vec<u8>) -> Result<()> {
    match tensor.data_type() {
        DataType::Bool => numbers::<u8>(subject, tensor, text, |value, text| {
            text.extend_from_slice(if *value == 0 { b"false" } else { b"true" });
        }),
        DataType::Uint8 => numbers::<u8>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_u8(t, *v))
        }),
        DataType::Uint16 => numbers::<u16>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_u16(t, *v))
        }),
        DataType::Uint32 => numbers::<u32>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_u32(t, *v))
        }),
        DataType::Uint64 => numbers::<u64>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_u64(t, *v))
        }),
        DataType::Int8 => numbers::<i8>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_i8(t, *v))
        }),
        DataType::Int16 => numbers::<i16>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_i16(t, *v))
        }),
        DataType::Int32 => numbers::<i32>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_i32(t, *v))
        }),
        DataType::Int64 => numbers::<i64>(subject, tensor, text, |v, text| {
            number(text, |f, t| f.write_i64(t, *v))
        }),
        DataType::Fp32 => numbers::<f32>(subject, tensor, text, |v, text| single_float(text, *v)),
        DataType::Fp64 => numbers::<f64>(subject, tensor, text, |v, text| float(text, *v)),
        DataType::Bytes => strings(subject, tensor, text),
        DataType::Fp16 | DataType::Bf16 => Err(Error::invalid_argument(format!(
            "{subject}: {} has no JSON form; request it as binary data",
            tensor.data_type()
        ))),
    }
}

/// Appends a single-precision float to JSON text, with as few digits as lead back to it when they
/// are read as a double and rounded, which is how clients read numbers.
fn single_float(text: &mut Vec<u8>, value: f32) {
    /// The only magnitude whose shortest digits lead to its neighbour, of all there are: they are
    /// nearer to a double half-way between the two than to any other.
    const ROUNDED_TWICE: f32 = f32::from_bits(0x15ae_43fd);
    if value.is_finite() && value.abs() != ROUNDED_TWICE {
        number(text, |formatter, text| formatter.write_f32(text, value));
    } else {
        float(text, f64::from(value));
    }
}

/// Appends a double to JSON text, NaN and the infinities as Triton writes them.
pub(crate) fn float(text: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        number(text, |formatter, text| formatter.write_f64(text, value));
    } else {
        not_finite(text, value);
    }
}

fn not_finite(text: &mut Vec<u8>, value: f64) {
    text.extend_from_slice(match value {
        f64::INFINITY => b"Infinity",
        f64::NEG_INFINITY => b"-Infinity",
        _ => b"NaN",
    });
}

/// Writing to memory cannot fail.
fn number(
    text: &mut Vec<u8>,
    write: impl FnOnce(&mut CompactFormatter, &mut Vec<u8>) -> std::io::Result<()>,
) {
    write(&mut CompactFormatter, text).unwrap_or_default();
}

fn numbers<T: weldpool_engine::Scalar>(
    subject: &str,
    tensor: &Tensor,
    text: &mut Vec<u8>,
    write: impl Fn(&T, &mut Vec<u8>),
) -> Result<()> {
    let values = tensor
        .values::<T>()
        .map_err(|error| errors::tensor(subject, &error))?;
    list(values.iter(), text, |value, text| {
        write(value, text);
        Ok(())
    })
}

fn strings(subject: &str, tensor: &Tensor, text: &mut Vec<u8>) -> Result<()> {
    let strings = tensor
        .strings()
        .map_err(|error| errors::tensor(subject, &error))?;
    list(strings.iter().enumerate(), text, |(index, string), text| {
        let string = std::str::from_utf8(string).map_err(|_| {
            Error::invalid_argument(format!(
                "{subject}: element {index} is not UTF-8 and has no JSON form; request it as binary data"
            ))
        })?;
        string_to(text, string);
        Ok(())
    })
}

/// Appends a string to JSON text. Writing to memory cannot fail.
pub(crate) fn string_to(text: &mut Vec<u8>, string: &str) {
    serde_json::to_writer(text, string).unwrap_or_default();
}

/// Appends an array to JSON text.
pub(crate) fn list<I: IntoIterator>(
    items: I,
    text: &mut Vec<u8>,
    mut write: impl FnMut(I::Item, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    text.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        write(item, text)?;
    }
    text.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: f32) -> String {
        let mut text = Vec::new();
        single_float(&mut text, value);
        String::from_utf8(text).unwrap()
    }

    #[test]
    #[allow(clippy::cast_possible_truncation)]
    fn singles_survive_a_client_that_reads_doubles() {
        assert_eq!(written(0.1), "0.1");
        let sample = (0..=u32::MAX)
            .step_by(65_537)
            .map(f32::from_bits)
            .filter(|value| value.is_finite());
        for value in sample.chain([
            7.038_531e-26,
            -7.038_531e-26,
            f32::MAX,
            f32::MIN_POSITIVE,
            1e-45,
        ]) {
            let text = written(value);
            assert_eq!(
                (text.parse::<f64>().unwrap() as f32).to_bits(),
                value.to_bits(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_finite_has_tritons_names() {
        assert_eq!(
            [f32::NAN, f32::INFINITY, -f32::INFINITY].map(written),
            ["NaN", "Infinity", "-Infinity"]
        );
    }
}
