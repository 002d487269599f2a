//! The models that all servers of the suite serve, each with one configuration but for the backend.

use std::fs;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Element, OneNode};

/// Names the folder of the OCR models.
const OCR_MODELS_VARIABLE: &str = "WELDPOOL_OCR_MODELS";

/// Threads of the engine in each execution, everywhere.
pub(super) const ENGINE_THREADS: usize = 1;

/// Name of the model that returns its input.
pub(super) const IDENTITY: &str = "identity";
/// Name of the one that computes: PaddleOCR's classifier of a text line's direction.
pub(super) const CLASSIFIER: &str = "cls";

/// Tensors of the classifier.
const CLASSIFIER_TENSORS: &str = concat!(
    "max_batch_size: 0\n",
    "input [ { name: \"x\" data_type: TYPE_FP32 dims: [ -1, 3, -1, -1 ] } ]\n",
    "output [ { name: \"save_infer_model/scale_0.tmp_1\" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]\n",
);

/// A model in the form that every server reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) name: &'static str,
    /// The ONNX file.
    pub(super) onnx: Vec<u8>,
}

impl Model {
    /// Both models.
    ///
    /// # Errors
    /// `Environment` when the variable with the folder of the OCR models is not set, `Io` when the model there
    /// cannot be read.
    pub(super) fn all() -> Result<[Self; 2]> {
        let folder = std::env::var_os(OCR_MODELS_VARIABLE)
            .map(PathBuf::from)
            .ok_or_else(|| {
                let message =
                    format!("{OCR_MODELS_VARIABLE} is not set; run `cargo xtask bench triton`");
                Error::new(ErrorKind::Environment, message)
            })?;
        let file = folder.join("cls.onnx");
        let classifier = fs::read(&file)
            .map_err(|error| Error::io(format!("reading {}", file.display()), error))?;
        Ok([
            Self {
                name: IDENTITY,
                onnx: identity().onnx(),
            },
            Self {
                name: CLASSIFIER,
                onnx: classifier,
            },
        ])
    }

    /// The configuration that serves it unbatched on `backend`.
    pub(super) fn config(&self, backend: &str, instances: usize) -> String {
        let threads = format!(
            "parameters {{ key: \"intra_op_thread_count\" value {{ string_value: \"{ENGINE_THREADS}\" }} }}\n"
        );
        let base = if self.name == IDENTITY {
            identity().config(backend)
        } else {
            format!("backend: \"{backend}\"\n{CLASSIFIER_TENSORS}")
        };
        base + &group(instances) + &threads
    }
}

/// The configuration of the identity model for the bare backend, which reads no parameters.
pub(super) fn bare_config(backend: &str, instances: usize) -> String {
    identity().config(backend) + &group(instances)
}

fn identity() -> OneNode {
    OneNode {
        operator: "Identity",
        element: Element::Fp32,
        inputs: 1,
    }
}

fn group(instances: usize) -> String {
    format!("instance_group [ {{ kind: KIND_CPU count: {instances} }} ]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_differ_by_the_backend_alone() {
        for name in [IDENTITY, CLASSIFIER] {
            let model = Model {
                name,
                onnx: Vec::new(),
            };
            let one = model.config("metal_mps", 2);
            assert!(one.contains("count: 2"), "{one}");
            assert!(one.contains("max_batch_size: 0"), "{one}");
            assert!(one.contains("intra_op_thread_count"), "{one}");
            assert_eq!(
                one.replace("metal_mps", "python"),
                model.config("python", 2)
            );
        }
    }
}
