//! Bringing pieces together for a run, and taking its results apart again.

use std::ops::Range;

use weldpool::{Allocator, Request};
use weldpool_engine::{DataType, Tensor};

use crate::error::{Error, Result};

/// Copies pieces, one behind the other, to a tensor in memory of the pool.
///
/// # Errors
/// `Unavailable` if the pool has no memory; `InvalidArgument` if the bytes do not fit type and
/// shape.
pub(crate) fn gather(
    allocator: &Allocator,
    data_type: DataType,
    shape: &[usize],
    pieces: &[&[u8]],
) -> Result<Tensor> {
    let total = pieces.iter().map(|piece| piece.len()).sum();
    if total == 0 {
        return Ok(Tensor::new(data_type, shape.to_vec(), None)?);
    }
    let mut buffer = allocator.allocate_with(&Request::new(total).name("gathered"))?;
    {
        let mut guard = buffer.write::<u8>()?;
        let mut rest: &mut [u8] = &mut guard;
        for piece in pieces {
            let (here, after) = rest.split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = after;
        }
    }
    Ok(Tensor::new(
        data_type,
        shape.to_vec(),
        Some(buffer.share()),
    )?)
}

/// Where the items of a batch lie in an output.
#[derive(Debug)]
pub(crate) enum Rows {
    /// Each takes so many bytes.
    Even(usize),
    /// Where each begins, and where the last ends.
    Uneven(Vec<usize>),
}

/// Finds the items of a batch of so many in an output.
///
/// # Errors
/// `Internal` if its first dimension is not the batch's.
pub(crate) fn rows(
    data_type: DataType,
    shape: &[usize],
    bytes: &[u8],
    batch_size: usize,
) -> Result<Rows> {
    let Some((first, item)) = shape
        .split_first()
        .filter(|(first, _)| **first == batch_size)
    else {
        return Err(Error::internal(format!(
            "its shape is {shape:?}, which does not begin with the {batch_size} items of the batch"
        )));
    };
    if data_type != DataType::Bytes {
        return Ok(Rows::Even(bytes.len().checked_div(*first).unwrap_or(0)));
    }
    let strings_per_item = weldpool_engine::element_count(item).unwrap_or(usize::MAX);
    let cut = || Error::internal("its strings are cut short");
    let mut starts = vec![0];
    let mut at = 0_usize;
    for _ in 0..batch_size {
        for _ in 0..strings_per_item {
            let length = bytes
                .get(at..)
                .and_then(<[u8]>::first_chunk)
                .ok_or_else(cut)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
            at = at
                .checked_add(4)
                .and_then(|at| at.checked_add(length))
                .filter(|at| *at <= bytes.len())
                .ok_or_else(cut)?;
        }
        starts.push(at);
    }
    Ok(Rows::Uneven(starts))
}

impl Rows {
    /// The bytes of items `start` to `end`.
    ///
    /// # Errors
    /// `Internal` if there are not so many.
    pub(crate) fn range(&self, start: usize, end: usize) -> Result<Range<usize>> {
        let range = match self {
            Rows::Even(size) => start.checked_mul(*size).zip(end.checked_mul(*size)),
            Rows::Uneven(starts) => starts.get(start).copied().zip(starts.get(end).copied()),
        };
        range
            .map(|(from, to)| from..to)
            .ok_or_else(|| Error::internal(format!("it has no items {start} to {end}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one() {
        let allocator = Allocator::host().unwrap();
        let tensor = gather(&allocator, DataType::Uint8, &[5], &[b"ab", b"", b"cde"]).unwrap();
        assert_eq!(&tensor.bytes().unwrap()[..], b"abcde");
        let empty = gather(&allocator, DataType::Fp32, &[0, 3], &[b"", b""]).unwrap();
        assert_eq!(empty.byte_len(), 0);
        assert!(gather(&allocator, DataType::Uint8, &[4], &[b"abcde"]).is_err());
    }

    #[test]
    fn numbers_lie_evenly() {
        let rows = rows(DataType::Fp32, &[3, 2], &[0; 24], 3).unwrap();
        assert_eq!(rows.range(0, 1).unwrap(), 0..8);
        assert_eq!(rows.range(1, 3).unwrap(), 8..24);
    }

    #[test]
    fn strings_lie_where_they_lie() {
        let mut bytes = Vec::new();
        for text in ["a", "", "ccc", "dd"] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
            bytes.extend(text.bytes());
        }
        let rows = rows(DataType::Bytes, &[2, 2], &bytes, 2).unwrap();
        assert_eq!(rows.range(0, 1).unwrap(), 0..9);
        assert_eq!(rows.range(1, 2).unwrap(), 9..22);
        assert!(rows.range(1, 3).is_err());
        assert!(super::rows(DataType::Bytes, &[2, 2], &bytes[..20], 2).is_err());
    }

    #[test]
    fn an_output_without_the_batch_is_refused() {
        assert!(rows(DataType::Fp32, &[4], &[0; 16], 3).is_err());
        assert!(rows(DataType::Fp32, &[], &[0; 4], 1).is_err());
    }
}
