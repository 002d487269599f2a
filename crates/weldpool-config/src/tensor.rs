//! An input or output as requests see it, and the way to the shape that the model sees.

use weldpool_engine::{DataType, TensorSpec};

use super::proto::ModelTensorReshape;

/// One input or output of a served model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorConfig {
    /// Its name, in requests and in the model.
    pub name: String,
    /// The type of its elements.
    pub data_type: DataType,
    /// Its shape in requests, -1 where each request decides. The first dimension is the batch
    /// if the model is batched.
    pub shape: Vec<i64>,
    /// Whether requests may leave it out; for inputs only.
    pub optional: bool,
    /// The file with its labels, relative to the model's directory; for outputs only.
    pub label_filename: Option<String>,
    batched: bool,
    /// The shape of the model without the batch dimension, where it is another one.
    reshape: Option<Vec<i64>>,
}

impl TensorConfig {
    pub(super) fn new(
        name: &str,
        data_type: DataType,
        dims: &[i64],
        reshape: Option<&ModelTensorReshape>,
        spec: Option<&TensorSpec>,
        batched: bool,
    ) -> TensorConfig {
        let batch = batched.then_some(-1);
        // A scalar has no shape to write in `dims`; requests give it with ones.
        let scalar = spec.is_some_and(|spec| spec.dims.is_empty() && !dims.is_empty());
        TensorConfig {
            name: name.to_owned(),
            data_type,
            shape: batch.into_iter().chain(dims.iter().copied()).collect(),
            optional: false,
            label_filename: None,
            batched,
            reshape: reshape
                .map(|reshape| reshape.shape.clone())
                .or_else(|| scalar.then(Vec::new)),
        }
    }

    /// The shape that the model sees for a tensor of this shape in a request.
    ///
    /// Equal unless the configuration has a `reshape`. Variable dimensions keep their order.
    #[must_use]
    pub fn model_shape(&self, request_shape: &[usize]) -> Vec<usize> {
        match &self.reshape {
            Some(reshape) => self.reshaped(request_shape, self.dims(), reshape),
            None => request_shape.to_vec(),
        }
    }

    /// The shape that a client sees for a tensor that the model made: the inverse of
    /// [`model_shape`](Self::model_shape).
    #[must_use]
    pub fn request_shape(&self, model_shape: &[usize]) -> Vec<usize> {
        match &self.reshape {
            Some(reshape) => self.reshaped(model_shape, reshape, self.dims()),
            None => model_shape.to_vec(),
        }
    }

    /// The shape without the batch dimension.
    fn dims(&self) -> &[i64] {
        &self.shape[usize::from(self.batched)..]
    }

    fn reshaped(&self, shape: &[usize], from: &[i64], to: &[i64]) -> Vec<usize> {
        let (batch, items) = shape.split_at(usize::from(self.batched).min(shape.len()));
        if items.len() != from.len() {
            // Not a shape of this tensor; whoever checks it says so.
            return shape.to_vec();
        }
        let mut variable = items
            .iter()
            .zip(from)
            .filter(|(_, declared)| **declared == -1)
            .map(|(size, _)| *size);
        let sizes = to
            .iter()
            .map(|declared| match usize::try_from(*declared) {
                Ok(size) => size,
                Err(_) => variable.next().unwrap_or(1),
            })
            .collect::<Vec<_>>();
        batch.iter().copied().chain(sizes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[i64], reshape: Option<&[i64]>, batched: bool) -> TensorConfig {
        let reshape = reshape.map(|shape| ModelTensorReshape {
            shape: shape.to_vec(),
        });
        TensorConfig::new("x", DataType::Fp32, dims, reshape.as_ref(), None, batched)
    }

    #[test]
    fn reshapes_lead_there_and_back() {
        type Case<'a> = (&'a [i64], Option<&'a [i64]>, bool, &'a [usize], &'a [usize]);
        let cases: [Case<'_>; 6] = [
            (&[3], None, true, &[2, 3], &[2, 3]),
            (&[1], Some(&[]), true, &[2, 1], &[2]),
            (&[1], Some(&[]), false, &[1], &[]),
            (&[-1, 4, 2], Some(&[-1, 8]), false, &[5, 4, 2], &[5, 8]),
            (
                &[-1, 4, -1],
                Some(&[-1, 2, 2, -1]),
                true,
                &[9, 5, 4, 7],
                &[9, 5, 2, 2, 7],
            ),
            (&[6], Some(&[2, 3]), true, &[0, 6], &[0, 2, 3]),
        ];
        for (dims, reshape, batched, request, model) in cases {
            let tensor = tensor(dims, reshape, batched);
            assert_eq!(tensor.model_shape(request), model, "{dims:?}");
            assert_eq!(tensor.request_shape(model), request, "{dims:?}");
        }
        // Shapes of another rank come back as they are.
        assert_eq!(
            tensor(&[1], Some(&[]), true).model_shape(&[]),
            Vec::<usize>::new()
        );
        assert_eq!(
            tensor(&[1], Some(&[]), true).model_shape(&[1, 2, 3]),
            [1, 2, 3]
        );
    }

    #[test]
    fn a_scalar_of_the_model_is_a_one_in_requests() {
        let spec = TensorSpec {
            name: "x".into(),
            data_type: DataType::Fp32,
            dims: Vec::new(),
        };
        let tensor = TensorConfig::new("x", DataType::Fp32, &[1], None, Some(&spec), false);
        assert_eq!(tensor.shape, [1]);
        assert_eq!(tensor.model_shape(&[1]), Vec::<usize>::new());
        assert_eq!(tensor.request_shape(&[]), [1]);
    }
}
