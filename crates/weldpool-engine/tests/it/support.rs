//! What the tests share: the environment they need, models, and tensors from files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::{env, fs};

use weldpool::Allocator;
use weldpool_engine::onnxruntime::OnnxRuntime;
use weldpool_engine::{
    Arena, DataType, Engine, Instance, LoadOptions, Model, ModelSource, OutputRequest, Tensor,
};

/// A variable that the tests cannot do without.
fn required(name: &str, what: &str) -> PathBuf {
    match env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => {
            panic!("{name} is not set: it names {what}; run these tests with `cargo xtask test`")
        }
    }
}

/// A Python with onnxruntime, onnx and numpy.
pub(crate) fn python() -> PathBuf {
    required(
        "WELDPOOL_TEST_PYTHON",
        "a Python with onnxruntime, onnx and numpy",
    )
}

/// The library under test, and that it is one of known version.
pub(crate) fn library() -> PathBuf {
    required("ORT_DYLIB_PATH", "the onnxruntime shared library")
}

/// One of the three OCR models, by a part of its name.
pub(crate) fn ocr_model(part: &str) -> PathBuf {
    let folder = required(
        "WELDPOOL_OCR_MODELS",
        "the folder with the models of rapidocr-onnxruntime",
    );
    fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(part) && name.ends_with(".onnx")
        })
        .unwrap_or_else(|| panic!("no model *{part}*.onnx in {}", folder.display()))
}

pub(crate) fn engine() -> OnnxRuntime {
    OnnxRuntime::load(Some(&library())).unwrap()
}

/// The folder of the models that `examples/make_models.py` makes.
pub(crate) fn model(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("models");
            let script =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/make_models.py");
            let output = Command::new(python())
                .arg(script)
                .args(["--flat", "--edge-cases", "--output-dir"])
                .arg(&folder)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "make_models.py: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            folder
        })
        .join(format!("{name}.onnx"))
}

/// A pool of host memory without blocks of its own.
pub(crate) fn allocator() -> Allocator {
    Allocator::host().unwrap()
}

pub(crate) fn load(path: &Path, allocator: &Allocator, arena: Arena) -> Arc<dyn Model> {
    let mut options = LoadOptions::new(allocator.clone());
    options.arena = Some(arena);
    engine().load(ModelSource::Path(path), &options).unwrap()
}

/// Every arena, for tests that must hold with each of them.
pub(crate) const ARENAS: [Arena; 3] = [Arena::Pool, Arena::Engine, Arena::System];

/// Runs one model once and returns all its outputs.
pub(crate) fn run_all(
    model: &Arc<dyn Model>,
    instance: &mut dyn Instance,
    inputs: &[(&str, &Tensor)],
) -> weldpool_engine::Result<Vec<Tensor>> {
    let outputs: Vec<_> = model
        .outputs()
        .iter()
        .map(|spec| OutputRequest::new(&spec.name))
        .collect();
    instance.run(inputs, &outputs)
}

/// The host address of a tensor's memory.
pub(crate) fn address(tensor: &Tensor) -> *const u8 {
    tensor.data().unwrap().binding().host.unwrap().as_ptr()
}

pub(crate) fn fp32(allocator: &Allocator, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_values(allocator, DataType::Fp32, shape.to_vec(), values).unwrap()
}

/// A tensor of numbers from 0 to 1 in a repeatable order.
pub(crate) fn ramp(allocator: &Allocator, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|index: usize| (index * 7919 % 1000) as f32 / 1000.0)
        .collect();
    fp32(allocator, shape, &values)
}

/// One case for onnxruntime's Python API.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) model: PathBuf,
    /// `NAME:TYPE:DIMxDIM`, separated by commas.
    pub(crate) inputs: String,
}

/// A tensor of a case, as bytes on the wire.
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Runs the cases through onnxruntime's Python API; returns each one's inputs and outputs.
pub(crate) fn reference(group: &str, cases: &[Case]) -> Vec<(Vec<Recorded>, Vec<Recorded>)> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(group);
    let mut child = Command::new(python())
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference.py"))
        .arg(&folder)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = String::new();
    for case in cases {
        lines += &format!("{} {} {}\n", case.name, case.model.display(), case.inputs);
    }
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "reference.py: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    cases
        .iter()
        .map(|case| recorded(&folder.join(&case.name)))
        .collect()
}

fn recorded(folder: &Path) -> (Vec<Recorded>, Vec<Recorded>) {
    let manifest = fs::read_to_string(folder.join("manifest")).unwrap();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for line in manifest.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [side, name, data_type, shape, file] = fields[..] else {
            panic!("manifest line {line:?}");
        };
        let tensor = Recorded {
            name: name.to_owned(),
            data_type: data_type.parse().unwrap(),
            shape: shape
                .split('x')
                .filter(|size| !size.is_empty())
                .map(|size| size.parse().unwrap())
                .collect(),
            bytes: fs::read(folder.join(file)).unwrap(),
        };
        if side == "input" {
            inputs.push(tensor);
        } else {
            outputs.push(tensor);
        }
    }
    (inputs, outputs)
}
