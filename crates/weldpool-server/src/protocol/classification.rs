//! The classification extension: the highest scores of an output, instead of the output.
//!
//! Each score becomes a string `value:index` or, where the model's configuration names the
//! classes, `value:index:label`. A batched output is classified row by row.

use std::cmp::Ordering;

use weldpool_engine::{DataType, Scalar, Tensor};

use super::errors;
use crate::{Error, Result};

/// The classes of one output, in place of its elements.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Classes {
    pub(crate) shape: Vec<usize>,
    /// For each row, its classes from the highest score to the lowest.
    pub(crate) strings: Vec<String>,
}

impl Classes {
    /// The strings in the encoding of binary tensors: each behind its 32-bit length.
    pub(crate) fn to_binary(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for string in &self.strings {
            // A class is a number, an index and a line of a label file.
            let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(string.as_bytes());
        }
        bytes
    }
}

/// Finds the `count` highest scores of each row of `tensor`, or all if there are fewer. Equal
/// scores keep their order, and NaN is below all others.
///
/// # Errors
/// `InvalidArgument` if the elements are not numbers that can be compared here: BOOL, FP16, BF16
/// and BYTES. `Unavailable` if the tensor is being written.
pub(crate) fn classify(
    subject: &str,
    tensor: &Tensor,
    batched: bool,
    count: u32,
    labels: &[String],
) -> Result<Classes> {
    let rows = if batched {
        tensor.shape().first().copied().unwrap_or(1)
    } else {
        1
    };
    let per_row = tensor.element_count().checked_div(rows).unwrap_or(0);
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(per_row);
    let ranking = Ranking {
        subject,
        tensor,
        per_row,
        count,
        labels,
    };
    let strings = match tensor.data_type() {
        DataType::Uint8 => ranking.integers::<u8>(),
        DataType::Uint16 => ranking.integers::<u16>(),
        DataType::Uint32 => ranking.integers::<u32>(),
        DataType::Uint64 => ranking.integers::<u64>(),
        DataType::Int8 => ranking.integers::<i8>(),
        DataType::Int16 => ranking.integers::<i16>(),
        DataType::Int32 => ranking.integers::<i32>(),
        DataType::Int64 => ranking.integers::<i64>(),
        DataType::Fp32 => ranking.floats::<f32>(),
        DataType::Fp64 => ranking.floats::<f64>(),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => {
            Err(Error::invalid_argument(format!(
                "{subject}: class result not available for output due to unsupported type '{}'",
                tensor.data_type()
            )))
        }
    }?;
    Ok(Classes {
        shape: if batched {
            vec![rows, count]
        } else {
            vec![count]
        },
        strings,
    })
}

struct Ranking<'a> {
    subject: &'a str,
    tensor: &'a Tensor,
    per_row: usize,
    count: usize,
    labels: &'a [String],
}

impl Ranking<'_> {
    fn integers<T: Scalar + Ord + std::fmt::Display>(&self) -> Result<Vec<String>> {
        self.rank::<T>(Ord::cmp, T::to_string)
    }

    fn floats<T: Scalar + Into<f64>>(&self) -> Result<Vec<String>> {
        let ascending = |left: &T, right: &T| {
            let (left, right): (f64, f64) = ((*left).into(), (*right).into());
            left.partial_cmp(&right)
                .unwrap_or_else(|| right.is_nan().cmp(&left.is_nan()))
        };
        self.rank::<T>(ascending, |value| {
            let value: f64 = (*value).into();
            // Triton's six decimals, and its spelling of NaN.
            if value.is_nan() {
                "nan".to_owned()
            } else {
                format!("{value:.6}")
            }
        })
    }

    fn rank<T: Scalar>(
        &self,
        ascending: impl Fn(&T, &T) -> Ordering,
        text_of: impl Fn(&T) -> String,
    ) -> Result<Vec<String>> {
        let values = self
            .tensor
            .values::<T>()
            .map_err(|error| errors::tensor(self.subject, &error))?;
        let mut strings = Vec::new();
        if self.count == 0 {
            return Ok(strings);
        }
        for row in values.chunks_exact(self.per_row) {
            let better = |left: &usize, right: &usize| {
                ascending(&row[*right], &row[*left]).then(left.cmp(right))
            };
            let mut order: Vec<usize> = (0..row.len()).collect();
            if self.count < order.len() {
                order.select_nth_unstable_by(self.count, better);
                order.truncate(self.count);
            }
            order.sort_unstable_by(better);
            for index in order {
                let value = text_of(&row[index]);
                let label = self.labels.get(index).filter(|label| !label.is_empty());
                strings.push(match label {
                    Some(label) => format!("{value}:{index}:{label}"),
                    None => format!("{value}:{index}"),
                });
            }
        }
        Ok(strings)
    }
}

#[cfg(test)]
mod tests {
    use weldpool::Allocator;

    use super::*;

    fn scores(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_values(
            &Allocator::host().unwrap(),
            DataType::Fp32,
            shape.to_vec(),
            values,
        )
        .unwrap()
    }

    #[test]
    fn rows_are_ranked_each() {
        let tensor = scores(&[2, 3], &[0.25, 5.0, 3.0, 9.0, 8.0, 9.0]);
        let labels = ["cat".to_owned(), String::new()];
        let classes = classify("o", &tensor, true, 2, &labels).unwrap();
        assert_eq!(classes.shape, [2, 2]);
        assert_eq!(
            classes.strings,
            ["5.000000:1", "3.000000:2", "9.000000:0:cat", "9.000000:2"]
        );
        let classes = classify("o", &tensor, false, 1, &[]).unwrap();
        assert_eq!(
            (classes.shape, classes.strings),
            (vec![1], vec!["9.000000:3".to_owned()])
        );
    }

    #[test]
    fn nan_is_last_and_infinity_first() {
        let tensor = scores(&[4], &[1.0, f32::NAN, 3.0, f32::INFINITY]);
        let classes = classify("o", &tensor, false, 9, &[]).unwrap();
        assert_eq!(
            classes.strings,
            ["inf:3", "3.000000:2", "1.000000:0", "nan:1"]
        );
    }

    #[test]
    fn nothing_has_no_classes() {
        assert_eq!(
            classify("o", &scores(&[0], &[]), false, 3, &[])
                .unwrap()
                .shape,
            [0]
        );
        assert_eq!(
            classify("o", &scores(&[0, 4], &[]), true, 3, &[])
                .unwrap()
                .shape,
            [0, 0]
        );
        assert_eq!(
            classify("o", &scores(&[2, 0], &[]), true, 3, &[])
                .unwrap()
                .shape,
            [2, 0]
        );
    }

    #[test]
    fn strings_have_no_order() {
        let tensor = Tensor::from_strings(&Allocator::host().unwrap(), vec![1], &["a"]).unwrap();
        let error = classify("output 'o'", &tensor, false, 1, &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("'o'") && error.contains("'BYTES'"),
            "{error}"
        );
    }

    #[test]
    fn the_binary_form_has_lengths() {
        let classes = classify("o", &scores(&[1], &[2.0]), false, 1, &[]).unwrap();
        assert_eq!(classes.to_binary(), b"\x0a\0\0\x002.000000:0");
    }
}
