//! Tensors in borrowed memory that is nobody's pool: what a host program hands over for one run.

use std::fmt;

use crate::shape::ShapeText;
use crate::tensor::{StringsIter, checked_numbers, checked_strings};
use crate::{DataType, Error, ErrorKind, Result};

/// Elements of one type in borrowed memory that a run reads in place, dense and row-major.
///
/// Byte strings are encoded as in a [`Tensor`](crate::Tensor).
#[derive(Clone, Copy)]
pub struct TensorSlice<'a> {
    data_type: DataType,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl<'a> TensorSlice<'a> {
    /// A tensor over bytes that hold its elements. Nothing is copied or allocated.
    ///
    /// # Errors
    /// `InvalidInput` if the rank is above [`RANK_MAX`](crate::RANK_MAX), the size overflows, the
    /// bytes are not exactly as many as type and shape say, byte strings are cut short, left over
    /// or counted wrongly, or numbers lie at an address that is not a multiple of their size:
    /// engines compute on them where they are, which such an address does not allow.
    /// [`DataType::is_aligned`] tells beforehand, so that a caller can copy them to memory that is
    /// aligned.
    pub fn new(
        data_type: DataType,
        shape: &'a [usize],
        bytes: &'a [u8],
    ) -> Result<TensorSlice<'a>> {
        if data_type == DataType::Bytes {
            checked_strings(shape, bytes)?;
        } else {
            checked_numbers(data_type, shape, bytes.len())?;
            check_alignment(data_type, bytes)?;
        }
        Ok(TensorSlice {
            data_type,
            shape,
            bytes,
        })
    }

    /// The type of the elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The dimensions, outermost first; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The elements as they lie in memory.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements as byte strings.
    ///
    /// # Errors
    /// `InvalidInput` if the type is not [`DataType::Bytes`].
    pub fn strings(&self) -> Result<StringsIter<'a>> {
        if self.data_type == DataType::Bytes {
            return Ok(StringsIter::over(self.bytes));
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!("a {} tensor holds no byte strings", self.data_type),
        ))
    }
}

/// Borrowed memory that a run writes an output to, dense and row-major.
pub struct TensorSliceMut<'a> {
    data_type: DataType,
    shape: &'a [usize],
    bytes: &'a mut [u8],
}

impl<'a> TensorSliceMut<'a> {
    /// Memory for a tensor of exactly this type and shape. What it holds does not matter; a run
    /// that fails leaves it with arbitrary contents.
    ///
    /// # Errors
    /// `Unsupported` for byte strings, whose length only the run tells. `InvalidInput` if the rank
    /// is above [`RANK_MAX`](crate::RANK_MAX), the size overflows, the bytes are not exactly as
    /// many as type and shape say, or lie at an address that is not a multiple of the element's
    /// size, as for [`TensorSlice::new`].
    pub fn new(
        data_type: DataType,
        shape: &'a [usize],
        bytes: &'a mut [u8],
    ) -> Result<TensorSliceMut<'a>> {
        if data_type == DataType::Bytes {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "byte strings cannot be written in place: only the run tells their length",
            ));
        }
        checked_numbers(data_type, shape, bytes.len())?;
        check_alignment(data_type, bytes)?;
        Ok(TensorSliceMut {
            data_type,
            shape,
            bytes,
        })
    }

    /// The type of the elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// The dimensions, outermost first; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The elements as they lie in memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The memory, for writing.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The same memory, borrowed for less long.
    #[must_use]
    pub fn reborrow(&mut self) -> TensorSliceMut<'_> {
        TensorSliceMut {
            data_type: self.data_type,
            shape: self.shape,
            bytes: self.bytes,
        }
    }
}

impl fmt::Debug for TensorSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "TensorSlice", self.data_type, self.shape, self.bytes)
    }
}

impl fmt::Debug for TensorSliceMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(f, "TensorSliceMut", self.data_type, self.shape, self.bytes)
    }
}

/// Everything but the elements, of which there may be many.
fn describe(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    data_type: DataType,
    shape: &[usize],
    bytes: &[u8],
) -> fmt::Result {
    let shape = ShapeText(shape);
    write!(f, "{what} {{ {data_type} {shape}, {} bytes }}", bytes.len())
}

/// onnxruntime takes any address for a tensor's memory, but its kernels read and write the elements
/// as C++ does, to which they must be aligned: not all processors forgive it, nor all vector
/// instructions. More than the element's own alignment they do not ask for.
fn check_alignment(data_type: DataType, bytes: &[u8]) -> Result<()> {
    if data_type.is_aligned(bytes) {
        return Ok(());
    }
    let size = data_type.byte_size().unwrap_or(1);
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!(
            "{data_type} elements lie at an address that is no multiple of {size}; copy them to \
             aligned memory"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RANK_MAX;

    /// Runs `test` with 64 bytes whose address is a multiple of 64.
    fn with_memory(test: impl FnOnce(&mut [u8])) {
        let mut memory = [0_u8; 128];
        let start = memory.as_ptr().align_offset(64);
        test(&mut memory[start..start + 64]);
    }

    /// The errors that reading and writing this memory as a tensor have in common.
    fn refused(data_type: DataType, shape: &[usize], bytes: &mut [u8], part: &str) {
        let read = TensorSlice::new(data_type, shape, bytes).unwrap_err();
        let written = TensorSliceMut::new(data_type, shape, bytes).unwrap_err();
        for error in [read, written] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn sizes_and_ranks_are_checked() {
        with_memory(|memory| {
            refused(DataType::Fp32, &[2, 2], &mut memory[..15], "takes 16 bytes");
            refused(DataType::Fp32, &[2, 2], &mut memory[..20], "there are 20");
            refused(DataType::Bf16, &[], &mut [], "takes 2 bytes");
            refused(DataType::Fp32, &[0, 2], &mut memory[..4], "takes 0 bytes");
            refused(DataType::Bool, &[1; RANK_MAX + 1], &mut memory[..1], "33");
            let counted = "cannot be counted";
            refused(DataType::Fp64, &[usize::MAX / 4], &mut [], counted);
            refused(DataType::Uint8, &[usize::MAX, 2, 0], &mut [], counted);
        });
    }

    #[test]
    fn numbers_must_be_aligned() {
        with_memory(|memory| {
            let numbers = DataType::ALL.into_iter().filter_map(|one| {
                let size = one.byte_size()?;
                Some((one, size))
            });
            for (data_type, size) in numbers {
                for offset in 0..16 {
                    let bytes = &mut memory[offset..offset + 2 * size];
                    if offset % size > 0 {
                        refused(data_type, &[2], bytes, &format!("no multiple of {size}"));
                        continue;
                    }
                    TensorSlice::new(data_type, &[2], bytes).unwrap();
                    TensorSliceMut::new(data_type, &[2], bytes).unwrap();
                }
                // Nothing is read where there is nothing.
                TensorSlice::new(data_type, &[0], &memory[1..1]).unwrap();
                TensorSliceMut::new(data_type, &[3, 0], &mut memory[1..1]).unwrap();
            }
        });
    }

    #[test]
    fn byte_strings_are_checked_and_only_read() {
        let two = [1, 0, 0, 0, 7, 0, 0, 0, 0];
        with_memory(|memory| {
            // Anywhere.
            memory[3..12].copy_from_slice(&two);
            let slice = TensorSlice::new(DataType::Bytes, &[2, 1], &memory[3..12]).unwrap();
            let strings: Vec<_> = slice.strings().unwrap().collect();
            assert_eq!(strings, [&[7_u8][..], &[]]);
            let numbers = TensorSlice::new(DataType::Uint8, &[9], &memory[3..12]).unwrap();
            let error = numbers.strings().map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);

            let error = TensorSliceMut::new(DataType::Bytes, &[2], &mut memory[3..12]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        });
        for (shape, bytes, part) in [
            (&[3][..], &two[..], "3 strings expected, but there are 2"),
            (&[2], &two[..7], "string 1 is cut short"),
            (&[1], &two, "4 bytes follow"),
            (&[1; RANK_MAX + 1], &two, "dimensions"),
        ] {
            let error = TensorSlice::new(DataType::Bytes, shape, bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn the_memory_is_the_callers() {
        with_memory(|memory| {
            let address = memory.as_ptr();
            let mut slice = TensorSliceMut::new(DataType::Uint16, &[4, 8], memory).unwrap();
            assert_eq!(slice.reborrow().bytes().as_ptr(), address);
            slice.reborrow().bytes_mut()[63] = 5;
            assert_eq!(
                (slice.shape(), slice.data_type()),
                (&[4, 8][..], DataType::Uint16)
            );
            assert_eq!(
                format!("{slice:?}"),
                "TensorSliceMut { UINT16 [4,8], 64 bytes }"
            );
            assert_eq!(memory[63], 5);
            let slice = TensorSlice::new(DataType::Uint16, &[4, 8], memory).unwrap();
            assert_eq!(slice.bytes().as_ptr(), address);
        });
    }
}
