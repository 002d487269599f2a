//! The OCR models of the demo and the tests, taken out of the pinned wheel and given short names.

use std::path::PathBuf;

use crate::error::Result;
use crate::paths::{self, Paths};
use crate::python::Venv;

/// (name here, name in the wheel): text detection, direction of a line, recognition of a line.
const MODELS: [(&str, &str); 3] = [
    ("det.onnx", "ch_PP-OCRv4_det_infer.onnx"),
    ("cls.onnx", "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    ("rec.onnx", "ch_PP-OCRv4_rec_infer.onnx"),
];

/// Returns a directory with `det.onnx`, `cls.onnx` and `rec.onnx`.
pub(crate) fn ensure(paths: &Paths, venv: &Venv) -> Result<PathBuf> {
    let wheel = venv
        .site_packages()?
        .join("rapidocr_onnxruntime")
        .join("models");
    let directory = paths.cache().join("ocr-models");
    for (name, in_wheel) in MODELS {
        paths::place(&wheel.join(in_wheel), &directory.join(name))?;
    }
    Ok(directory)
}
