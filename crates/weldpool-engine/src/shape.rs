//! Shapes: what a model declares, and the arithmetic on what a request brings.

use std::fmt;

use crate::DataType;

/// The highest number of dimensions a tensor may have.
pub const RANK_MAX: usize = 32;

/// One dimension of a model's input or output.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Always this many.
    Known(usize),
    /// Decided by each request; with the model's name for it, where it gives one.
    Symbolic(Option<String>),
}

impl Dim {
    /// The number, if the model fixes it.
    #[must_use]
    pub const fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(size) => Some(*size),
            Dim::Symbolic(_) => None,
        }
    }

    /// The number as the protocol writes it: -1 where requests decide.
    #[must_use]
    pub fn wire(&self) -> i64 {
        self.known()
            .and_then(|size| i64::try_from(size).ok())
            .unwrap_or(-1)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(size) => write!(f, "{size}"),
            Dim::Symbolic(Some(name)) => f.write_str(name),
            Dim::Symbolic(None) => f.write_str("?"),
        }
    }
}

/// What a model says of one of its inputs or outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The tensor's name in the model.
    pub name: String,
    /// The type of its elements.
    pub data_type: DataType,
    /// Its dimensions, outermost first; none for a scalar.
    pub dims: Vec<Dim>,
}

impl TensorSpec {
    /// The shape, if the model fixes every dimension of it.
    #[must_use]
    pub fn static_shape(&self) -> Option<Vec<usize>> {
        self.dims.iter().map(Dim::known).collect()
    }

    /// The shape, if the model surely fixes it: one without dimensions may be a scalar's, or one
    /// that the model leaves out.
    pub(crate) fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.static_shape().filter(|shape| !shape.is_empty())
    }

    /// Whether a tensor of this shape is one the model takes: the rank is the same and each fixed
    /// dimension agrees.
    #[must_use]
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.dims.len() == shape.len()
            && self
                .dims
                .iter()
                .zip(shape)
                .all(|(dim, size)| dim.known().is_none_or(|known| known == *size))
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.name,
            self.data_type,
            ShapeText(&self.dims)
        )
    }
}

/// Writes a shape as `[2,3,n]`.
pub(crate) struct ShapeText<'a, T>(pub(crate) &'a [T]);

impl<T: fmt::Display> fmt::Display for ShapeText<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, dim) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// The number of elements of a shape, or `None` if it cannot be counted in a `usize`.
///
/// A dimension of zero makes the tensor empty, but does not excuse the others from fitting: no
/// later product over a part of the shape can overflow.
#[must_use]
pub fn element_count(shape: &[usize]) -> Option<usize> {
    let product = shape
        .iter()
        .filter(|size| **size != 0)
        .try_fold(1_usize, |product, size| product.checked_mul(*size))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_checked() {
        let cases: [(&[usize], Option<usize>); 6] = [
            (&[], Some(1)),
            (&[2, 3, 4], Some(24)),
            (&[2, 0, 4], Some(0)),
            (&[usize::MAX, 2], None),
            (&[usize::MAX, 2, 0], None),
            (&[usize::MAX], Some(usize::MAX)),
        ];
        for (shape, expected) in cases {
            assert_eq!(element_count(shape), expected, "{shape:?}");
        }
    }

    #[test]
    fn a_signature_accepts_what_it_says() {
        let spec = TensorSpec {
            name: "x".into(),
            data_type: DataType::Fp32,
            dims: vec![
                Dim::Symbolic(Some("batch".into())),
                Dim::Known(3),
                Dim::Symbolic(None),
            ],
        };
        assert!(spec.accepts(&[7, 3, 1]));
        assert!(!spec.accepts(&[7, 4, 1]));
        assert!(!spec.accepts(&[7, 3]));
        assert_eq!(spec.static_shape(), None);
        assert_eq!(spec.to_string(), "x FP32 [batch,3,?]");
        assert_eq!(
            spec.dims.iter().map(Dim::wire).collect::<Vec<_>>(),
            [-1, 3, -1]
        );
    }
}
