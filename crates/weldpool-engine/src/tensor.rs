//! A tensor: a type, a shape and a view of pool memory.

use std::fmt;
use std::ops::Deref;

use weldpool::{Allocator, BufferView, Element, ReadGuard, Request};

use crate::shape::{RANK_MAX, ShapeText, element_count};
use crate::{DataType, Error, ErrorKind, Result};

/// Bytes in front of each byte string: its length, little-endian.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Elements of one type in a dense, row-major block of pool memory.
///
/// Byte strings lie one behind the other, each as a 32-bit little-endian length and its bytes:
/// the encoding of the KServe protocol's binary tensors.
///
/// Cloning is cheap and shares the memory. Contents are reached through guards only, so nobody
/// reads what somebody else is writing.
#[derive(Clone)]
pub struct Tensor {
    data_type: DataType,
    shape: Vec<usize>,
    elements: usize,
    data: Option<BufferView>,
}

impl Tensor {
    /// A tensor over memory that holds its elements already. `data` is `None` if, and only if,
    /// the tensor has no bytes.
    ///
    /// # Errors
    /// `InvalidInput` if the rank is above [`RANK_MAX`], the size overflows, the memory is not
    /// exactly as long as type and shape say, or byte strings are cut short, left over or counted
    /// wrongly. `Busy` if byte strings are being written at this moment.
    pub fn new(data_type: DataType, shape: Vec<usize>, data: Option<BufferView>) -> Result<Tensor> {
        let elements = match data_type.byte_size() {
            Some(_) => {
                let available = data.as_ref().map_or(0, BufferView::len);
                checked_numbers(data_type, &shape, available)?
            }
            None => checked_strings(&shape, &TensorBytes::of(data.as_ref())?)?,
        };
        Ok(Tensor {
            data_type,
            shape,
            elements,
            data: data.filter(|view| !view.is_empty()),
        })
    }

    /// A tensor of zeros in new memory: what outputs are written into. Byte strings are all empty.
    ///
    /// # Errors
    /// As [`Tensor::new`], and `OutOfMemory`.
    pub fn zeroed(allocator: &Allocator, data_type: DataType, shape: Vec<usize>) -> Result<Tensor> {
        Self::allocate(allocator, data_type, shape, true)
    }

    /// A tensor in new memory whose contents are arbitrary; byte strings are all empty.
    pub(crate) fn uninitialised(
        allocator: &Allocator,
        data_type: DataType,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        Self::allocate(allocator, data_type, shape, data_type == DataType::Bytes)
    }

    fn allocate(
        allocator: &Allocator,
        data_type: DataType,
        shape: Vec<usize>,
        zeroed: bool,
    ) -> Result<Tensor> {
        let elements = checked_count(data_type, &shape)?;
        let bytes = elements
            .checked_mul(data_type.byte_size().unwrap_or(LENGTH_BYTES))
            .ok_or_else(|| too_large(data_type, &shape))?;
        let data = match bytes {
            0 => None,
            _ => {
                let request = Request::new(bytes).name("tensor").zeroed(zeroed);
                Some(allocator.allocate_with(&request)?.share())
            }
        };
        Ok(Tensor {
            data_type,
            shape,
            elements,
            data,
        })
    }

    /// A tensor in new memory with these bytes copied into it; for callers whose bytes are not in
    /// pool memory yet.
    ///
    /// # Errors
    /// As [`Tensor::new`], and `OutOfMemory`.
    pub fn from_bytes(
        allocator: &Allocator,
        data_type: DataType,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<Tensor> {
        let data = if bytes.is_empty() {
            None
        } else {
            let mut buffer = allocator.allocate_with(&Request::new(bytes.len()).name("tensor"))?;
            buffer.write::<u8>()?.copy_from_slice(bytes);
            Some(buffer.share())
        };
        Self::new(data_type, shape, data)
    }

    /// A tensor of numbers in new memory with these elements copied into it.
    ///
    /// # Errors
    /// As [`Tensor::new`], and `OutOfMemory`.
    pub fn from_values<T: Scalar>(
        allocator: &Allocator,
        data_type: DataType,
        shape: Vec<usize>,
        values: &[T],
    ) -> Result<Tensor> {
        check_scalar::<T>(data_type)?;
        let bytes = size_of_val(values);
        let data = if bytes == 0 {
            None
        } else {
            let mut buffer = allocator.allocate_with(&Request::new(bytes).name("tensor"))?;
            buffer.write::<T>()?.copy_from_slice(values);
            Some(buffer.share())
        };
        Self::new(data_type, shape, data)
    }

    /// A tensor of byte strings in new memory.
    ///
    /// # Errors
    /// As [`Tensor::new`]; also `InvalidInput` if a string is 4 GiB or longer, and `OutOfMemory`.
    pub fn from_strings<S: AsRef<[u8]>>(
        allocator: &Allocator,
        shape: Vec<usize>,
        strings: &[S],
    ) -> Result<Tensor> {
        let total = strings.iter().try_fold(0_usize, |total, string| {
            let length = string.as_ref().len();
            u32::try_from(length).ok()?;
            total.checked_add(LENGTH_BYTES)?.checked_add(length)
        });
        let total = total.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                "a byte string of a BYTES tensor must be shorter than 4 GiB",
            )
        })?;
        let data = if total == 0 {
            None
        } else {
            let mut buffer = allocator.allocate_with(&Request::new(total).name("tensor"))?;
            {
                let mut guard = buffer.write::<u8>()?;
                let mut rest: &mut [u8] = &mut guard;
                for string in strings {
                    let string = string.as_ref();
                    rest = put_string(rest, string.len(), |room| {
                        room.copy_from_slice(string);
                        Ok::<(), Error>(())
                    })?;
                }
            }
            Some(buffer.share())
        };
        Self::new(DataType::Bytes, shape, data)
    }

    /// The type of the elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The dimensions, outermost first; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements there are.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.elements
    }

    /// How many bytes the elements take.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.data.as_ref().map_or(0, BufferView::len)
    }

    /// The memory; `None` if the tensor has no bytes.
    #[must_use]
    pub fn data(&self) -> Option<&BufferView> {
        self.data.as_ref()
    }

    /// The memory, by value.
    #[must_use]
    pub fn into_data(self) -> Option<BufferView> {
        self.data
    }

    /// The same elements under another shape with as many of them. Shares the memory.
    ///
    /// # Errors
    /// `InvalidInput` if the number of elements would change, or the rank is above [`RANK_MAX`].
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Tensor> {
        let elements = checked_count(self.data_type, &shape)?;
        if elements != self.elements {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "a tensor of shape {} has {} elements and cannot take the shape {}",
                    ShapeText(&self.shape),
                    self.elements,
                    ShapeText(&shape)
                ),
            ));
        }
        Ok(Tensor {
            data_type: self.data_type,
            shape,
            elements,
            data: self.data.clone(),
        })
    }

    /// The elements as they lie in memory.
    ///
    /// # Errors
    /// `Busy` while somebody writes them or device work on them is in flight.
    pub fn bytes(&self) -> Result<TensorBytes<'_>> {
        TensorBytes::of(self.data.as_ref())
    }

    /// The elements as numbers.
    ///
    /// # Errors
    /// `InvalidInput` if `T` does not hold this element type; `Busy` as [`Tensor::bytes`].
    pub fn values<T: Scalar>(&self) -> Result<Values<'_, T>> {
        check_scalar::<T>(self.data_type)?;
        Ok(Values(match &self.data {
            Some(view) => Some(view.read::<T>()?),
            None => None,
        }))
    }

    /// The elements as byte strings.
    ///
    /// # Errors
    /// `InvalidInput` if the type is not [`DataType::Bytes`], or the memory was overwritten with
    /// something else since the tensor was made; `Busy` as [`Tensor::bytes`].
    pub fn strings(&self) -> Result<Strings<'_>> {
        if self.data_type != DataType::Bytes {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a {} tensor holds no byte strings", self.data_type),
            ));
        }
        let bytes = self.bytes()?;
        validate_strings(&bytes, self.elements, &self.shape)?;
        Ok(Strings {
            bytes,
            count: self.elements,
        })
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tensor {{ {} {}, {} bytes }}",
            self.data_type,
            ShapeText(&self.shape),
            self.byte_len()
        )
    }
}

/// A Rust type that holds the elements of one or more [`DataType`]s, bit for bit.
pub trait Scalar: Element {
    /// The element types it holds.
    const DATA_TYPES: &'static [DataType];
}

macro_rules! scalars {
    ($($scalar:ty: $($data_type:ident)+;)+) => {
        $(impl Scalar for $scalar {
            const DATA_TYPES: &'static [DataType] = &[$(DataType::$data_type),+];
        })+
    };
}

scalars! {
    u8: Uint8 Bool;
    u16: Uint16 Fp16 Bf16;
    u32: Uint32;
    u64: Uint64;
    i8: Int8;
    i16: Int16;
    i32: Int32;
    i64: Int64;
    f32: Fp32;
    f64: Fp64;
    half::f16: Fp16;
    half::bf16: Bf16;
}

/// The bytes of a tensor, readable as a slice while this lives.
#[derive(Debug)]
pub struct TensorBytes<'a>(Option<ReadGuard<'a, u8>>);

impl<'a> TensorBytes<'a> {
    fn of(data: Option<&'a BufferView>) -> Result<TensorBytes<'a>> {
        Ok(TensorBytes(match data {
            Some(view) if !view.is_empty() => Some(view.read::<u8>()?),
            _ => None,
        }))
    }
}

impl Deref for TensorBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The numbers of a tensor, readable as a slice while this lives.
#[derive(Debug)]
pub struct Values<'a, T: Element>(Option<ReadGuard<'a, T>>);

impl<T: Element> Deref for Values<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The byte strings of a tensor, readable while this lives.
#[derive(Debug)]
pub struct Strings<'a> {
    bytes: TensorBytes<'a>,
    count: usize,
}

impl Strings<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each string, in order.
    #[must_use]
    pub fn iter(&self) -> StringsIter<'_> {
        StringsIter::over(&self.bytes)
    }
}

impl<'a> IntoIterator for &'a Strings<'_> {
    type Item = &'a [u8];
    type IntoIter = StringsIter<'a>;

    fn into_iter(self) -> StringsIter<'a> {
        self.iter()
    }
}

/// Goes over the byte strings of a tensor.
#[derive(Clone, Debug)]
pub struct StringsIter<'a> {
    rest: &'a [u8],
}

impl<'a> StringsIter<'a> {
    /// Goes over encoded strings; ends where no whole one follows.
    pub(crate) fn over(bytes: &'a [u8]) -> StringsIter<'a> {
        StringsIter { rest: bytes }
    }
}

impl<'a> Iterator for StringsIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (string, rest) = take_string(self.rest)?;
        self.rest = rest;
        Some(string)
    }
}

/// Splits the first byte string off, or `None` if there is no whole one.
fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// Writes the length of one byte string, lets `fill` write the string, and returns what is left of
/// the room. The caller has counted the room, and that the length fits its 32 bits.
pub(crate) fn put_string<E>(
    room: &mut [u8],
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<&mut [u8], E> {
    let (head, rest) = room.split_at_mut(LENGTH_BYTES);
    head.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    let (body, rest) = rest.split_at_mut(length);
    fill(body)?;
    Ok(rest)
}

/// Checks that so many bytes are what a tensor of numbers takes; returns how many elements it has.
pub(crate) fn checked_numbers(
    data_type: DataType,
    shape: &[usize],
    available: usize,
) -> Result<usize> {
    let elements = checked_count(data_type, shape)?;
    let expected = data_type
        .byte_size()
        .and_then(|size| elements.checked_mul(size))
        .ok_or_else(|| too_large(data_type, shape))?;
    if available == expected {
        return Ok(elements);
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "{data_type} tensor of shape {} takes {expected} bytes, but there are {available}",
            ShapeText(shape)
        ),
    ))
}

/// Checks that these bytes are the strings of a tensor; returns how many it has.
pub(crate) fn checked_strings(shape: &[usize], bytes: &[u8]) -> Result<usize> {
    let elements = checked_count(DataType::Bytes, shape)?;
    validate_strings(bytes, elements, shape)?;
    Ok(elements)
}

fn validate_strings(bytes: &[u8], elements: usize, shape: &[usize]) -> Result<()> {
    let invalid = |what: String| {
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("BYTES tensor of shape {}: {what}", ShapeText(shape)),
        ))
    };
    let mut rest = bytes;
    for index in 0..elements {
        match take_string(rest) {
            Some((_, after)) => rest = after,
            None if rest.is_empty() => {
                return invalid(format!(
                    "{elements} strings expected, but there are {index}"
                ));
            }
            None => return invalid(format!("string {index} is cut short")),
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        invalid(format!("{} bytes follow the last string", rest.len()))
    }
}

fn checked_count(data_type: DataType, shape: &[usize]) -> Result<usize> {
    if shape.len() > RANK_MAX {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "a tensor has at most {RANK_MAX} dimensions, not {}",
                shape.len()
            ),
        ));
    }
    element_count(shape).ok_or_else(|| too_large(data_type, shape))
}

fn too_large(data_type: DataType, shape: &[usize]) -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        format!(
            "the size of a {data_type} tensor of shape {} cannot be counted",
            ShapeText(shape)
        ),
    )
}

fn check_scalar<T: Scalar>(data_type: DataType) -> Result<()> {
    if T::DATA_TYPES.contains(&data_type) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "{} does not hold the elements of a {data_type} tensor",
            std::any::type_name::<T>()
        ),
    ))
}
